"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108): BERT's encoder of half the depth, without segment embeddings."""

from __future__ import annotations

from dataclasses import replace

from helpers.families.base import Family, renamer
from helpers.tokenization import wordpiece

PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}

FAMILIES = (
    Family(
        "distilbert",
        "DistilBert",
        "distilbert",
        replace(wordpiece.BERT, name="DistilBertTokenizer", passage_segment=0),
        keys={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
        fixed={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
        tensor_name=renamer("distilbert", "transformer.layer.", PARTS, pooler="pre_classifier"),
        pooler_activation=lambda config: "relu",
    ),
)
