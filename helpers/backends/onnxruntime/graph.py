"""The network as an ONNX model of standard operators, float32."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper

from helpers.backends.base import Network
from helpers.backends.onnxruntime.model import Model
from helpers.graph import OpenGraph
from helpers.layouts import Packed, Padded
from helpers.sites import Part, Site
from helpers.weights import Embeddings, LayerNorm, Linear


class Value(NamedTuple):
    """An ONNX value whose last axis is the channels, and the range that it is rounded with where it is read in 8 bits."""

    name: str
    amax: float | None = None


class Places(NamedTuple):
    """Where a batch's sequences lie.

    `mask` is added to attention's scores [B, N, S, S], S the longest. In a packed batch `unpacked` tells where each padded
    place [B, S] is read from, and `packed` where each token [T] stands among the padded places.
    """

    mask: str
    unpacked: str = ""
    packed: str = ""


class OnnxGraph(Model, OpenGraph[Value, Places]):
    """What the padded and the packed model share."""

    qkv_by_head = False
    axes: int  # of a tensor before its channels

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.num_heads, self.head_size = network.config.num_attention_heads, network.head_size
        self.config, self.precision, self.ranges = network.config, network.precision, network.ranges

    def expose(self, sites: Sequence[Site]) -> None:
        """Makes tensors of the network outputs too."""
        for site in sites:  # probabilities are [B, N, S, S], everything else [B, S, channels]
            self._output(site.name, [None] * (4 if site.part is Part.PROBABILITIES else 3))

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

    def _embed(self, weights: Embeddings, site: Site) -> tuple[Value, Value]:
        """The normalised sum of embeddings."""
        name = site.name
        word = self._constant(f"{name}.word_embeddings.weight", weights.word)
        total = self._node("Gather", [word, "input_ids"], f"{name}.words")
        if weights.token_type is not None:
            token_type = self._constant(f"{name}.token_type_embeddings.weight", weights.token_type)
            segments = self._node("Gather", [token_type, "segment_ids"], f"{name}.segments")
            total = self._node("Add", [total, segments], f"{name}.typed")
        if weights.position is not None:
            table = self._constant(f"{name}.position_embeddings.weight", weights.position)
            total = self._node("Add", [total, self._positions(table, f"{name}.positions")], f"{name}.sum")
        return self._norm(total, weights.norm, site)

    @abstractmethod
    def _positions(self, table: str, name: str) -> str:
        """The rows of a table [P, …] that tokens have by their positions, shaped as the batch is."""

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

    def _attend(self, qkv: str, places: Places, site: Site, context: str, relative: Relative | None = None) -> str:
        """Self-attention over [B, S, 3·N·D], named `context`."""
        name, probabilities = site.name, site.probabilities
        assert probabilities
        split = self._node("Reshape", [qkv, self._shape([0, 0, 3, self.num_heads, self.head_size])], f"{name}.heads")
        stacked = self._node("Transpose", [split], f"{name}.stacked", perm=[2, 0, 3, 1, 4])
        # One view each, [B, N, S, D]; the key comes transposed, [B, N, D, S].
        query, key, value = (
            self._node("Gather", [stacked, self._constant(f"index_{i}", i, np.int64)], f"{name}.{part}", axis=0)
            for i, part in enumerate(("query", "key", "value"))
        )
        turned = self._node("Transpose", [key], f"{name}.key_transposed", perm=[0, 1, 3, 2])
        scale = self._constant("scale", 1 / math.sqrt(self.head_size))
        query = self._node("Mul", [query, scale], f"{name}.query_scaled")
        scores = self._node("MatMul", [query, turned], f"{name}.scores")
        if relative:
            scores = self._add_relative(scores, query, key, relative, name)
        masked = self._node("Add", [scores, places.mask], f"{name}.masked")
        softmax = self._value(self._node("Softmax", [masked], probabilities.name, axis=-1), probabilities)
        by_head = self._node("MatMul", [self._rounded(softmax), value], f"{name}.context_by_head")
        joined = self._node("Transpose", [by_head], f"{name}.joined", perm=[0, 2, 1, 3])
        return self._node("Reshape", [joined, self._shape([0, 0, self.num_heads * self.head_size])], context)

    def residual(self, x: Value) -> Value:
        return Value(x.name)

    def skip_layer_norm(self, x: Value, residual: Value, norm: LayerNorm, site: Site) -> tuple[Value, Value]:
        total = self._node("Add", [self._rounded(x), self._rounded(residual)], f"{site.name}.sum")
        return self._norm(total, norm, site)

    def activation(self, x: Value, form: str, site: Site) -> Value:
        return self._value(self._activated(x.name, form, site.name), site)

    def _activated(self, x: str, form: str, name: str) -> str:
        if form in ("erf", "tanh"):
            return self._node("Gelu", [x], name, approximate={"erf": "none", "tanh": "tanh"}[form])
        if form in ("silu", "quick_gelu"):
            steep = x if form == "silu" else self._node("Mul", [x, self._constant("quick_gelu", 1.702)], f"{name}.steep")
            return self._node("Mul", [x, self._node("Sigmoid", [steep], f"{name}.gate")], name)
        return self._node({"relu": "Relu", "hyperbolic": "Tanh"}[form], [x], name)

    def gated(self, x: Value, form: str, site: Site) -> Value:
        name, halves = site.name, [f"{site.name}.activated", f"{site.name}.gate"]
        self._nodes.append(helper.make_node("Split", [x.name], halves, f"{name}.split", axis=-1, num_outputs=2))
        return self._value(self._node("Mul", [self._activated(halves[0], form, f"{name}.active"), halves[1]], name), site)

    def layer_norm(self, x: Value, norm: LayerNorm, site: Site) -> Value:
        return self._norm(x.name, norm, site)[0]

    def _places(self) -> str:
        """0 … S − 1, S the longest sequence."""
        zero, one = (self._constant(f"index_{i}", i, np.int64) for i in (0, 1))
        return self._once("Range", [zero, self._longest(), one], "places")

    @abstractmethod
    def _longest(self) -> str:
        """S, the length of the longest sequence."""

    @abstractmethod
    def _position(self) -> str:
        """Each token's position in its sequence, [S] or [T]."""

    def _distances(self) -> str:
        """From query to key, [S, S]."""
        keys, last = self._places(), self._constant("index_-1", -1, np.int64)
        return self._once("Sub", [keys, self._once("Unsqueeze", [keys, last], "places_column")], "distances")

    def _by_distance(self, name: str, table: np.ndarray, dtype: type = np.float32) -> str:
        """What a table [..., 2P − 1] has for each query and key, [..., S, S]."""
        first = self._constant("first_distance", table.shape[-1] // 2, np.int64)
        index = self._once("Add", [self._distances(), first], "distance_index")
        return self._node("Gather", [self._constant(f"{name}.table", table, dtype), index], name, axis=table.ndim - 1)

    def biased(self, sequences: Places, bias: np.ndarray) -> Places:
        by_head = self._by_distance("relative_bias", bias)
        return sequences._replace(mask=self._node("Add", [sequences.mask, by_head], "mask.relative"))

    def windowed(self, sequences: Places, reach: int) -> Places:
        beyond = self._node(
            "Greater", [self._node("Abs", [self._distances()], "apart"), self._constant("reach", reach, np.int64)], "beyond"
        )
        far = self._node("Cast", [beyond], "beyond.float", to=TensorProto.FLOAT)
        bias = self._node("Mul", [far, self._constant("beyond.weight", -1e30)], "beyond.bias")
        return sequences._replace(mask=self._node("Add", [sequences.mask, bias], "mask.window"))

    def rotated(self, qkv: Value, frequencies: np.ndarray, sequences: Places, site: Site) -> Value:
        """x · cos + (−x₂, x₁) · sin, x₁ and x₂ the halves of a head's channels."""
        name, key, width = site.name, f"rotary_{zlib.crc32(frequencies.tobytes()):08x}", self.num_heads * self.head_size
        both = np.concatenate([frequencies, frequencies])
        position = self._once("Cast", [self._position()], "position.float", to=TensorProto.FLOAT)
        column = self._once("Unsqueeze", [position, self._shape([1, 2])], "position.column")
        angle = self._once("Mul", [column, self._constant(f"{key}.frequencies", both)], f"{key}.angle")  # [S or T, 1, D]
        cos, sin = self._once("Cos", [angle], f"{key}.cos"), self._once("Sin", [angle], f"{key}.sin")
        signs = np.repeat(np.array([-1, 1], np.float32), self.head_size // 2)
        sin = self._once("Mul", [sin, self._constant("rotary.signs", signs)], f"{key}.signed")
        parts = [f"{name}.turning", f"{name}.still"]
        sizes = self._shape([2 * width, width])
        self._nodes.append(helper.make_node("Split", [qkv.name, sizes], parts, f"{name}.parts", axis=-1))
        lead = [0] * self.axes
        heads = self._node(
            "Reshape", [parts[0], self._shape([*lead, 2 * self.num_heads, self.head_size])], f"{name}.turning_heads"
        )
        halves = [f"{name}.first_half", f"{name}.second_half"]
        self._nodes.append(helper.make_node("Split", [heads], halves, f"{name}.halves", axis=-1, num_outputs=2))
        swapped = self._node("Concat", halves[::-1], f"{name}.swapped", axis=-1)
        straight, across = (
            self._node("Mul", [heads, cos], f"{name}.straight"),
            self._node("Mul", [swapped, sin], f"{name}.across"),
        )
        turned = self._node(
            "Reshape",
            [self._node("Add", [straight, across], f"{name}.turned_heads"), self._shape([*lead, 2 * width])],
            f"{name}.turned",
        )
        return Value(self._node("Concat", [turned, parts[1]], f"{name}.rotated", axis=-1))

    def _add_relative(self, scores: str, query: str, key: str, relative: Relative, name: str) -> str:
        """Scores [B, N, S, S] and those of queries with distances' keys, and of keys with distances' queries."""
        shape = self._node("Shape", [scores], f"{name}.scores_shape")
        for kind, x, table, rows in (
            ("keys", query, relative.keys, relative.rows),
            ("queries", key, relative.queries, relative.rows_by_key),
        ):
            if table is None:
                continue
            scale = 1.0 if kind == "keys" else 1 / math.sqrt(self.head_size)  # queries of the text are scaled already
            constant = self._constant(f"{name}.relative_{kind}", table.transpose(0, 2, 1) * np.float32(scale))
            every = self._node("MatMul", [x, constant], f"{name}.relative_{kind}.every")  # with every row, [B, N, S, R]
            index = self._node("Expand", [rows, shape], f"{name}.relative_{kind}.index")
            own = self._node("GatherElements", [every, index], f"{name}.relative_{kind}.own", axis=3)
            if kind == "queries":
                own = self._node("Transpose", [own], f"{name}.relative_{kind}.turned", perm=[0, 1, 3, 2])
            scores = self._node("Add", [scores, own], f"{name}.with_relative_{kind}")
        return scores

    def _relative(self, keys: np.ndarray | None, queries: np.ndarray | None, rows: np.ndarray) -> Relative:
        if "relative_rows.by_key" not in self._names:
            by_query = self._by_distance("relative_rows", rows, np.int64)
            self._names["relative_rows.by_key"] = self._node("Transpose", [by_query], "relative_rows.by_key", perm=[1, 0])
        return Relative(keys, queries, "relative_rows", "relative_rows.by_key")

    def mean(self, x: Value, sequences: Places, site: Site) -> Value:
        name = f"{site.name}.mean"
        column = self._node("Unsqueeze", ["mask.float", self._constant("index_-1", -1, np.int64)], f"{name}.mask")  # [B, S, 1]
        kept = self._node("Mul", [self._by_sequence(x.name, sequences, f"{name}.padded"), column], f"{name}.kept")
        total, count = (self._node("ReduceSum", [each, self._shape([1])], f"{each}.sum", keepdims=0) for each in (kept, column))
        return Value(self._node("Div", [total, count], name))

    @abstractmethod
    def _by_sequence(self, x: str, sequences: Places, name: str) -> str:
        """x as [B, S, channels]."""


class Relative(NamedTuple):
    """What disentangled attention reads: keys and queries of distances [N, R, D], and which row each query and key has."""

    keys: np.ndarray | None
    queries: np.ndarray | None
    rows: str
    rows_by_key: str


class PaddedOnnxGraph(OnnxGraph):
    """Inputs [B, S], output logits [B, S, W]; tensors are [B, S, channels]."""

    axes = 2

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Value, Value, Places]:
        for entry in Padded.inputs:
            self._input(entry, ["batch", "sequence"])
        self._node("Shape", ["input_ids"], "sequence_length", start=1, end=2)
        mask = self._mask_bias("input_mask")
        return *self._embed(weights, site), Places(mask)

    def _positions(self, table: str, name: str) -> str:
        return self._node("Slice", [table, self._shape([0]), "sequence_length"], name)

    def _longest(self) -> str:
        return self._once("Squeeze", ["sequence_length"], "longest")

    def _position(self) -> str:
        return self._places()

    def _by_sequence(self, x: str, sequences: Places, name: str) -> str:
        return x

    def attention(self, qkv: Value, sequences: Places, site: Site) -> Value:
        return self._value(self._attend(self._rounded(qkv), sequences, site, site.name), site)

    def disentangled_attention(
        self, qkv: Value, sequences: Places, keys: np.ndarray | None, queries: np.ndarray | None, rows: np.ndarray, site: Site
    ) -> Value:
        relative = self._relative(keys, queries, rows)
        return self._value(self._attend(self._rounded(qkv), sequences, site, site.name, relative), site)

    def first(self, x: Value, sequences: Places, site: Site) -> Value:
        return Value(self._node("Gather", [x.name, self._constant("index_0", 0, np.int64)], f"{site.name}.first", axis=1))

    def outputs(self, x: Value, width: int, pooled: bool) -> None:
        self._node("Identity", [x.name], "logits")
        self._output("logits", ["batch", width] if pooled else ["batch", "sequence", width])


class PackedOnnxGraph(OnnxGraph):
    """Inputs of T tokens and B sequences end to end, output logits [W, T]; tensors are [T, channels].

    Only attention unpacks the sequences, to [B, S, channels] with S the longest, so nothing else computes on padding.
    """

    axes = 1

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Value, Value, Places]:
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

        places = self._places()
        starts_column = self._node("Unsqueeze", [starts, last], "starts_column")
        lengths_column = self._node("Unsqueeze", [self._node("Sub", [ends, starts], "lengths"), last], "lengths_column")
        beyond = self._node("Add", [starts_column, places], "unpacked_unbounded")
        final = self._node("Sub", [tokens, one], "final_token")
        unpacked = self._node("Min", [beyond, final], "unpacked")
        packed = self._node("Add", [self._node("Mul", [sequence, longest], "row_start"), position], "packed")
        mask = self._mask_bias(self._node("Less", [places, lengths_column], "present"))
        return *self._embed(weights, site), Places(mask, unpacked, packed)

    def _positions(self, table: str, name: str) -> str:
        return self._node("Gather", [table, "position"], name)

    def _longest(self) -> str:
        return "longest"

    def _position(self) -> str:
        return "position"

    def _by_sequence(self, x: str, sequences: Places, name: str) -> str:
        return self._node("Gather", [x, sequences.unpacked], name)

    def _packed(self, context: str, sequences: Places, site: Site) -> Value:
        rows = self._node("Reshape", [context, self._shape([-1, self.num_heads * self.head_size])], f"{site.name}.rows")
        return self._value(self._node("Gather", [rows, sequences.packed], site.name), site)

    def attention(self, qkv: Value, sequences: Places, site: Site) -> Value:
        unpacked = self._by_sequence(self._rounded(qkv), sequences, f"{site.name}.unpacked")
        return self._packed(self._attend(unpacked, sequences, site, f"{site.name}.padded"), sequences, site)

    def disentangled_attention(
        self, qkv: Value, sequences: Places, keys: np.ndarray | None, queries: np.ndarray | None, rows: np.ndarray, site: Site
    ) -> Value:
        unpacked = self._by_sequence(self._rounded(qkv), sequences, f"{site.name}.unpacked")
        relative = self._relative(keys, queries, rows)
        return self._packed(self._attend(unpacked, sequences, site, f"{site.name}.padded", relative), sequences, site)

    def first(self, x: Value, sequences: Places, site: Site) -> Value:
        return Value(self._node("Gather", [x.name, "starts"], f"{site.name}.first", axis=0))

    def outputs(self, x: Value, width: int, pooled: bool) -> None:
        if pooled:
            self._node("Identity", [x.name], "logits")
        else:
            self._node("Transpose", [x.name], "logits", perm=[1, 0])
        self._output("logits", ["batch", width] if pooled else [width, "tokens"])
