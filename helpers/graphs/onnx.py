"""The network as an ONNX model of standard operators, float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.graphs import Graph
from helpers.weights import Embeddings, LayerNorm, Linear

OPSET = 20  # the first with Gelu; onnxruntime 1.17 and later run it


class OnnxGraph(Graph[str]):
    """Tensors are names of ONNX values, shaped [B, S, channels]."""

    qkv_by_head = False

    def __init__(self, num_heads: int, head_size: int, layer_norm_eps: float) -> None:
        self.num_heads, self.head_size, self.layer_norm_eps = num_heads, head_size, layer_norm_eps
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

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def _node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _shape(self, dims: Sequence[int]) -> str:
        return self._constant("shape_" + "_".join(map(str, dims)), dims, np.int64)

    def _norm(self, x: str, norm: LayerNorm, name: str) -> str:
        gamma, beta = self._constant(f"{name}.weight", norm.gamma), self._constant(f"{name}.bias", norm.beta)
        return self._node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=self.layer_norm_eps)

    def embeddings(self, weights: Embeddings, name: str) -> str:
        for entry in ("input_ids", "segment_ids", "input_mask"):
            self._inputs.append(helper.make_tensor_value_info(entry, TensorProto.INT32, ["batch", "sequence"]))

        word = self._constant(f"{name}.word_embeddings.weight", weights.word)
        token_type = self._constant(f"{name}.token_type_embeddings.weight", weights.token_type)
        position = self._constant(f"{name}.position_embeddings.weight", weights.position)
        length = self._node("Shape", ["input_ids"], "sequence_length", start=1, end=2)
        positions = self._node("Slice", [position, self._shape([0]), length], f"{name}.positions")
        words = self._node("Gather", [word, "input_ids"], f"{name}.words")
        segments = self._node("Gather", [token_type, "segment_ids"], f"{name}.segments")
        total = self._node("Add", [self._node("Add", [words, segments], f"{name}.typed"), positions], f"{name}.sum")

        # Added to the scores: 0 for a token, a number that no score outweighs for padding.
        mask = self._node("Cast", ["input_mask"], "mask.float", to=TensorProto.FLOAT)
        absent = self._node("Sub", [mask, self._constant("one", 1.0)], "mask.absent")
        bias = self._node("Mul", [absent, self._constant("mask.weight", 1e30)], "mask.flat")
        self._mask = self._node("Unsqueeze", [bias, self._shape([1, 2])], "mask.bias")
        return self._norm(total, weights.norm, f"{name}.LayerNorm")

    def linear(self, x: str, weights: Linear, name: str) -> str:
        weight = self._constant(f"{name}.weight", weights.weight.T)
        product = self._node("MatMul", [x, weight], f"{name}.product")
        return self._node("Add", [product, self._constant(f"{name}.bias", weights.bias)], name)

    def attention(self, qkv: str, name: str) -> str:
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
        masked = self._node("Add", [scores, self._mask], f"{name}.masked")
        probabilities = self._node("Softmax", [masked], f"{name}.probabilities", axis=-1)
        context = self._node("MatMul", [probabilities, value], f"{name}.context_by_head")
        joined = self._node("Transpose", [context], f"{name}.joined", perm=[0, 2, 1, 3])
        return self._node("Reshape", [joined, self._shape([0, 0, self.num_heads * self.head_size])], f"{name}.context")

    def skip_layer_norm(self, x: str, residual: str, norm: LayerNorm, name: str) -> str:
        return self._norm(self._node("Add", [x, residual], f"{name}.sum"), norm, name)

    def gelu(self, x: str, name: str) -> str:
        return self._node("Gelu", [x], name, approximate="tanh")

    def logits(self, x: str) -> None:
        self._node("Identity", [x], "logits")
        self._outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 2]))
