"""DeBERTa (He et al., 2020, arXiv:2006.03654), and its second and third version (He et al., 2021, arXiv:2111.09543)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from helpers.deberta import KEYS, QUERIES, deberta, span
from helpers.families.base import LARGEST, Arrays, Family, Shapes, check_whole, renamer
from helpers.tokenization import bytelevel, sentencepiece
from helpers.weights import tensor_shapes

if TYPE_CHECKING:
    from helpers.config import BertConfig

C2P, P2C = "c2p", "p2c"  # content to position, position to content
DISTANCES, DISTANCE_NORM = "deberta.encoder.rel_embeddings.weight", "deberta.encoder.LayerNorm"
SELF = "deberta.encoder.layer.{}.attention.self"
EXTRA: dict[str, Any] = {
    "relative_attention": False,
    "pos_att_type": (),
    "max_relative_positions": -1,
    "position_buckets": -1,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "position_biased_input": True,
    "pooler_hidden_act": "gelu",
    "conv_kernel_size": 0,
    "talking_head": False,
    "attention_head_size": None,
    "embedding_size": None,
}
POOLER_ACTIVATIONS = {"gelu": "erf", "tanh": "hyperbolic", "relu": "relu"}


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    extra = dict(config.extra)
    kinds = extra["pos_att_type"] or ()
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    known = isinstance(kinds, (list, tuple)) and all(kind in (C2P, P2C) for kind in kinds)
    need(known, f"pos_att_type {kinds!r:.60} is not supported")
    need(isinstance(extra["norm_rel_ebd"], str), f"norm_rel_ebd must be text, not {extra['norm_rel_ebd']!r:.60}")
    for name in ("max_relative_positions", "position_buckets"):
        check_whole(name, extra[name], need, -LARGEST)
    need(extra["relative_attention"] is True, "a DeBERTa without relative_attention is not supported")
    need(not extra["conv_kernel_size"], "a DeBERTa with a convolution (conv_kernel_size) is not supported")
    need(not extra["talking_head"], "a DeBERTa with talking heads (talking_head) is not supported")
    need(
        extra["attention_head_size"] in (None, config.head_size), "attention_head_size must be hidden_size / num_attention_heads"
    )
    need(extra["embedding_size"] in (None, config.hidden_size), "embedding_size must be hidden_size")
    activation = extra["pooler_hidden_act"]
    need(activation in tuple(POOLER_ACTIVATIONS) or not config.pooled, f"pooler_hidden_act {activation!r:.60} is not supported")
    return replace(config, extra={**extra, "pos_att_type": tuple(kinds)})


def has(config: BertConfig, kind: str) -> bool:
    return kind in config.extra["pos_att_type"]


def outer(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """BERT's tensors and those of the distances, as far as both versions have them."""
    shapes = dict(tensor_shapes(config))
    if not config.extra["position_biased_input"]:
        del shapes["bert.embeddings.position_embeddings.weight"]
    return {**shapes, DISTANCES: (2 * span(config), config.hidden_size)}


def stored_v2(config: BertConfig) -> Shapes:
    shapes, hidden = outer(config), config.hidden_size
    if "layer_norm" in config.extra["norm_rel_ebd"]:
        shapes |= {f"{DISTANCE_NORM}.weight": (hidden,), f"{DISTANCE_NORM}.bias": (hidden,)}
    if not config.extra["share_att_key"]:
        for i in range(config.num_hidden_layers):
            for kind, name in ((C2P, "pos_key_proj"), (P2C, "pos_query_proj")):
                if has(config, kind):
                    shapes |= {f"{SELF.format(i)}.{name}.weight": (hidden, hidden), f"{SELF.format(i)}.{name}.bias": (hidden,)}
    return shapes


def complete_v2(arrays: Arrays, config: BertConfig) -> Arrays:
    """The distances' keys and queries are the same for every text: they are computed here, once."""
    found = {name: array for name, array in arrays.items() if not name.startswith("deberta.")}
    distances = arrays[DISTANCES]
    if f"{DISTANCE_NORM}.weight" in arrays:
        centred = distances - distances.mean(1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + np.float32(config.layer_norm_eps))
        distances = normal * arrays[f"{DISTANCE_NORM}.weight"] + arrays[f"{DISTANCE_NORM}.bias"]
    for i in range(config.num_hidden_layers):
        for kind, result, own, shared in ((C2P, KEYS, "pos_key_proj", "key"), (P2C, QUERIES, "pos_query_proj", "query")):
            name = (
                f"bert.encoder.layer.{i}.attention.self.{shared}" if config.extra["share_att_key"] else f"{SELF.format(i)}.{own}"
            )
            if has(config, kind):
                found[result.format(i)] = distances @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
    return found


def stored_v1(config: BertConfig) -> Shapes:
    shapes, hidden = outer(config), config.hidden_size
    for i in range(config.num_hidden_layers):
        for part in ("query", "key", "value"):
            del shapes[f"bert.encoder.layer.{i}.attention.self.{part}.weight"]
            del shapes[f"bert.encoder.layer.{i}.attention.self.{part}.bias"]
        this = SELF.format(i)
        shapes |= {f"{this}.in_proj.weight": (3 * hidden, hidden), f"{this}.q_bias": (hidden,), f"{this}.v_bias": (hidden,)}
        if has(config, C2P):
            shapes |= {f"{this}.pos_proj.weight": (hidden, hidden)}
        if has(config, P2C):
            shapes |= {f"{this}.pos_q_proj.weight": (hidden, hidden), f"{this}.pos_q_proj.bias": (hidden,)}
    return shapes


def complete_v1(arrays: Arrays, config: BertConfig) -> Arrays:
    """Query, key and value are one projection, head by head, whose key has no bias."""
    found = {name: array for name, array in arrays.items() if not name.startswith("deberta.")}
    distances, hidden = arrays[DISTANCES], config.hidden_size
    for i in range(config.num_hidden_layers):
        this = SELF.format(i)
        fused = arrays[f"{this}.in_proj.weight"].reshape(config.num_attention_heads, 3, -1, hidden)
        biases = arrays[f"{this}.q_bias"], np.zeros(hidden, np.float32), arrays[f"{this}.v_bias"]
        for j, (part, bias) in enumerate(zip(("query", "key", "value"), biases)):
            name = f"bert.encoder.layer.{i}.attention.self.{part}"
            found[f"{name}.weight"], found[f"{name}.bias"] = np.ascontiguousarray(fused[:, j]).reshape(-1, hidden), bias
        if has(config, C2P):
            found[KEYS.format(i)] = distances @ arrays[f"{this}.pos_proj.weight"].T
        if has(config, P2C):
            found[QUERIES.format(i)] = distances @ arrays[f"{this}.pos_q_proj.weight"].T + arrays[f"{this}.pos_q_proj.bias"]
    return found


PARTS = {f"attention.self.{part}": f"attention.self.{part}_proj" for part in ("query", "key", "value")}
V2 = Family(
    "deberta-v2",
    "DebertaV2",
    "deberta",
    sentencepiece.DEBERTA_V2,
    defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-7},
    extra=EXTRA,
    read=read,
    tensor_name=renamer("deberta", parts=PARTS, pooler="pooler.dense"),
    stored=stored_v2,
    complete=complete_v2,
    pooler_activation=lambda config: POOLER_ACTIVATIONS[config.extra["pooler_hidden_act"]],
    network=deberta,
    beyond="disentangled attention",
)
FAMILIES = (
    replace(
        V2,
        model_type="deberta",
        architecture="Deberta",
        tokenizer=bytelevel.DEBERTA,
        extra={**EXTRA, "position_buckets": -1},
        stored=stored_v1,
        complete=complete_v1,
    ),
    V2,
)
