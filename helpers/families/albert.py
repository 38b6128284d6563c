"""ALBERT (Lan et al., 2019, arXiv:1909.11942): narrow embeddings, and layers that share their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from helpers.bert import factorised
from helpers.families.base import Arrays, Family, Shapes, check_whole, renamer
from helpers.families.electra import narrow_embeddings
from helpers.families.electra import read as read_embedding_size
from helpers.sites import factorised_sites
from helpers.tokenization import sentencepiece

if TYPE_CHECKING:
    from helpers.config import BertConfig

LAYER = "bert.encoder.layer."
PARTS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
    "embeddings_project": "encoder.embedding_hidden_mapping_in",
}


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    for name in ("num_hidden_groups", "inner_group_num"):
        check_whole(name, config.extra[name], need)
    # Layers are as many as the groups' turns; each turn runs all of a group's layers.
    groups, layers = config.extra["num_hidden_groups"], config.num_hidden_layers
    need(groups <= layers, f"num_hidden_groups {groups} is above num_hidden_layers {layers}")
    need(config.extra["inner_group_num"] == 1, "inner_group_num above 1 is not supported")
    return read_embedding_size(config, need)


def own_name(name: str, group: int) -> str:
    """The checkpoint's name of a tensor of BERT's first layer, for a group."""
    part, _, kind = name[len(f"{LAYER}0.") :].rpartition(".")
    return f"albert.encoder.albert_layer_groups.{group}.albert_layers.0.{PARTS[part]}.{kind}"


def stored(config: BertConfig) -> Shapes:
    shapes = narrow_embeddings(config)
    groups = range(config.extra["num_hidden_groups"])
    shared = {own_name(name, i): shapes[name] for i in groups for name in shapes if name.startswith(f"{LAYER}0.")}
    return {**{name: shape for name, shape in shapes.items() if not name.startswith(LAYER)}, **shared}


def complete(arrays: Arrays, config: BertConfig) -> Arrays:
    """Each layer with its group's arrays, which are not copied."""
    groups, layers = config.extra["num_hidden_groups"], config.num_hidden_layers
    first = [name for name in narrow_embeddings(config) if name.startswith(f"{LAYER}0.")]
    unrolled = {
        name.replace(f"{LAYER}0.", f"{LAYER}{i}."): arrays[own_name(name, i * groups // layers)]
        for i in range(layers)
        for name in first
    }
    return {**{name: array for name, array in arrays.items() if not name.startswith("albert.")}, **unrolled}


FAMILIES = (
    Family(
        "albert",
        "Albert",
        "albert",
        sentencepiece.ALBERT,
        defaults={"hidden_act": "gelu_new"},
        extra={"embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1},
        read=read,
        tensor_name=renamer("albert", parts=PARTS, pooler="albert.pooler"),
        stored=stored,
        complete=complete,
        network=factorised,
        sites=lambda config, megatron: factorised_sites(config.num_hidden_layers, megatron),
    ),
)
