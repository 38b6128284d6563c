"""The network as TensorRT layers and NVIDIA's BERT plugins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from helpers.backends.base import Network
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.plugins import nvidia
from helpers.errors import InputError
from helpers.graph import Graph
from helpers.layouts import Packed, Padded
from helpers.precision import FLOAT16, FLOAT32, INT8, Format
from helpers.sites import Part, Site
from helpers.weights import Embeddings, LayerNorm, Linear

TYPE_IDS = {FLOAT32: 0, FLOAT16: 1, INT8: 2}  # in the plugins' fields
# What reads a projection's output, where that is a plugin; GELU is fused into the projection before it.
READERS = {Part.QKV: Part.ATTENTION, Part.ATTENTION_OUTPUT: Part.ATTENTION_NORM, Part.OUTPUT: Part.OUTPUT_NORM}


SIMPLE = {"relu": "RELU", "hyperbolic": "TANH"}  # activations that are one layer
STEEPNESS = {"silu": 1.0, "quick_gelu": 1.702}  # of x · sigmoid(steepness · x)


class Sequences(NamedTuple):
    """What the attention plugin reads besides its input: the mask in the embedding plugin's form, and the bounds if packed."""

    mask: Any
    bounds: Sequence[Any] = ()


class TensorRTGraph(Graph[Any, Sequences]):
    """What the padded and the packed network share. Tensors have two trailing axes of 1, which a projection wants.

    Layers name their types: for what is left open the builder times every type, in every layout (docs/benchmarks.md).
    TensorRT finds the scales of int8 weights itself.
    """

    qkv_by_head = True
    channels_first = False  # whether tensors are [1, channels, T, 1], which a fully connected layer would flatten
    skip_layer_norm_version: str

    def __init__(self, definition: Any, network: Network) -> None:
        self.trt = runtime.load()
        self.network = definition
        self.num_heads, self.head_size = network.config.num_attention_heads, network.head_size
        self.precision, self.ranges = network.precision, network.ranges
        self.dtypes = {FLOAT32: self.trt.float32, FLOAT16: self.trt.float16, INT8: self.trt.int8}
        self.projections: set[str] = set()  # the names of the encoder's
        self._kept: list[np.ndarray] = []  # TensorRT reads weights when it builds, not when they are added

    def _format(self, part: Part) -> Format:
        """What a part of the network is computed in."""
        precision = self.precision
        return precision.eight_bit if precision.eight_bit and part in precision.parts else precision.base

    def _given(self, tensor: Any, site: Site) -> Any:
        """Gives a tensor its site's name, and its range where int8 has one."""
        tensor.name = site.name
        if site.name in self.ranges:
            tensor.dynamic_range = (-self.ranges[site.name], self.ranges[site.name])
        return tensor

    def _weights(self, array: np.ndarray, dtype: type = np.float32) -> Any:
        self._kept.append(np.ascontiguousarray(array, dtype))
        return self.trt.Weights(self._kept[-1])

    def _kernel(self, array: np.ndarray, computed: Format, name: str) -> Any:
        """A projection's matrix in the format that it is computed in; for int8, whose scales it finds, TensorRT wants float32.

        Given float32 for a float16 layer, TensorRT would convert the matrix anew for every kernel that it tries.
        """
        if computed != FLOAT16:
            return self._weights(array)
        largest = np.abs(array).max()
        if largest > computed.largest:
            raise InputError(f"{name}.weight holds {largest:.6g}, which float16 cannot", "build without {fp16}")
        return self._weights(array, computed.dtype)

    def _transposed(self, x: Any, order: tuple[int, ...], name: str, dtype: Any = None) -> Any:
        layer = self.network.add_shuffle(x)
        layer.first_transpose, layer.name = order, name
        if dtype is not None:
            layer.precision = dtype
            layer.set_output_type(0, dtype)
        return layer.get_output(0)

    def _embed(self, weights: Embeddings, version: str, inputs: Sequence[Any], fields: dict[str, int], name: str) -> Any:
        """The embedding plugin; its second output is the mask in the form that the attention plugin reads."""
        width = weights.word.shape[1]
        segments = np.zeros((0, width), np.float32) if weights.token_type is None else weights.token_type
        segments = np.pad(segments, ((0, max(0, 2 - len(segments))), (0, 0)))  # the plugin reads two, whatever a family has
        all_fields: dict[str, Any] = {
            "bert_embeddings_layernorm_beta": weights.norm.beta,
            "bert_embeddings_layernorm_gamma": weights.norm.gamma,
            "bert_embeddings_word_embeddings": weights.word,
            "bert_embeddings_token_type_embeddings": segments,
            "bert_embeddings_position_embeddings": weights.position,
            "output_fp16": int(self.precision.base == FLOAT16),
            **fields,
        }
        return nvidia.add(self.network, "CustomEmbLayerNormPluginDynamic", version, all_fields, inputs, name)

    def _attend(self, version: str, qkv: Any, sequences: Sequences, fields: dict[str, int], site: Site) -> Any:
        """The attention plugin."""
        computed = self._format(Part.ATTENTION)
        all_fields = {"type_id": TYPE_IDS[computed], "has_mask": 1, **fields, **self._attention_fields(site)}
        inputs = [qkv, sequences.mask, *sequences.bounds]
        layer = nvidia.add(self.network, "CustomQKVToContextPluginDynamic", version, all_fields, inputs, site.name)
        return self._given(layer.get_output(0), site)

    def _attention_fields(self, site: Site) -> dict[str, Any]:
        """What every version of the attention plugin is told."""
        assert site.probabilities
        fields = {"hidden_size": self.num_heads * self.head_size, "num_heads": self.num_heads}
        if self._format(Part.ATTENTION) == INT8:
            fields["dq_probs"] = self.precision.scale(self.ranges[site.probabilities.name])
        return fields

    def linear(self, x: Any, weights: Linear, site: Site) -> Any:
        computed, base = self._format(site.part), self.precision.base
        width, kernel = len(weights.bias), self._kernel(weights.weight, computed, site.name)
        if computed == INT8 or self.channels_first:
            layer = self.network.add_convolution_nd(x, width, (1, 1), kernel, self._weights(weights.bias))
        else:
            layer = self.network.add_fully_connected(x, width, kernel, self._weights(weights.bias))
        layer.precision = self.dtypes[computed]
        layer.name = site.name
        if site.part in READERS:
            self.projections.add(site.name)
            layer.set_output_type(0, self.dtypes[self._format(READERS[site.part]) if computed == INT8 else base])
        elif site.part is Part.INTERMEDIATE:  # whose output is inside of what it is fused to, GELU
            self.projections.add(site.name)
        else:
            layer.set_output_type(0, self.dtypes[base])
        return self._given(layer.get_output(0), site)

    def skip_layer_norm(self, x: Any, residual: Any, norm: LayerNorm, site: Site) -> tuple[Any, Any]:
        fields = {"beta": norm.beta, "gamma": norm.gamma, **self._norm_fields(len(norm.gamma))}
        version = "4" if site.residual else self.skip_layer_norm_version
        layer = nvidia.add(self.network, "CustomSkipLayerNormPluginDynamic", version, fields, [x, residual], site.name)
        x = self._given(layer.get_output(0), site)
        return x, self._given(layer.get_output(1), site.residual) if site.residual else x

    def _norm_fields(self, width: int) -> dict[str, int]:
        return {"ld": width, "type_id": TYPE_IDS[self._format(Part.OUTPUT_NORM)]}

    def activation(self, x: Any, form: str, site: Site) -> Any:
        """Of GELU x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), a chain that TensorRT fuses into the projection before it.

        Under int8 the chain keeps float32, of which only the fused result is rounded.
        """
        op, kinds = self.trt.ElementWiseOperation, self.trt.ActivationType

        def precise(layer: Any) -> Any:
            if self.precision.eight_bit:
                layer.precision = self.trt.float32
            return layer.get_output(0)

        def constant(value: float) -> Any:
            return self.network.add_constant((1,) * len(x.shape), self._weights(np.array([value]))).get_output(0)

        def elementwise(a: Any, b: Any, operation: Any) -> Any:
            return precise(self.network.add_elementwise(a, b, operation))

        if form in SIMPLE:
            layer = self.network.add_activation(x, getattr(kinds, SIMPLE[form]))
        else:
            if form in STEEPNESS:
                steep = elementwise(x, constant(STEEPNESS[form]), op.PROD)
                gate = precise(self.network.add_activation(steep, kinds.SIGMOID))
            else:
                cubed = elementwise(x, constant(3.0), op.POW)
                inner = elementwise(x, elementwise(cubed, constant(0.044715), op.PROD), op.SUM)
                scaled = elementwise(inner, constant(math.sqrt(2 / math.pi)), op.PROD)
                tanh = precise(self.network.add_activation(scaled, kinds.TANH))
                gate = elementwise(elementwise(tanh, constant(1.0), op.SUM), constant(0.5), op.PROD)
            layer = self.network.add_elementwise(x, gate, op.PROD)
        layer.name = site.name
        # Where the next projection of an int8 network is not in int8, it reads what no int8 kernel with GELU writes: the
        # type stays open.
        if not self.precision.eight_bit or self._format(site.part) == INT8:
            layer.set_output_type(0, self.dtypes[self._format(site.part)])
        return self._given(precise(layer), site)

    def _gathered(self, x: Any, indexes: Any, axis: int, site: Site) -> Any:
        layer = self.network.add_gather(x, indexes, axis)
        layer.name = f"{site.name}.first"
        return layer.get_output(0)

    def _output(self, x: Any, order: tuple[int, ...]) -> None:
        output = self._transposed(x, order, "logits", self.dtypes[self.precision.base])
        output.name = "logits"
        self.network.mark_output(output)
        output.dtype = self.trt.float32


class PaddedGraph(TensorRTGraph):
    """Tensors are [S, B, channels, 1, 1]; each sequence of a batch is padded to S."""

    skip_layer_norm_version = "1"

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Any, Any, Sequences]:
        inputs = [
            self._transposed(self.network.add_input(entry, self.trt.int32, (-1, -1)), (1, 0), f"{entry}_by_token")
            for entry in Padded.inputs
        ]
        layer = self._embed(weights, "1", inputs, {"mha_type_id": TYPE_IDS[self._format(Part.ATTENTION)]}, site.name)
        x = self._given(layer.get_output(0), site)
        return x, x, Sequences(layer.get_output(1))

    def attention(self, qkv: Any, sequences: Sequences, site: Site) -> Any:
        return self._attend("1", qkv, sequences, {}, site)

    def first(self, x: Any, sequences: Sequences, site: Site) -> Any:
        index = self.network.add_constant((1,), self._weights(np.zeros(1), np.int32)).get_output(0)
        return self._gathered(x, index, 0, site)

    def outputs(self, x: Any, width: int, pooled: bool) -> None:
        self._output(x, (1, 0, 2, 3, 4))


class PackedGraph(TensorRTGraph):
    """Tensors are [T, channels, 1, 1]; the sequences of a batch lie end to end. Not in float32."""

    skip_layer_norm_version = "2"
    token_axis = 0

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Any, Any, Sequences]:
        layer, sequences = self._embed_packed(weights, "2", site.name)
        x = self._given(layer.get_output(0), site)
        return x, x, sequences

    def _embed_packed(self, weights: Embeddings, version: str, name: str) -> tuple[Any, Sequences]:
        inputs = {entry: self.network.add_input(entry, self.trt.int32, (-1,)) for entry in Packed.inputs}
        layer = self._embed(weights, version, list(inputs.values()), {}, name)
        return layer, Sequences(layer.get_output(1), (inputs["cu_seqlens"], inputs["max_seqlen"]))

    def attention(self, qkv: Any, sequences: Sequences, site: Site) -> Any:
        return self._attend("2", qkv, sequences, {"var_seqlen": 1}, site)

    def first(self, x: Any, sequences: Sequences, site: Site) -> Any:
        """The tokens at cu_seqlens, but for its last entry."""
        bounds, one = sequences.bounds[0], self._weights(np.ones(1), np.int32)
        entries = self.network.add_shape(bounds).get_output(0)
        size = self.network.add_elementwise(
            entries, self.network.add_constant((1,), one).get_output(0), self.trt.ElementWiseOperation.SUB
        ).get_output(0)
        starts = self.network.add_slice(bounds, (0,), (1,), (1,))
        starts.set_input(2, size)
        return self._gathered(x, starts.get_output(0), self.token_axis, site)

    def outputs(self, x: Any, width: int, pooled: bool) -> None:
        self._output(x, (0, 1, 2, 3) if pooled else (1, 0, 2, 3))


class InterleavedGraph(PackedGraph):
    """Packed int8 whose tensors are [1, channels, T, 1], which TensorRT keeps in vectors of 32 channels.

    The only one with Megatron's residuals.
    """

    qkv_by_head = False
    channels_first = True
    skip_layer_norm_version = "3"
    token_axis = 2

    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Any, Any, Sequences]:
        layer, sequences = self._embed_packed(weights, "3" if site.residual else "2", f"{site.name}.by_token")

        def interleaved(output: int, site: Site) -> Any:
            return self._given(self._transposed(layer.get_output(output), (2, 1, 0, 3), f"{site.name}.interleaved"), site)

        x = interleaved(0, site)
        return x, interleaved(1, site.residual) if site.residual else x, sequences

    def attention(self, qkv: Any, sequences: Sequences, site: Site) -> Any:
        inputs, fields = [qkv, *sequences.bounds], self._attention_fields(site)
        layer = nvidia.add(self.network, "CustomQKVToContextPluginDynamic", "3", fields, inputs, site.name)
        return self._given(layer.get_output(0), site)

    def _norm_fields(self, width: int) -> dict[str, int]:
        return {}  # its type and layout are fixed

    def outputs(self, x: Any, width: int, pooled: bool) -> None:
        self._output(x, (2, 1, 0, 3) if pooled else (1, 2, 0, 3))
