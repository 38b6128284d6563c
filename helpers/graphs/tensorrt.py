"""The network as TensorRT layers and NVIDIA's BERT plugins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers import trt as tensorrt_
from helpers.graphs import Graph, plugins
from helpers.sessions.layouts import Packed, Padded
from helpers.weights import Embeddings, LayerNorm, Linear

FLOAT32, FLOAT16, INT8 = 0, 1, 2  # DataType ids in the plugins' fields

FUSED_HEAD_SIZE = 64
FUSED_LENGTHS = (64, 96, 128, 384, 512)  # sequence lengths with a fused float16 attention kernel, padded network


class TensorRTGraph(Graph[Any]):
    """What the padded and the packed network share. Tensors have two trailing axes of 1, which a projection wants.

    Args:
        fp16: float16 plugins; else float32.
    """

    qkv_by_head = True
    skip_layer_norm_version: str

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

    def _embed(self, weights: Embeddings, version: str, inputs: Sequence[Any], fields: dict[str, int], name: str) -> Any:
        """The embedding plugin; keeps its second output, the mask in the form that the attention plugin reads."""
        all_fields: dict[str, Any] = {
            "bert_embeddings_layernorm_beta": weights.norm.beta,
            "bert_embeddings_layernorm_gamma": weights.norm.gamma,
            "bert_embeddings_word_embeddings": weights.word,
            "bert_embeddings_token_type_embeddings": weights.token_type,
            "bert_embeddings_position_embeddings": weights.position,
            "output_fp16": int(self.type_id != FLOAT32),
            **fields,
        }
        layer = plugins.add(self.network, "CustomEmbLayerNormPluginDynamic", version, all_fields, inputs, name)
        self._mask = layer.get_output(1)
        return layer.get_output(0)

    def _attend(self, version: str, inputs: Sequence[Any], fields: dict[str, int], name: str) -> Any:
        """The attention plugin over [qkv, mask, …]."""
        fields = {
            "type_id": self.type_id,
            "hidden_size": self.num_heads * self.head_size,
            "num_heads": self.num_heads,
            "has_mask": 1,
            **fields,
        }
        layer = plugins.add(self.network, "CustomQKVToContextPluginDynamic", version, fields, inputs, name)
        return layer.get_output(0)

    def linear(self, x: Any, weights: Linear, name: str) -> Any:
        layer = self.network.add_fully_connected(
            x, weights.weight.shape[0], self._weights(weights.weight), self._weights(weights.bias)
        )
        layer.name = name
        return layer.get_output(0)

    def skip_layer_norm(self, x: Any, residual: Any, norm: LayerNorm, name: str) -> Any:
        fields = {"ld": len(norm.gamma), "type_id": self.type_id, "beta": norm.beta, "gamma": norm.gamma}
        version = self.skip_layer_norm_version
        layer = plugins.add(self.network, "CustomSkipLayerNormPluginDynamic", version, fields, [x, residual], name)
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

    def _output(self, x: Any, order: tuple[int, ...]) -> None:
        output = self._transposed(x, order, "logits")
        output.name = "logits"
        self.network.mark_output(output)
        output.dtype = self.trt.float32


class PaddedGraph(TensorRTGraph):
    """Tensors are [S, B, channels, 1, 1]; each sequence of a batch is padded to S."""

    skip_layer_norm_version = "1"

    def embeddings(self, weights: Embeddings, name: str) -> Any:
        inputs = [
            self._transposed(self.network.add_input(entry, self.trt.int32, (-1, -1)), (1, 0), f"{entry}_by_token")
            for entry in Padded.inputs
        ]
        return self._embed(weights, "1", inputs, {"mha_type_id": self.type_id}, name)

    def attention(self, qkv: Any, name: str) -> Any:
        return self._attend("1", [qkv, self._mask], {}, name)

    def logits(self, x: Any) -> None:
        self._output(x, (1, 0, 2, 3, 4))


class PackedGraph(TensorRTGraph):
    """Tensors are [T, channels, 1, 1]; the sequences of a batch lie end to end. Not in float32."""

    skip_layer_norm_version = "2"

    def embeddings(self, weights: Embeddings, name: str) -> Any:
        inputs = [self.network.add_input(entry, self.trt.int32, (-1,)) for entry in Packed.inputs]
        self._bounds = inputs[2:]  # cu_seqlens, max_seqlen
        return self._embed(weights, "2", inputs, {}, name)

    def attention(self, qkv: Any, name: str) -> Any:
        return self._attend("2", [qkv, self._mask, *self._bounds], {"var_seqlen": 1}, name)

    def logits(self, x: Any) -> None:
        self._output(x, (1, 0, 2, 3))
