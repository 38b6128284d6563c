"""The network as TensorRT layers and NVIDIA's BERT plugins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from helpers import trt as tensorrt_
from helpers.graphs import Graph, plugins
from helpers.weights import Embeddings, LayerNorm, Linear

FLOAT32, FLOAT16, INT8 = 0, 1, 2  # DataType ids in the plugins' fields

FUSED_HEAD_SIZE = 64
FUSED_LENGTHS = (64, 96, 128, 384, 512)  # sequence lengths with a fused float16 attention kernel, padded network


class PaddedGraph(Graph[Any]):
    """Tensors are [S, B, channels, 1, 1]; each sequence of a batch is padded to S."""

    qkv_by_head = True

    def __init__(self, network: Any, num_heads: int, head_size: int, fp16: bool) -> None:
        self.trt = tensorrt_.load()
        self.network, self.num_heads, self.head_size = network, num_heads, head_size
        self.type_id = FLOAT16 if fp16 else FLOAT32
        self._kept: list[np.ndarray] = []  # TensorRT reads weights when it builds, not when they are added

    def _weights(self, array: np.ndarray) -> Any:
        self._kept.append(np.ascontiguousarray(array, np.float32))
        return self.trt.Weights(self._kept[-1])

    def _transposed(self, x: Any, order: tuple[int, ...], name: str) -> Any:
        layer = self.network.add_shuffle(x)
        layer.first_transpose, layer.name = order, name
        return layer.get_output(0)

    def embeddings(self, weights: Embeddings, name: str) -> Any:
        inputs = [
            self._transposed(self.network.add_input(entry, self.trt.int32, (-1, -1)), (1, 0), f"{entry}_by_token")
            for entry in ("input_ids", "segment_ids", "input_mask")
        ]
        fields = {
            "bert_embeddings_layernorm_beta": weights.norm.beta,
            "bert_embeddings_layernorm_gamma": weights.norm.gamma,
            "bert_embeddings_word_embeddings": weights.word,
            "bert_embeddings_token_type_embeddings": weights.token_type,
            "bert_embeddings_position_embeddings": weights.position,
            "output_fp16": int(self.type_id != FLOAT32),
            "mha_type_id": self.type_id,
        }
        layer = plugins.add(self.network, "CustomEmbLayerNormPluginDynamic", "1", fields, inputs, name)
        self._mask = layer.get_output(1)
        return layer.get_output(0)

    def linear(self, x: Any, weights: Linear, name: str) -> Any:
        layer = self.network.add_fully_connected(
            x, weights.weight.shape[0], self._weights(weights.weight), self._weights(weights.bias)
        )
        layer.name = name
        return layer.get_output(0)

    def attention(self, qkv: Any, name: str) -> Any:
        fields = {
            "type_id": self.type_id,
            "hidden_size": self.num_heads * self.head_size,
            "num_heads": self.num_heads,
            "has_mask": 1,
        }
        layer = plugins.add(self.network, "CustomQKVToContextPluginDynamic", "1", fields, [qkv, self._mask], name)
        return layer.get_output(0)

    def skip_layer_norm(self, x: Any, residual: Any, norm: LayerNorm, name: str) -> Any:
        fields = {"ld": len(norm.gamma), "type_id": self.type_id, "beta": norm.beta, "gamma": norm.gamma}
        layer = plugins.add(self.network, "CustomSkipLayerNormPluginDynamic", "1", fields, [x, residual], name)
        return layer.get_output(0)

    def gelu(self, x: Any, name: str) -> Any:
        """x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), a chain that TensorRT fuses into the projection before it."""
        op = self.trt.ElementWiseOperation

        def constant(value: float) -> Any:
            return self.network.add_constant((1,) * len(x.shape), self._weights(np.array([value]))).get_output(0)

        def elementwise(a: Any, b: Any, operation: Any) -> Any:
            return self.network.add_elementwise(a, b, operation).get_output(0)

        cubed = elementwise(x, constant(3.0), op.POW)
        inner = elementwise(x, elementwise(cubed, constant(0.044715), op.PROD), op.SUM)
        scaled = elementwise(inner, constant(math.sqrt(2 / math.pi)), op.PROD)
        tanh = self.network.add_activation(scaled, self.trt.ActivationType.TANH).get_output(0)
        gate = elementwise(elementwise(tanh, constant(1.0), op.SUM), constant(0.5), op.PROD)
        layer = self.network.add_elementwise(x, gate, op.PROD)
        layer.name = name
        return layer.get_output(0)

    def logits(self, x: Any) -> None:
        output = self._transposed(x, (1, 0, 2, 3, 4), "logits")
        output.name = "logits"
        self.network.mark_output(output)
        output.dtype = self.trt.float32
