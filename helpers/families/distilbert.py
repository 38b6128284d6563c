"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108): BERT's encoder of half the depth, without segment embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from helpers.families.base import Family, Template

PARTS = {
    "attention.self.query.": "attention.q_lin.",
    "attention.self.key.": "attention.k_lin.",
    "attention.self.value.": "attention.v_lin.",
    "attention.output.dense.": "attention.out_lin.",
    "attention.output.LayerNorm.": "sa_layer_norm.",
    "intermediate.dense.": "ffn.lin1.",
    "output.dense.": "ffn.lin2.",
    "output.LayerNorm.": "output_layer_norm.",
}
SEGMENTS = "bert.embeddings.token_type_embeddings.weight"


def tensor_name(name: str) -> str:
    """DistilBERT's name of a tensor of BERT's."""
    name = name.replace("bert.embeddings.", "distilbert.embeddings.")
    encoder, layer, rest = name.partition("bert.encoder.layer.")
    if not layer:
        return name
    number, _, part = rest.partition(".")
    bert = next(name for name in PARTS if part.startswith(name))
    return f"{encoder}distilbert.transformer.layer.{number}.{part.replace(bert, PARTS[bert], 1)}"


def constants(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
    """Segment embeddings of zeros, which change no sum."""
    return {SEGMENTS: np.zeros(shapes[SEGMENTS], np.float32)}


FAMILY = Family(
    "distilbert",
    keys={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
    fixed={"type_vocab_size": 2, "layer_norm_eps": 1e-12},
    tensor_name=tensor_name,
    constants=constants,
    template=Template(passage_segment=0),
)
