"""Int8 in tests: which quantizer saw which tensor, what Hugging Face's model has there, and what an ONNX model rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from helpers.layouts import Batch, Layout, Packed, Padded, Profile
from helpers.sites import bert_sites
from tests.batches import session, theirs

LAYER, NEXT = "bert.encoder.layer.0", "bert.encoder.layer.1"
SITES, SITES_WITH_SUMS = bert_sites(2), bert_sites(2, megatron=True)

# Tensor of a network of two layers → the quantizers that saw it.
TENSORS = {
    "bert.embeddings": (f"{LAYER}.attention.self.query._input_quantizer",),
    f"{LAYER}.attention.self.qkv": (
        f"{LAYER}.attention.self.qv_a_input_quantizer",
        f"{LAYER}.attention.self.qv_b_input_quantizer",
        f"{LAYER}.attention.self.av_b_input_quantizer",
    ),
    f"{LAYER}.attention.self.probabilities": (f"{LAYER}.attention.self.av_a_input_quantizer",),
    f"{LAYER}.attention.self": (f"{LAYER}.attention.output.dense._input_quantizer",),
    f"{LAYER}.attention.output.dense": (f"{LAYER}.attention.output.add_local_input_quantizer",),
    f"{LAYER}.attention.output.LayerNorm": (f"{LAYER}.intermediate.dense._input_quantizer",),
    f"{LAYER}.intermediate.gelu": (f"{LAYER}.output.dense._input_quantizer",),
    f"{LAYER}.output.dense": (f"{LAYER}.output.add_local_input_quantizer",),
    f"{LAYER}.output.LayerNorm": (f"{NEXT}.attention.self.query._input_quantizer",),
    f"{NEXT}.attention.self.qkv": (
        f"{NEXT}.attention.self.qv_a_input_quantizer",
        f"{NEXT}.attention.self.qv_b_input_quantizer",
        f"{NEXT}.attention.self.av_b_input_quantizer",
    ),
    f"{NEXT}.attention.self.probabilities": (f"{NEXT}.attention.self.av_a_input_quantizer",),
    f"{NEXT}.attention.self": (f"{NEXT}.attention.output.dense._input_quantizer",),
    f"{NEXT}.attention.output.dense": (f"{NEXT}.attention.output.add_local_input_quantizer",),
    f"{NEXT}.attention.output.LayerNorm": (f"{NEXT}.intermediate.dense._input_quantizer",),
    f"{NEXT}.intermediate.gelu": (f"{NEXT}.output.dense._input_quantizer",),
    f"{NEXT}.output.dense": (f"{NEXT}.output.add_local_input_quantizer",),
    f"{NEXT}.output.LayerNorm": ("bert.encoder.final_input_quantizer",),
}
QUANTIZERS = [name for names in TENSORS.values() for name in names]
FINAL = f"{NEXT}.output.LayerNorm"
# The sums that Megatron's residuals are, which have ranges of their own.
SUMS = {
    "bert.embeddings.sum": (f"{LAYER}.attention.output.add_residual_input_quantizer",),
    f"{LAYER}.attention.output.LayerNorm.sum": (f"{LAYER}.output.add_residual_input_quantizer",),
    f"{LAYER}.output.LayerNorm.sum": (f"{NEXT}.attention.output.add_residual_input_quantizer",),
    f"{NEXT}.attention.output.LayerNorm.sum": (f"{NEXT}.output.add_residual_input_quantizer",),
}

# Projection → the tensor that it reads.
PROJECTIONS = {
    f"{layer}.{part}": source
    for layer, first in ((LAYER, "bert.embeddings"), (NEXT, f"{LAYER}.output.LayerNorm"))
    for part, source in {
        "attention.self.qkv": first,
        "attention.output.dense": f"{layer}.attention.self",
        "intermediate.dense": f"{layer}.attention.output.LayerNorm",
        "output.dense": f"{layer}.intermediate.gelu",
    }.items()
}

# What makes the small configuration another one.
SIZES: dict[str, dict[str, Any]] = {
    "2x4": {},
    "3x2": {"num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 37},
    "1x1": {"num_attention_heads": 1, "hidden_size": 48, "num_hidden_layers": 1, "layer_norm_eps": 1e-3, "hidden_act": "gelu"},
}


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def tensors_of(model: Any, batch: Batch) -> dict[str, np.ndarray]:
    """What hooks see in Hugging Face's model: the tensors that have ranges, but the probabilities; and layer 0's `query`."""
    seen: dict[str, np.ndarray] = {}

    def record(name: str) -> Any:
        return model.get_submodule(name).register_forward_hook(
            lambda _, args, out: seen.update({f"{name}<": args[0].numpy(), f"{name}>": out.numpy()})
        )

    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [record(name) for name in linears]
    theirs(model, batch)
    for hook in hooks:
        hook.remove()
    depth = model.config.num_hidden_layers
    found = {"query": seen[f"{LAYER}.attention.self.query>"]}
    for i in range(depth):
        name = f"bert.encoder.layer.{i}"
        found[f"bert.encoder.layer.{i - 1}.output.LayerNorm" if i else "bert.embeddings"] = seen[f"{name}.attention.self.key<"]
        parts = [seen[f"{name}.attention.self.{part}>"] for part in ("query", "key", "value")]
        found[f"{name}.attention.self.qkv"] = np.concatenate(parts, -1)
        found[f"{name}.attention.self"] = seen[f"{name}.attention.output.dense<"]
        found[f"{name}.attention.output.dense"] = seen[f"{name}.attention.output.dense>"]
        found[f"{name}.attention.output.LayerNorm"] = seen[f"{name}.intermediate.dense<"]
        found[f"{name}.intermediate.gelu"] = seen[f"{name}.output.dense<"]
        found[f"{name}.output.dense"] = seen[f"{name}.output.dense>"]
    found[f"bert.encoder.layer.{depth - 1}.output.LayerNorm"] = seen["qa_outputs<"]
    return found


# ONNX models


def layout_of(packed: bool) -> Layout:
    profiles = [Profile(64, 64)]
    return Packed(profiles) if packed else Padded(profiles, any_length=True)


def logits_of(blob: bytes, batch: Batch, packed: bool, optimized: bool) -> np.ndarray:
    """What an ONNX model gives, with ONNX Runtime's optimizations or as it is written."""
    layout = layout_of(packed)
    [output] = session(blob, optimized).run(["logits"], layout.feed(batch))
    return layout.logits(output, batch)


class Inspected:
    """An ONNX model's nodes by what they make, and its constants."""

    def __init__(self, blob: bytes) -> None:
        graph = onnx.load_from_string(blob).graph
        self.nodes = list(graph.node)
        self.makers = {node.output[0]: node for node in self.nodes}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def readers(self, name: str) -> set[str]:
        return {node.output[0] for node in self.nodes if name in node.input}

    def rounded_tensors(self) -> dict[str, str]:
        """Activation → what DequantizeLinear makes of it; checks scales' kind, and the zero point."""
        found = {}
        for node in self.nodes:
            if node.op_type == "QuantizeLinear":
                [back] = self.readers(node.output[0])
                assert self.makers[back].op_type == "DequantizeLinear"
                assert list(self.makers[back].input[1:]) == list(node.input[1:])
                zero = self.constants[node.input[2]]
                assert (zero.dtype.name, zero.shape, int(zero)) == ("uint8", (), 128)
                found[node.input[0]] = back
        return found

    def scale(self, rounded: str) -> float:
        return float(self.constants[self.makers[rounded].input[1]])

    def ranges(self) -> Mapping[str, float]:
        """Activation → the range that it is rounded with."""
        return {name: self.scale(back) * 127 for name, back in self.rounded_tensors().items()}
