"""NVIDIA's BERT plugins of libnvinfer_plugin: what they can, and how they are added to a network.

https://github.com/NVIDIA/TensorRT/tree/release/8.6/plugin
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from helpers.backends.base import Device
from helpers.backends.tensorrt import runtime
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.precision import FLOAT16, FLOAT32, Precision
from helpers.request import BuildRequest
from helpers.sites import NORMS, Part
from helpers.weights import BertWeights

# The plugins' layer norms divide by the standard deviation alone, whatever a checkpoint's epsilon is (docs/benchmarks.md).
# Below the first, what they are off by for that is less than float16's own noise; above the second, answers change.
NOTICED_EFFECT, REFUSED_EFFECT = 5e-3, 5e-2
FUSED_HEAD_SIZE = 64
FUSED_LENGTHS = (64, 96, 128, 384)  # padded attention in float16; other lengths are computed unfused
FUSED_LENGTHS_INT8 = (128, 384)  # padded attention in int8, which has no other way
PACKED_LONGEST = 384
# Attention over packed sequences rounds the longest of a batch up to one of these.
LENGTH_CLASSES = (64, 96, 128, 192, 256, 384, 512)
# There are fused kernels for 512 as well, but the embedding plugin makes no mask that they can read: the logits are
# wrong (measured in docs/benchmarks.md; https://github.com/NVIDIA/TensorRT/issues/2948).
BROKEN_LENGTH = 512
INT8_HIDDEN_SIZES = (768, 1024)  # skip-layernorm in int8
# The least compute capability of each.
INT8_ATTENTION_CAPABILITY = (7, 5)  # padded; the packed plugin's own begins with PACKED_CAPABILITY
INT8_NORM_CAPABILITY = PACKED_CAPABILITY = (7, 2)


def head_size(config: BertConfig, precision: Precision) -> int:
    """The heads of an engine: fused attention, which float32 has none of, is for heads of 64, and smaller ones are padded."""
    reduced = precision.base != FLOAT32 or precision.eight_bit
    return max(config.head_size, FUSED_HEAD_SIZE) if reduced else config.head_size


def epsilon_effect(weights: BertWeights, epsilon: float) -> float:
    """How much too large a layer norm's output is without `epsilon`, relatively, where its input varies least.

    Variances are estimated from the weights: those of the embeddings' sums, and the mean square of the scales that made
    a residual.
    """
    embeddings = weights.embeddings
    sums = embeddings.word
    if embeddings.position is not None:
        sums = sums + embeddings.position[len(embeddings.position) // 2]
    if embeddings.token_type is not None:
        sums = sums + embeddings.token_type[0]
    norms = [embeddings.norm, *(norm for layer in weights.layers for norm in (layer.attention_norm, layer.output_norm))]
    least = min(float(np.percentile(sums.var(1), 1)), *(float((norm.gamma**2).mean()) for norm in norms[:-1]))
    return math.sqrt(1 + epsilon / least) - 1 if least else math.inf


def check_epsilon(weights: BertWeights, epsilon: float, warn: Callable[[str], None]) -> None:
    """Holds a checkpoint's epsilon against the plugins' layer norms, which have none.

    Raises:
        InputError: the logits would be wrong.
    """
    effect = epsilon_effect(weights, epsilon)
    if effect > REFUSED_EFFECT:
        raise InputError(
            f"NVIDIA's layer norms have no epsilon, and without this model's are off by {effect:.1%}", "use {backend}"
        )
    if effect > NOTICED_EFFECT:
        warn(f"NVIDIA's layer norms have no epsilon, and without this model's are off by up to {effect:.1%}")


def fastest_int8(hidden_size: int, sequence_length: int, capability: tuple[int, int]) -> dict[str, bool]:
    """Which of a request's int8 fields a padded engine can have."""
    return {
        "int8_skip_layer_norm": capability >= INT8_NORM_CAPABILITY and hidden_size in INT8_HIDDEN_SIZES,
        "int8_attention": capability >= INT8_ATTENTION_CAPABILITY and sequence_length in FUSED_LENGTHS_INT8,
    }


def check(request: BuildRequest, precision: Precision, config: BertConfig, device: Device, warn: Callable[[str], None]) -> None:
    """Refuses what the plugins would abort on, and warns of what they do slowly.

    Raises:
        InputError: a size, precision or GPU that a plugin has no kernel for and no slower way around.
    """
    name, capability = device.gpu, device.capability or (0, 0)
    heads = head_size(config, precision)
    lengths = sorted({profile.sequence_length for profile in request.profiles})
    leave_out = "leave out {int8_attention}"
    fp16, int8_attention, int8_norm = precision.base == FLOAT16, Part.ATTENTION in precision.parts, precision.parts >= NORMS

    def need(available: bool, problem: str, hint: str) -> None:
        if not available:
            raise InputError(problem, hint)

    if request.packed:
        need(fp16, "packed engines need float16 on TensorRT", "add {fp16}")
        need(capability >= PACKED_CAPABILITY, f"packed engines need compute capability 7.2, {name} has less", "use builder.py")
        need(heads == FUSED_HEAD_SIZE, f"packed engines need heads of at most 64, not {heads}", "use builder.py")
        need(
            lengths[-1] <= PACKED_LONGEST,
            f"packed engines on TensorRT take sequences of up to {PACKED_LONGEST} tokens, not {lengths[-1]}",
            "lower {sequence_length}",
        )
    elif int8_attention:
        supported = capability >= INT8_ATTENTION_CAPABILITY
        need(supported, f"int8 attention needs compute capability 7.5, {name} has less", leave_out)
        need(heads == FUSED_HEAD_SIZE, f"int8 attention needs heads of at most 64, not {heads}", leave_out)
    if int8_norm:
        supported = capability >= INT8_NORM_CAPABILITY
        need(supported, f"int8 skip-layernorm needs compute capability 7.2, {name} has less", "leave out {int8_skip_layer_norm}")
        need(
            config.hidden_size in INT8_HIDDEN_SIZES,
            f"int8 skip-layernorm has kernels for hidden sizes 768 and 1024, not {config.hidden_size}",
            "build a padded engine without {int8_skip_layer_norm}, or widen the checkpoint with scripts/widen_checkpoint.py",
        )
    if request.packed:
        return
    need(
        BROKEN_LENGTH not in lengths or not (fp16 or int8_attention),
        "NVIDIA's attention plugin gives wrong logits at sequence length 512 in float16 and int8",
        "use 384, or 511 (slower)",
    )

    fused = FUSED_LENGTHS_INT8 if int8_attention else FUSED_LENGTHS
    slow = [length for length in lengths if length not in fused]
    listed, known = ", ".join(map(str, slow)), ", ".join(map(str, fused))
    if int8_attention:
        need(not slow, f"int8 attention has no kernel for sequence length {listed}", f"use {known}, or {leave_out}")
    elif fp16 and heads != FUSED_HEAD_SIZE:
        warn(f"fused attention has no kernel for heads of {heads}, only up to {FUSED_HEAD_SIZE}: this engine is slower")
    elif fp16 and slow:
        warn(f"fused attention has no kernel for sequence length {listed}, which is slower; fast are {known}")


def add(network: Any, name: str, version: str, fields: Mapping[str, Any], inputs: Sequence[Any], layer_name: str) -> Any:
    """Adds the plugin `name`, `version` to a network; returns its layer.

    Args:
        fields: whole numbers become int32 fields, everything else float32 arrays.

    Raises:
        InputError: the plugin library lacks the plugin, or refuses its fields.
    """
    trt = runtime.load()
    runtime.logger()  # registers the library
    creator = trt.get_plugin_registry().get_plugin_creator(name, version, "")
    if creator is None:
        raise InputError(f"libnvinfer_plugin of TensorRT {trt.__version__} lacks the plugin {name} version {version}")
    kinds = {True: (np.int32, trt.PluginFieldType.INT32), False: (np.float32, trt.PluginFieldType.FLOAT32)}
    arrays = {key: np.ascontiguousarray(value, kinds[isinstance(value, int)][0]).reshape(-1) for key, value in fields.items()}
    collection = trt.PluginFieldCollection(
        [trt.PluginField(key, array, kinds[isinstance(fields[key], int)][1]) for key, array in arrays.items()]
    )
    plugin = creator.create_plugin(layer_name, collection)
    if plugin is None:
        raise InputError(f"plugin {name} version {version} cannot be made for {layer_name}: {runtime.complaint()}")
    layer = network.add_plugin_v2(list(inputs), plugin)
    layer.name = layer_name
    return layer
