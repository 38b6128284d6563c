"""What a model family is: its configuration's keys, its tensors' names, its network, its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from helpers import weights
from helpers.bert import bert
from helpers.sites import Sites, bert_sites
from helpers.tokenization import Kind

if TYPE_CHECKING:
    from helpers.config import BertConfig

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, "tuple[int, ...]"]


def renamer(
    prefix: str,
    layers: str = "encoder.layer.",
    parts: Mapping[str, str] | None = None,
    pooler: str = "",
    pooled: str = "classifier",
) -> Callable[[str, BertConfig], str]:
    """A function from BERT's name of a tensor (weights.tensor_shapes) to a checkpoint's; other names stay.

    Args:
        prefix: of the encoder.
        layers: of its layers, without their number.
        parts: of a layer, and of the encoder besides its layers, where their names differ.
        pooler: of a sequence classifier, and `pooled` the projection after it.
    """
    parts = parts or {}

    def tensor_name(name: str, config: BertConfig) -> str:
        part, _, kind = name.rpartition(".")
        if part == weights.POOLER:
            part = pooler or f"{prefix}.pooler.dense"
        elif part == weights.OUTPUTS and config.task != "question-answering":
            part = pooled if config.pooled else "classifier"
        elif part.startswith("bert.encoder.layer."):
            number, _, inner = part[len("bert.encoder.layer.") :].partition(".")
            part = f"{prefix}.{layers}{number}.{parts.get(inner, inner)}"
        elif part.startswith("bert."):
            inner = part[len("bert.") :]
            part = f"{prefix}.{parts.get(inner, inner)}"
        return f"{part}.{kind}"

    return tensor_name


LARGEST = 2**31 - 1  # of a size, which libraries keep in 32 bits


def check_whole(name: str, value: Any, need: Callable[..., None], least: int = 1, most: int = LARGEST) -> None:
    """Needs a size, or another number of something, to be a whole number."""
    kind = "positive whole number" if least > 0 else "whole number"
    bound = f" up to {most:,}" if type(value) is int and value > most else ""
    need(type(value) is int and least <= value <= most, f"{name} must be a {kind}{bound}, not {value!r:.60}")


def as_it_is(value: Any, _: Any = None) -> Any:
    return value


@dataclass(frozen=True)
class Family:
    """What is particular to the checkpoints of one model_type.

    Args:
        architecture: what the names of Hugging Face's classes begin with.
        prefix: of its encoder's tensors, which files of the encoder alone leave out.
        tokenizer: that its checkpoints have unless they say otherwise.
        keys: BertConfig's fields that the configuration calls otherwise.
        defaults, fixed: BertConfig's fields that have another default, or that the family's own code fixes.
        extra: further keys of the configuration, with their defaults.
        read: (configuration, need) → configuration, checked by `need(fits, problem, hint)`.
        written: the inverse.
        tensor_name: the checkpoint's name of a tensor, given BERT's.
        stored: the tensors that a checkpoint has, under BERT's names or, where BERT has none, its own.
        complete: BERT's own tensors and further ones of those stored.
        pooler_activation: of a sequence classifier's head.
        network, sites: (graph, weights, sites, config), and its sites for (config, whether residuals are Megatron's).
        beyond: what its network has that BERT's has not, in words, where no kernel for BERT's attention runs it.
    """

    model_type: str
    architecture: str
    prefix: str
    tokenizer: Kind
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[BertConfig, Callable[..., None]], BertConfig] = as_it_is
    written: Callable[[BertConfig], BertConfig] = as_it_is
    tensor_name: Callable[[str, BertConfig], str] = renamer("bert")
    stored: Callable[[BertConfig], Shapes] = weights.tensor_shapes
    complete: Callable[[Arrays, BertConfig], Arrays] = as_it_is
    pooler_activation: Callable[[BertConfig], str] = lambda config: "hyperbolic"
    network: Callable[[Any, weights.BertWeights, Sites, BertConfig], None] = bert
    sites: Callable[[BertConfig, bool], Sites] = lambda config, megatron: bert_sites(config.num_hidden_layers, megatron)
    beyond: str = ""
