"""MPNet (Song et al., 2020, arXiv:2004.09297): BERT with fairseq's positions and a bias by distance, without segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.families import roberta
from helpers.families.base import Family, Shapes, renamer
from helpers.mpnet import BUCKETS, RELATIVE_BIAS, mpnet
from helpers.tokenization import wordpiece

if TYPE_CHECKING:
    from helpers.config import BertConfig

PARTS = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}


def stored(config: BertConfig) -> Shapes:
    return {**roberta.stored(config), RELATIVE_BIAS: (BUCKETS, config.num_attention_heads)}


FAMILIES = (
    Family(
        "mpnet",
        "MPNet",
        "mpnet",
        wordpiece.MPNET,
        fixed={"type_vocab_size": 0},
        tensor_name=renamer("mpnet", parts=PARTS, pooler="classifier.dense", pooled="classifier.out_proj"),
        network=mpnet,
        beyond="relative position bias",
        **{**roberta.FAIRSEQ_POSITIONS, "stored": stored},
    ),
)
