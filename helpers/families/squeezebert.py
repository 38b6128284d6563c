"""SqueezeBERT (Iandola et al., 2020, arXiv:2006.11316): BERT, whose projections are convolutions in groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from helpers.families.base import Arrays, Family, Shapes, renamer
from helpers.tokenization import wordpiece
from helpers.weights import tensor_shapes

if TYPE_CHECKING:
    from helpers.config import BertConfig

PARTS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "post_attention.conv1d",
    "attention.output.LayerNorm": "post_attention.layernorm",
    "intermediate.dense": "intermediate.conv1d",
    "output.dense": "output.conv1d",
    "output.LayerNorm": "output.layernorm",
}
GROUPS = {
    "attention.self.query.weight": "q_groups",
    "attention.self.key.weight": "k_groups",
    "attention.self.value.weight": "v_groups",
    "attention.output.dense.weight": "post_attention_groups",
    "intermediate.dense.weight": "intermediate_groups",
    "output.dense.weight": "output_groups",
}
EPSILON = 1e-12
EXTRA: dict[str, Any] = {**dict.fromkeys(GROUPS.values(), 4), "post_attention_groups": 1, "embedding_size": None}


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    for name in GROUPS.values():
        groups = config.extra[name]
        divides = type(groups) is int and groups > 0 and config.hidden_size % groups == config.intermediate_size % groups == 0
        need(divides, f"{name} must divide the layers' widths, which {groups!r:.60} does not")
    need(config.extra["embedding_size"] in (None, config.hidden_size), "embedding_size must be hidden_size")
    # Its own code gives the layers this one, and the configuration's to the embeddings alone.
    need(config.layer_norm_eps == EPSILON, f"layer_norm_eps must be {EPSILON}, not {config.layer_norm_eps!r}")
    return config


def groups_of(name: str, config: BertConfig) -> int:
    """The groups of a tensor's convolution, or 0 where it is none."""
    part = name.split(".", 4)[-1] if name.startswith("bert.encoder.layer.") else ""
    return config.extra[GROUPS[part]] if part in GROUPS else 0


def stored(config: BertConfig) -> Shapes:
    shapes = tensor_shapes(config)
    grouped = {name: groups_of(name, config) for name in shapes}
    return {name: (s[0], s[1] // grouped[name], 1) if grouped[name] else s for name, s in shapes.items()}


def complete(arrays: Arrays, config: BertConfig) -> Arrays:
    """A convolution in groups is a projection whose matrix has blocks along its diagonal, and zeros elsewhere."""

    def dense(weight: np.ndarray, groups: int) -> np.ndarray:
        out, each, _ = weight.shape
        matrix = np.zeros((groups, out // groups, groups, each), np.float32)
        diagonal = np.arange(groups)
        matrix[diagonal, :, diagonal] = weight.reshape(groups, out // groups, each)
        return matrix.reshape(out, groups * each)

    grouped = {name: groups_of(name, config) for name in arrays}
    return {name: dense(array, grouped[name]) if grouped[name] else array for name, array in arrays.items()}


FAMILIES = (
    Family(
        "squeezebert",
        "SqueezeBert",
        "transformer",
        replace(wordpiece.BERT, name="SqueezeBertTokenizer"),
        extra=EXTRA,
        read=read,
        tensor_name=renamer("transformer", "encoder.layers.", PARTS),
        stored=stored,
        complete=complete,
    ),
)
