"""The network as an ONNX model of standard operators, float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.backends.base import Network
from helpers.graph import Graph
from helpers.layouts import Packed, Padded
from helpers.sites import Part, Site
from helpers.weights import Embeddings, LayerNorm, Linear

OPSET = 20  # the first with Gelu; onnxruntime 1.17 and later run it
GELU = {"erf": "none", "tanh": "tanh"}  # its attribute `approximate`

Sequences = TypeVar("Sequences")


class Value(NamedTuple):
    """An ONNX value whose last axis is the channels, and the range that it is rounded with where it is read in 8 bits."""

    name: str
    amax: float | None = None


class OnnxGraph(Graph[Value, Sequences]):
    """What the padded and the packed model share."""

    qkv_by_head = False

    def __init__(self, network: Network) -> None:
        self.num_heads, self.head_size = network.config.num_attention_heads, network.head_size
        self.config, self.precision, self.ranges = network.config, network.precision, network.ranges
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def model(self, metadata: dict[str, str]) -> bytes:
        """The finished model, serialized, with `metadata` in its properties."""
        graph = helper.make_graph(self._nodes, "bert_qa", self._inputs, self._outputs, list(self._initializers.values()))
        # IR version 9 came with opset 20; a higher one would shut out runtimes that know all that the graph uses.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def expose(self, sites: Sequence[Site]) -> None:
        """Makes tensors of the network outputs too."""
        for site in sites:  # probabilities are [B, N, S, S], everything else [B, S, channels]
            self._output(site.name, [None] * (4 if site.part is Part.PROBABILITIES else 3))

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def _node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _shape(self, dims: Sequence[int]) -> str:
        return self._constant("ints_" + "_".join(map(str, dims)), dims, np.int64)

    def _value(self, name: str, site: Site) -> Value:
        """What a site gives, with its range."""
        return Value(name, self.ranges.get(site.name))

    def _norm(self, x: str, norm: LayerNorm, site: Site) -> tuple[Value, Value]:
        """The normalised x, and the residual for the next addition, which is not rounded where it is the same."""
        name = site.name
        gamma, beta = self._constant(f"{name}.gamma", norm.gamma), self._constant(f"{name}.beta", norm.beta)
        self._node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=self.config.layer_norm_eps)
        return self._value(name, site), self._value(x, site.residual) if site.residual else Value(name)

    def _input(self, name: str, dims: Sequence[str]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, dims))

    def _output(self, name: str, dims: Sequence[str | int | None]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def _embed(self, weights: Embeddings, positions: str, site: Site) -> tuple[Value, Value]:
        """The normalised sum of embeddings; `positions` names the position embeddings, shaped to be added."""
        name = site.name
        word = self._constant(f"{name}.word_embeddings.weight", weights.word)
        token_type = self._constant(f"{name}.token_type_embeddings.weight", weights.token_type)
        words = self._node("Gather", [word, "input_ids"], f"{name}.words")
        segments = self._node("Gather", [token_type, "segment_ids"], f"{name}.segments")
        total = self._node("Add", [self._node("Add", [words, segments], f"{name}.typed"), positions], f"{name}.sum")
        return self._norm(total, weights.norm, site)

    def _mask_bias(self, present: str) -> str:
        """What is added to scores [B, N, S, S]: 0 for a token, a number that no score outweighs for padding."""
        mask = self._node("Cast", [present], "mask.float", to=TensorProto.FLOAT)
        absent = self._node("Sub", [mask, self._constant("one", 1.0)], "mask.absent")
        bias = self._node("Mul", [absent, self._constant("mask.weight", 1e30)], "mask.flat")
        return self._node("Unsqueeze", [bias, self._shape([1, 2])], "mask.bias")

    def linear(self, x: Value, weights: Linear, site: Site) -> Value:
        name = site.name
        if x.amax and site.part in self.precision.parts:
            read, weight = self._rounded(x), self._rounded_weight(weights.weight.T, name)
        else:
            read, weight = x.name, self._constant(f"{name}.weight", weights.weight.T)
        product = self._node("MatMul", [read, weight], f"{name}.product")
        return self._value(self._node("Add", [product, self._constant(f"{name}.bias", weights.bias)], name), site)

    def _rounded(self, x: Value) -> str:
        """x, rounded to 8 bits where it has a range. Unsigned about 128, which is the form that CPUs multiply fastest."""
        if not x.amax:
            return x.name
        scale = self._constant(f"{x.name}.scale", self.precision.scale(x.amax))
        zero = self._constant("zero_point", 128, np.uint8)
        stored = self._node("QuantizeLinear", [x.name, scale, zero], f"{x.name}.int8")
        return self._node("DequantizeLinear", [stored, scale, zero], f"{x.name}.rounded")

    def _rounded_weight(self, weight: np.ndarray, name: str) -> str:
        """A weight [in, out] rounded to int8, with a scale for each output."""
        scale = self.precision.scale(np.maximum(np.abs(weight).max(0), np.finfo(np.float32).tiny))
        stored = self._constant(f"{name}.weight", np.rint(weight / scale), np.int8)
        scales = self._constant(f"{name}.weight.scale", scale)
        zeros = self._constant(f"{name}.weight.zero_point", np.zeros(len(scale)), np.int8)
        return self._node("DequantizeLinear", [stored, scales, zeros], f"{name}.weight.rounded", axis=1)

    def _attend(self, qkv: str, mask: str, site: Site, context: str) -> str:
        """Self-attention over [B, S, 3·N·D], named `context`; `mask` is added to the scores."""
        name, probabilities = site.name, site.probabilities
        assert probabilities
        split = self._node("Reshape", [qkv, self._shape([0, 0, 3, self.num_heads, self.head_size])], f"{name}.heads")
        stacked = self._node("Transpose", [split], f"{name}.stacked", perm=[2, 0, 3, 1, 4])
        # One view each, [B, N, S, D]; the key comes transposed, [B, N, D, S].
        query, key, value = (
            self._node("Gather", [stacked, self._constant(f"index_{i}", i, np.int64)], f"{name}.{part}", axis=0)
            for i, part in enumerate(("query", "key", "value"))
        )
        key = self._node("Transpose", [key], f"{name}.key_transposed", perm=[0, 1, 3, 2])
        query = self._node("Mul", [query, self._constant("scale", 1 / math.sqrt(self.head_size))], f"{name}.query_scaled")
        scores = self._node("MatMul", [query, key], f"{name}.scores")
        masked = self._node("Add", [scores, mask], f"{name}.masked")
        softmax = self._value(self._node("Softmax", [masked], probabilities.name, axis=-1), probabilities)
        by_head = self._node("MatMul", [self._rounded(softmax), value], f"{name}.context_by_head")
        joined = self._node("Transpose", [by_head], f"{name}.joined", perm=[0, 2, 1, 3])
        return self._node("Reshape", [joined, self._shape([0, 0, self.num_heads * self.head_size])], context)

    def skip_layer_norm(self, x: Value, residual: Value, norm: LayerNorm, site: Site) -> tuple[Value, Value]:
        total = self._node("Add", [self._rounded(x), self._rounded(residual)], f"{site.name}.sum")
        return self._norm(total, norm, site)

    def activation(self, x: Value, site: Site) -> Value:
        return self._value(self._node("Gelu", [x.name], site.name, approximate=GELU[self.config.gelu]), site)


class PaddedOnnxGraph(OnnxGraph[str]):
    """Inputs [B, S], output logits [B, S, 2]; tensors are [B, S, channels]. Of the sequences attention needs the mask."""

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Value, Value, str]:
        name = site.name
        for entry in Padded.inputs:
            self._input(entry, ["batch", "sequence"])
        table = self._constant(f"{name}.position_embeddings.weight", weights.position)
        length = self._node("Shape", ["input_ids"], "sequence_length", start=1, end=2)
        mask = self._mask_bias("input_mask")
        positions = self._node("Slice", [table, self._shape([0]), length], f"{name}.positions")
        return *self._embed(weights, positions, site), mask

    def attention(self, qkv: Value, sequences: str, site: Site) -> Value:
        return self._value(self._attend(self._rounded(qkv), sequences, site, site.name), site)

    def logits(self, x: Value) -> None:
        self._node("Identity", [x.name], "logits")
        self._output("logits", ["batch", "sequence", 2])


class Unpacking(NamedTuple):
    """What attention needs to know of packed sequences: where each padded place [B, M] is read from, where each token [T]
    stands among the padded places, and the mask of these."""

    unpacked: str
    packed: str
    mask: str


class PackedOnnxGraph(OnnxGraph[Unpacking]):
    """Inputs of T tokens and B sequences end to end, output logits [2, T]; tensors are [T, channels].

    Only attention unpacks the sequences, to [B, M, channels] with M the longest, so nothing else computes on padding.
    """

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Value, Value, Unpacking]:
        name = site.name
        for entry, size in zip(Packed.inputs, ("tokens", "tokens", "bounds", "longest")):
            self._input(entry, [size])
        zero, one, last = (self._constant(f"index_{i}", i, np.int64) for i in (0, 1, -1))
        bounds = self._node("Cast", ["cu_seqlens"], "bounds", to=TensorProto.INT64)
        starts = self._node("Slice", [bounds, self._shape([0]), self._shape([-1])], "starts")
        ends = self._node("Slice", [bounds, self._shape([1]), self._shape([1 << 62])], "ends")
        tokens = self._node("Squeeze", [self._node("Shape", ["input_ids"], "tokens_1d")], "tokens")
        longest = self._node("Squeeze", [self._node("Shape", ["max_seqlen"], "longest_1d")], "longest")

        # Each token's sequence is the number of sequences that end at or before it; its position counts from its start.
        token = self._node("Range", [zero, tokens, one], "token")
        token_column = self._node("Unsqueeze", [token, last], "token_column")
        ended = self._node("GreaterOrEqual", [token_column, ends], "ended")
        ended_count = self._node("Cast", [ended], "ended_count", to=TensorProto.INT64)
        sequence = self._node("ReduceSum", [ended_count, self._shape([1])], "sequence", keepdims=0)
        position = self._node("Sub", [token, self._node("Gather", [starts, sequence], "start_of_token")], "position")

        places = self._node("Range", [zero, longest, one], "places")
        starts_column = self._node("Unsqueeze", [starts, last], "starts_column")
        lengths_column = self._node("Unsqueeze", [self._node("Sub", [ends, starts], "lengths"), last], "lengths_column")
        beyond = self._node("Add", [starts_column, places], "unpacked_unbounded")
        final = self._node("Sub", [tokens, one], "final_token")
        unpacked = self._node("Min", [beyond, final], "unpacked")
        packed = self._node("Add", [self._node("Mul", [sequence, longest], "row_start"), position], "packed")
        mask = self._mask_bias(self._node("Less", [places, lengths_column], "present"))

        table = self._constant(f"{name}.position_embeddings.weight", weights.position)
        positions = self._node("Gather", [table, position], f"{name}.positions")
        return *self._embed(weights, positions, site), Unpacking(unpacked, packed, mask)

    def attention(self, qkv: Value, sequences: Unpacking, site: Site) -> Value:
        name = site.name
        unpacked = self._node("Gather", [self._rounded(qkv), sequences.unpacked], f"{name}.unpacked")
        context = self._attend(unpacked, sequences.mask, site, f"{name}.padded")
        rows = self._node("Reshape", [context, self._shape([-1, self.num_heads * self.head_size])], f"{name}.rows")
        return self._value(self._node("Gather", [rows, sequences.packed], name), site)

    def logits(self, x: Value) -> None:
        self._node("Transpose", [x.name], "logits", perm=[1, 0])
        self._output("logits", [2, "tokens"])
