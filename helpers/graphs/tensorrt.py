"""The network as TensorRT layers and NVIDIA's BERT plugins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers import trt as tensorrt_
from helpers.errors import InputError
from helpers.graphs import Graph, Int8, plugins
from helpers.sessions.layouts import Packed, Padded
from helpers.weights import Embeddings, LayerNorm, Linear

FLOAT32, FLOAT16, INT8 = 0, 1, 2  # DataType ids in the plugins' fields


class TensorRTGraph(Graph[Any]):
    """What the padded and the packed network share. Tensors have two trailing axes of 1, which a projection wants.

    Layers name their types: for what is left open the builder times every type, in every layout (docs/benchmarks.md).

    Args:
        fp16: what is not int8 is float16; else float32.
        int8: what is int8, and the ranges of tensors; TensorRT finds the scales of weights itself.
    """

    qkv_by_head = True
    channels_first = False  # whether tensors are [1, channels, T, 1], which a fully connected layer would flatten
    skip_layer_norm_version: str

    def __init__(
        self, network: Any, num_heads: int, head_size: int, fp16: bool, int8: Int8 | None = None, megatron: bool = False
    ) -> None:
        self.trt = tensorrt_.load()
        self.network, self.num_heads, self.head_size, self.int8, self.megatron = network, num_heads, head_size, int8, megatron
        self.base = FLOAT16 if fp16 else FLOAT32
        self.attention_type = INT8 if int8 and int8.attention else self.base
        self.norm_type = INT8 if int8 and int8.skip_layer_norm else self.base
        self.dtypes = {FLOAT32: self.trt.float32, FLOAT16: self.trt.float16, INT8: self.trt.int8}
        self._kept: list[np.ndarray] = []  # TensorRT reads weights when it builds, not when they are added

    def _named(self, tensor: Any, name: str) -> Any:
        """Gives a tensor the network's name for it, and its range where int8 has one."""
        tensor.name = name
        if self.int8 and name in self.int8.ranges:
            tensor.dynamic_range = (-self.int8.ranges[name], self.int8.ranges[name])
        return tensor

    def _weights(self, array: np.ndarray, dtype: type = np.float32) -> Any:
        self._kept.append(np.ascontiguousarray(array, dtype))
        return self.trt.Weights(self._kept[-1])

    def _kernel(self, array: np.ndarray, in_int8: bool, name: str) -> Any:
        """A projection's matrix in the type that it is computed in: TensorRT would convert it once a kernel that it tries.

        For int8, whose scales it finds itself, it wants float32.
        """
        if in_int8 or self.base == FLOAT32:
            return self._weights(array)
        largest = np.abs(array).max()
        if largest > np.finfo(np.float16).max:
            raise InputError(f"{name}.weight holds {largest:.6g}, which float16 cannot: build without --fp16")
        return self._weights(array, np.float16)

    def _transposed(self, x: Any, order: tuple[int, ...], name: str, dtype: Any = None) -> Any:
        layer = self.network.add_shuffle(x)
        layer.first_transpose, layer.name = order, name
        if dtype is not None:
            layer.precision = dtype
            layer.set_output_type(0, dtype)
        return layer.get_output(0)

    def _embed(self, weights: Embeddings, version: str, inputs: Sequence[Any], fields: dict[str, int], name: str) -> Any:
        """The embedding plugin; keeps its second output, the mask in the form that the attention plugin reads."""
        all_fields: dict[str, Any] = {
            "bert_embeddings_layernorm_beta": weights.norm.beta,
            "bert_embeddings_layernorm_gamma": weights.norm.gamma,
            "bert_embeddings_word_embeddings": weights.word,
            "bert_embeddings_token_type_embeddings": weights.token_type,
            "bert_embeddings_position_embeddings": weights.position,
            "output_fp16": int(self.base == FLOAT16),
            **fields,
        }
        layer = plugins.add(self.network, "CustomEmbLayerNormPluginDynamic", version, all_fields, inputs, name)
        self._mask = layer.get_output(1)
        return layer

    def _attend(self, version: str, inputs: Sequence[Any], fields: dict[str, int], name: str) -> Any:
        """The attention plugin over [qkv, mask, …]."""
        all_fields: dict[str, Any] = {
            "type_id": self.attention_type,
            "hidden_size": self.num_heads * self.head_size,
            "num_heads": self.num_heads,
            "has_mask": 1,
            **fields,
        }
        if self.int8 and self.int8.attention:
            all_fields["dq_probs"] = self.int8.ranges[f"{name}.probabilities"] / 127
        layer = plugins.add(self.network, "CustomQKVToContextPluginDynamic", version, all_fields, inputs, name)
        return self._named(layer.get_output(0), name)

    def linear(self, x: Any, weights: Linear, name: str) -> Any:
        second = name.endswith(".output.dense") and not name.endswith(".attention.output.dense")
        encoder = name.startswith("bert.encoder.")
        in_int8 = self.int8 is not None and encoder and not (second and self.int8.output_gemm)
        width, kernel, bias = len(weights.bias), self._kernel(weights.weight, in_int8, name), self._weights(weights.bias)
        if in_int8 or self.channels_first:
            layer = self.network.add_convolution_nd(x, width, (1, 1), kernel, bias)
        else:
            layer = self.network.add_fully_connected(x, width, kernel, bias)
        layer.precision = self.trt.int8 if in_int8 else self.dtypes[self.base]
        layer.name = name
        if not name.endswith(".intermediate.dense"):  # whose output is inside of what it is fused to, GELU
            reader = self.attention_type if name.endswith(".qkv") else self.norm_type
            layer.set_output_type(0, self.dtypes[reader if in_int8 else self.base])
        return self._named(layer.get_output(0), name)

    def skip_layer_norm(self, x: Any, residual: Any, norm: LayerNorm, name: str) -> tuple[Any, Any]:
        fields = {"beta": norm.beta, "gamma": norm.gamma, **self._norm_fields(len(norm.gamma))}
        # The last sum of a Megatron model is nobody's residual, so it has no range and is not given out.
        gives_sum = self.int8 is not None and f"{name}.sum" in self.int8.ranges
        version = "4" if gives_sum else self.skip_layer_norm_version
        layer = plugins.add(self.network, "CustomSkipLayerNormPluginDynamic", version, fields, [x, residual], name)
        x = self._named(layer.get_output(0), name)
        return x, self._named(layer.get_output(1), f"{name}.sum") if gives_sum else x

    def _norm_fields(self, width: int) -> dict[str, int]:
        return {"ld": width, "type_id": self.norm_type}

    def gelu(self, x: Any, name: str) -> Any:
        """x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), a chain that TensorRT fuses into the projection before it.

        Under int8 the chain keeps float32, of which only the fused result is rounded.
        """
        op = self.trt.ElementWiseOperation

        def precise(layer: Any) -> Any:
            if self.int8:
                layer.precision = self.trt.float32
            return layer.get_output(0)

        def constant(value: float) -> Any:
            return self.network.add_constant((1,) * len(x.shape), self._weights(np.array([value]))).get_output(0)

        def elementwise(a: Any, b: Any, operation: Any) -> Any:
            return precise(self.network.add_elementwise(a, b, operation))

        cubed = elementwise(x, constant(3.0), op.POW)
        inner = elementwise(x, elementwise(cubed, constant(0.044715), op.PROD), op.SUM)
        scaled = elementwise(inner, constant(math.sqrt(2 / math.pi)), op.PROD)
        tanh = precise(self.network.add_activation(scaled, self.trt.ActivationType.TANH))
        gate = elementwise(elementwise(tanh, constant(1.0), op.SUM), constant(0.5), op.PROD)
        layer = self.network.add_elementwise(x, gate, op.PROD)
        layer.name = name
        # With -g float16 is what the next projection reads and no int8 kernel with GELU writes: the type stays open.
        if not self.int8:
            layer.set_output_type(0, self.dtypes[self.base])
        elif not self.int8.output_gemm:
            layer.set_output_type(0, self.trt.int8)
        return self._named(precise(layer), name)

    def _output(self, x: Any, order: tuple[int, ...]) -> None:
        output = self._transposed(x, order, "logits", self.dtypes[self.base])
        output.name = "logits"
        self.network.mark_output(output)
        output.dtype = self.trt.float32


class PaddedGraph(TensorRTGraph):
    """Tensors are [S, B, channels, 1, 1]; each sequence of a batch is padded to S."""

    skip_layer_norm_version = "1"

    def embeddings(self, weights: Embeddings, name: str) -> tuple[Any, Any]:
        inputs = [
            self._transposed(self.network.add_input(entry, self.trt.int32, (-1, -1)), (1, 0), f"{entry}_by_token")
            for entry in Padded.inputs
        ]
        layer = self._embed(weights, "1", inputs, {"mha_type_id": self.attention_type}, name)
        x = self._named(layer.get_output(0), name)
        return x, x

    def attention(self, qkv: Any, name: str) -> Any:
        return self._attend("1", [qkv, self._mask], {}, name)

    def logits(self, x: Any) -> None:
        self._output(x, (1, 0, 2, 3, 4))


class PackedGraph(TensorRTGraph):
    """Tensors are [T, channels, 1, 1]; the sequences of a batch lie end to end. Not in float32."""

    skip_layer_norm_version = "2"

    def embeddings(self, weights: Embeddings, name: str) -> tuple[Any, Any]:
        layer = self._embed_packed(weights, "2", name)
        x = self._named(layer.get_output(0), name)
        return x, x

    def _embed_packed(self, weights: Embeddings, version: str, name: str) -> Any:
        inputs = [self.network.add_input(entry, self.trt.int32, (-1,)) for entry in Packed.inputs]
        self._bounds = inputs[2:]  # cu_seqlens, max_seqlen
        return self._embed(weights, version, inputs, {}, name)

    def attention(self, qkv: Any, name: str) -> Any:
        return self._attend("2", [qkv, self._mask, *self._bounds], {"var_seqlen": 1}, name)

    def logits(self, x: Any) -> None:
        self._output(x, (1, 0, 2, 3))


class InterleavedGraph(PackedGraph):
    """Packed int8 whose tensors are [1, channels, T, 1], which TensorRT keeps in vectors of 32 channels.

    The only one with Megatron's residuals.
    """

    qkv_by_head = False
    channels_first = True
    skip_layer_norm_version = "3"

    def embeddings(self, weights: Embeddings, name: str) -> tuple[Any, Any]:
        layer = self._embed_packed(weights, "3" if self.megatron else "2", f"{name}.by_token")

        def interleaved(output: int, name: str) -> Any:
            return self._named(self._transposed(layer.get_output(output), (2, 1, 0, 3), f"{name}.interleaved"), name)

        x = interleaved(0, name)
        return x, interleaved(1, f"{name}.sum") if self.megatron else x

    def attention(self, qkv: Any, name: str) -> Any:
        assert self.int8 is not None
        fields = {
            "hidden_size": self.num_heads * self.head_size,
            "num_heads": self.num_heads,
            "dq_probs": self.int8.ranges[f"{name}.probabilities"] / 127,
        }
        inputs = [qkv, *self._bounds]
        layer = plugins.add(self.network, "CustomQKVToContextPluginDynamic", "3", fields, inputs, name)
        return self._named(layer.get_output(0), name)

    def _norm_fields(self, width: int) -> dict[str, int]:
        return {}  # its type and layout are fixed

    def logits(self, x: Any) -> None:
        self._output(x, (1, 2, 0, 3))
