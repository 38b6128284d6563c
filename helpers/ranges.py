"""Activation ranges for int8: which quantizer of a quantization-aware checkpoint speaks for which tensor."""

from __future__ import annotations

from collections.abc import Mapping

from helpers.errors import InputError

EMBEDDINGS = "bert.embeddings"
PROBABILITIES = "attention.self.probabilities"  # inside the attention: no tensor of its own on TensorRT

# Each part of a layer (helpers/bert.py's names) and the quantizers that saw its output; the largest counts.
LAYER_QUANTIZERS = {
    "attention.self.qkv": ("attention.self.qv_a_input", "attention.self.qv_b_input", "attention.self.av_b_input"),
    PROBABILITIES: ("attention.self.av_a_input",),
    "attention.self": ("attention.output.dense._input",),
    "attention.output.dense": ("attention.output.add_local_input",),
    "attention.output.LayerNorm": ("intermediate.dense._input",),
    "intermediate.gelu": ("output.dense._input",),
    "output.dense": ("output.add_local_input",),
}


def quantizers(num_layers: int, megatron: bool = False) -> dict[str, list[str]]:
    """Every tensor that int8 needs a range of, by the network's name for it, and the quantizers that give it.

    Args:
        megatron: whether residuals are sums, which are tensors of their own (helpers/graphs).
    """
    layer_inputs = [f"bert.encoder.layer.{i}.attention.self.query._input_quantizer" for i in range(num_layers)]
    found = {}
    for i, name in enumerate([*layer_inputs, "bert.encoder.final_input_quantizer"]):
        found[f"bert.encoder.layer.{i - 1}.output.LayerNorm" if i else EMBEDDINGS] = [name]
    for i in range(num_layers):
        for part, names in LAYER_QUANTIZERS.items():
            found[f"bert.encoder.layer.{i}.{part}"] = [f"bert.encoder.layer.{i}.{name}_quantizer" for name in names]
        if megatron:
            layer_input = f"bert.encoder.layer.{i - 1}.output.LayerNorm" if i else EMBEDDINGS
            for norm, adder in (
                (layer_input, "attention.output"),
                (f"bert.encoder.layer.{i}.attention.output.LayerNorm", "output"),
            ):
                found[f"{norm}.sum"] = [f"bert.encoder.layer.{i}.{adder}.add_residual_input_quantizer"]
    return found


def from_checkpoint(ranges: Mapping[str, float], num_layers: int, megatron: bool = False) -> dict[str, float]:
    """Absolute maximum of each tensor, by the network's names, from a checkpoint's quantizers.

    Raises:
        InputError: lists every quantizer that is missing.
    """
    wanted = quantizers(num_layers, megatron)
    missing = sorted({name for names in wanted.values() for name in names if name not in ranges})
    if missing:
        raise InputError(
            f"int8 needs {len(missing)} activation ranges that the checkpoint lacks: "
            + ", ".join(f"{name}._amax" for name in missing)
        )
    return {tensor: max(ranges[name] for name in names) for tensor, names in wanted.items()}


def to_checkpoint(found: Mapping[str, float], num_layers: int, megatron: bool = False) -> dict[str, float]:
    """The inverse of `from_checkpoint`: each quantizer gets the range of its tensor."""
    return {name: found[tensor] for tensor, names in quantizers(num_layers, megatron).items() for name in names}


def is_added(name: str) -> bool:
    """Whether a tensor is added to a residual: the output of an attention's or feed-forward's last projection."""
    return name.endswith(".output.dense")


def is_gelu(name: str) -> bool:
    """Whether a tensor is GELU's output."""
    return name.endswith(".intermediate.gelu")


def of_projections(ranges: Mapping[str, float]) -> dict[str, float]:
    """Only the ranges of what projections read: those of attention's own products and of additions left out."""
    other = ("attention.self.qkv", PROBABILITIES)
    return {name: amax for name, amax in ranges.items() if not is_added(name) and not name.endswith(other)}
