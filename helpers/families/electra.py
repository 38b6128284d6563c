"""ELECTRA (Clark et al., 2020, arXiv:2003.10555): BERT's encoder, whose embeddings may be narrower than its layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

from helpers.bert import PROJECTION, bert, factorised
from helpers.families.base import Family, Shapes, check_whole, renamer
from helpers.sites import Sites, bert_sites, factorised_sites
from helpers.tokenization import wordpiece
from helpers.weights import BertWeights, tensor_shapes

if TYPE_CHECKING:
    from helpers.config import BertConfig


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    check_whole("embedding_size", config.extra["embedding_size"], need)
    return config


def narrow_embeddings(config: BertConfig) -> Shapes:
    """BERT's tensors, with narrow embeddings and their projection."""
    size, shapes = config.extra["embedding_size"], dict(tensor_shapes(config))
    for name, shape in shapes.items():
        if name.startswith("bert.embeddings."):
            shapes[name] = (*shape[:-1], size)
    hidden = config.hidden_size
    return {**shapes, f"{PROJECTION}.weight": (hidden, size), f"{PROJECTION}.bias": (hidden,)}


def is_narrow(config: BertConfig) -> bool:
    return bool(config.extra["embedding_size"] != config.hidden_size)


def stored(config: BertConfig) -> Shapes:
    return narrow_embeddings(config) if is_narrow(config) else tensor_shapes(config)


def network(graph: Any, weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    (factorised if is_narrow(config) else bert)(graph, weights, sites, config)


def sites(config: BertConfig, megatron: bool) -> Sites:
    return (factorised_sites if is_narrow(config) else bert_sites)(config.num_hidden_layers, megatron)


FAMILIES = (
    Family(
        "electra",
        "Electra",
        "electra",
        replace(wordpiece.BERT, name="ElectraTokenizer"),
        extra={"embedding_size": 128},
        read=read,
        tensor_name=renamer("electra", pooler="classifier.dense", pooled="classifier.out_proj"),
        stored=stored,
        pooler_activation=lambda config: "erf",
        network=network,
        sites=sites,
    ),
)
