"""ModernBERT (Warner et al., 2024, arXiv:2412.13663)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from helpers.families.base import Arrays, Family, Shapes, check_whole
from helpers.modernbert import GLOBAL, LOCAL, modernbert
from helpers.precision import FLOAT32
from helpers.sites import pre_norm_sites
from helpers.tokenization import bytelevel
from helpers.weights import OUTPUTS, POOLER, POOLER_NORM

if TYPE_CHECKING:
    from helpers.config import BertConfig

ACTIVATIONS = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "relu": "relu",
    "silu": "silu",
    "tanh": "hyperbolic",
}
EXTRA: dict[str, Any] = {
    "layer_types": None,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "rope_parameters": None,
    "rope_scaling": None,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_pooling": "cls",
    "classifier_activation": "gelu",
}


def read(config: BertConfig, need: Callable[..., None]) -> BertConfig:
    """Which layers attend to all of a text, and how fast positions turn in each kind: told in an old and a new way."""
    extra, layers = dict(config.extra), config.num_hidden_layers
    for name in ("global_attn_every_n_layers", "local_attention"):
        check_whole(name, extra[name], need)
    kinds = extra["layer_types"] or [LOCAL if i % extra["global_attn_every_n_layers"] else GLOBAL for i in range(layers)]
    known = isinstance(kinds, (list, tuple)) and len(kinds) == layers and all(kind in (LOCAL, GLOBAL) for kind in kinds)
    need(known, f"layer_types must name {LOCAL} or {GLOBAL} for each of {layers} layers")
    told = extra["rope_parameters"] or {}
    known = isinstance(told, dict) and all(isinstance(told.get(kind) or {}, dict) for kind in (LOCAL, GLOBAL))
    need(known, f"rope_parameters must be given for {LOCAL} and {GLOBAL}")
    theta: dict[str, Any] = {}
    for kind, name in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta")):
        of_kind = told.get(kind) or {}
        need(of_kind.get("rope_type", "default") == "default", f"rope_type {of_kind.get('rope_type')!r:.60} is not supported")
        theta[kind] = of_kind.get("rope_theta") or extra[name] or extra["global_rope_theta"]
        known = type(theta[kind]) in (int, float) and 0 < theta[kind] <= FLOAT32.largest
        need(known, f"{name} must be a positive number, not {theta[kind]!r:.60}")
    need(not extra["rope_scaling"], "rope_scaling is not supported")
    need(
        extra["classifier_pooling"] in ("cls", "mean"), f"classifier_pooling {extra['classifier_pooling']!r:.60} is not supported"
    )
    activation = extra["classifier_activation"]
    need(activation in tuple(ACTIVATIONS), f"classifier_activation {activation!r:.60} is not supported")
    need(config.head_size % 2 == 0, f"heads of {config.head_size} cannot have rotary positions, which turn pairs")
    return replace(config, extra={**extra, "layer_types": tuple(kinds), "rope_theta": theta})


def parts(config: BertConfig) -> dict[str, tuple[tuple[int, int] | tuple[int], bool]]:
    """The shape of each part's weight, and whether it has a bias."""
    hidden, inner, extra = config.hidden_size, config.intermediate_size, config.extra
    found: dict[str, tuple[tuple[int, int] | tuple[int], bool]] = {"model.embeddings.norm": ((hidden,), extra["norm_bias"])}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        if i:
            found[f"{layer}.attn_norm"] = ((hidden,), extra["norm_bias"])
        found[f"{layer}.attn.Wqkv"] = ((3 * hidden, hidden), extra["attention_bias"])
        found[f"{layer}.attn.Wo"] = ((hidden, hidden), extra["attention_bias"])
        found[f"{layer}.mlp_norm"] = ((hidden,), extra["norm_bias"])
        found[f"{layer}.mlp.Wi"] = ((2 * inner, hidden), extra["mlp_bias"])
        found[f"{layer}.mlp.Wo"] = ((hidden, inner), extra["mlp_bias"])
    found["model.final_norm"] = ((hidden,), extra["norm_bias"])
    if config.labels:
        found["head.dense"] = ((hidden, hidden), extra["classifier_bias"])
        found["head.norm"] = ((hidden,), extra["norm_bias"])
        found["classifier"] = ((len(config.labels), hidden), True)
    return found


def stored(config: BertConfig) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {"model.embeddings.tok_embeddings.weight": (config.vocab_size, config.hidden_size)}
    for name, (shape, biased) in parts(config).items():
        shapes[f"{name}.weight"] = shape
        if biased:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def complete(arrays: Arrays, config: BertConfig) -> Arrays:
    """BERT's tensors: a layer's norms are those of the sums that it makes, and what has no bias gets zeros."""
    found: dict[str, np.ndarray] = {"bert.embeddings.word_embeddings.weight": arrays["model.embeddings.tok_embeddings.weight"]}

    def give(to: str, name: str) -> None:
        weight = arrays[f"{name}.weight"]
        found[f"{to}.weight"], found[f"{to}.bias"] = weight, arrays.get(f"{name}.bias", np.zeros(len(weight), np.float32))

    give("bert.embeddings.LayerNorm", "model.embeddings.norm")
    last = config.num_hidden_layers - 1
    for i in range(config.num_hidden_layers):
        layer, bert = f"model.layers.{i}", f"bert.encoder.layer.{i}"
        give("fused", f"{layer}.attn.Wqkv")
        for kind in ("weight", "bias"):
            for part, rows in zip(("query", "key", "value"), np.split(found.pop(f"fused.{kind}"), 3)):
                found[f"{bert}.attention.self.{part}.{kind}"] = rows
        give(f"{bert}.attention.output.dense", f"{layer}.attn.Wo")
        give(f"{bert}.attention.output.LayerNorm", f"{layer}.mlp_norm")
        give(f"{bert}.intermediate.dense", f"{layer}.mlp.Wi")
        give(f"{bert}.output.dense", f"{layer}.mlp.Wo")
        give(f"{bert}.output.LayerNorm", "model.final_norm" if i == last else f"model.layers.{i + 1}.attn_norm")
    if config.labels:
        for to, name in ((POOLER, "head.dense"), (POOLER_NORM, "head.norm"), (OUTPUTS, "classifier")):
            give(to, name)
    return found


FAMILIES = (
    Family(
        "modernbert",
        "ModernBert",
        "model",
        bytelevel.GENERIC,
        keys={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
        defaults={"layer_norm_eps": 1e-5},
        fixed={"type_vocab_size": 0},
        extra=EXTRA,
        read=read,
        tensor_name=lambda name, config: name,
        stored=stored,
        complete=complete,
        pooler_activation=lambda config: ACTIVATIONS[config.extra["classifier_activation"]],
        network=modernbert,
        sites=lambda config, megatron: pre_norm_sites(config.num_hidden_layers),
        beyond="rotary positions",
    ),
)
