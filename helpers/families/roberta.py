"""RoBERTa (Liu et al., 2019, arXiv:1907.11692), and the same model in French, CamemBERT (Martin et al., 2019,
arXiv:1911.03894), and in a hundred languages, XLM-RoBERTa (Conneau et al., 2019, arXiv:1911.02116).

BERT's network. Positions count from the padding token's id + 1, as in fairseq, so that the table's first rows are never read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

from helpers.families.base import Arrays, Family, Shapes, check_whole, renamer
from helpers.tokenization import bytelevel, sentencepiece
from helpers.weights import tensor_shapes

if TYPE_CHECKING:
    from helpers.config import BertConfig

POSITIONS = "bert.embeddings.position_embeddings.weight"


def first_position(config: BertConfig) -> int:
    return int(config.extra["pad_token_id"]) + 1


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    """Of the positions, those that tokens can have."""
    padding = config.extra["pad_token_id"]
    check_whole("pad_token_id", padding, need, 0)
    positions = config.max_position_embeddings - first_position(config)
    need(positions > 0, f"max_position_embeddings {config.max_position_embeddings} must be above pad_token_id {padding} + 1")
    return replace(config, max_position_embeddings=positions)


def written(config: BertConfig) -> BertConfig:
    return replace(config, max_position_embeddings=config.max_position_embeddings + first_position(config))


def stored(config: BertConfig) -> Shapes:
    shapes = tensor_shapes(config)
    positions, hidden = shapes[POSITIONS]
    return {**shapes, POSITIONS: (positions + first_position(config), hidden)}


def complete(arrays: Arrays, config: BertConfig) -> Arrays:
    return {**arrays, POSITIONS: arrays[POSITIONS][first_position(config) :]}


FAIRSEQ_POSITIONS: dict[str, Any] = {
    "extra": {"pad_token_id": 1},
    "read": read,
    "written": written,
    "stored": stored,
    "complete": complete,
}
ROBERTA = Family(
    "roberta",
    "Roberta",
    "roberta",
    bytelevel.ROBERTA,
    tensor_name=renamer("roberta", pooler="classifier.dense", pooled="classifier.out_proj"),
    **FAIRSEQ_POSITIONS,
)
FAMILIES = (
    ROBERTA,
    replace(ROBERTA, model_type="camembert", architecture="Camembert", tokenizer=sentencepiece.CAMEMBERT),
    replace(ROBERTA, model_type="xlm-roberta", architecture="XLMRoberta", tokenizer=sentencepiece.XLM_ROBERTA),
)
