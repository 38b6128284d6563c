"""BertWeights: the one layout of a BERT question-answering model, whichever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from helpers.config import BertConfig


@dataclass(frozen=True)
class Linear:
    """y = x · weightᵀ + bias, with weight [out, in] and bias [out], float32."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class LayerNorm:
    """Scale and shift of a layer normalisation, each [E] float32."""

    gamma: np.ndarray
    beta: np.ndarray


@dataclass(frozen=True)
class Embeddings:
    """word [V, E], position [P, E], token_type [2, E], float32, and the normalisation of their sum; None where there is none."""

    word: np.ndarray
    position: np.ndarray | None
    token_type: np.ndarray | None
    norm: LayerNorm

    def tables(self) -> tuple[np.ndarray, ...]:
        """Those that there are."""
        return tuple(table for table in (self.word, self.position, self.token_type) if table is not None)


@dataclass(frozen=True)
class Layer:
    """One encoder layer. The rows of query, key and value are ordered [N, D]."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    intermediate: Linear
    output: Linear
    output_norm: LayerNorm


@dataclass(frozen=True)
class Head:
    """What a task adds to the encoder: a projection that is activated, and normalised, and the one to its outputs."""

    dense: Linear | None = None
    norm: LayerNorm | None = None
    out: Linear | None = None


@dataclass(frozen=True)
class BertWeights:
    """A whole model.

    Args:
        ranges: the absolute maxima that quantization-aware training found, by quantizer name.
        further: what a family's network has besides, by name.
    """

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head
    ranges: Mapping[str, float] = field(default_factory=dict)
    further: Mapping[str, np.ndarray] = field(default_factory=dict)

    def head_size(self, num_heads: int) -> int:
        """Channels of each attention head, which transforms may have made larger than the configuration's."""
        return len(self.layers[0].query.bias) // num_heads

    def tensors(self) -> dict[str, np.ndarray]:
        """Every array under its Hugging Face name."""
        named = {
            f"bert.embeddings.{name}_embeddings.weight": table
            for name in TABLES
            if (table := getattr(self.embeddings, name)) is not None
        }

        def add(prefix: str, part: Linear | LayerNorm | None) -> None:
            if part:
                weight, bias = (part.weight, part.bias) if isinstance(part, Linear) else (part.gamma, part.beta)
                named[f"{prefix}.weight"], named[f"{prefix}.bias"] = weight, bias

        add("bert.embeddings.LayerNorm", self.embeddings.norm)
        for i, layer in enumerate(self.layers):
            for attribute, name in LAYER_NAMES.items():
                add(f"bert.encoder.layer.{i}.{name}", getattr(layer, attribute))
        add(POOLER, self.head.dense)
        add(POOLER_NORM, self.head.norm)
        add(OUTPUTS, self.head.out)
        return {**named, **self.further}

    @classmethod
    def from_tensors(cls, named: Mapping[str, np.ndarray], ranges: Mapping[str, float] | None = None) -> BertWeights:
        """The inverse of `tensors`; names that are not BERT's are kept as further ones. Raises KeyError for an absent name."""
        rest = dict(named)

        def linear(prefix: str) -> Linear:
            return Linear(rest.pop(f"{prefix}.weight"), rest.pop(f"{prefix}.bias"))

        def norm(prefix: str) -> LayerNorm:
            return LayerNorm(rest.pop(f"{prefix}.weight"), rest.pop(f"{prefix}.bias"))

        def layer(prefix: str) -> Layer:
            parts: dict[str, Any] = {
                attribute: (norm if attribute in NORMS else linear)(f"{prefix}.{name}") for attribute, name in LAYER_NAMES.items()
            }
            return Layer(**parts)

        depth = next(i for i in count() if f"bert.encoder.layer.{i}.attention.self.query.weight" not in named)
        word = rest.pop("bert.embeddings.word_embeddings.weight")
        position, token_type = (rest.pop(f"bert.embeddings.{name}_embeddings.weight", None) for name in TABLES[1:])
        embeddings = Embeddings(word, position, token_type, norm("bert.embeddings.LayerNorm"))
        layers = tuple(layer(f"bert.encoder.layer.{i}") for i in range(depth))
        head = Head(
            linear(POOLER) if f"{POOLER}.weight" in named else None,
            norm(POOLER_NORM) if f"{POOLER_NORM}.weight" in named else None,
            linear(OUTPUTS) if f"{OUTPUTS}.weight" in named else None,
        )
        return cls(embeddings, layers, head, dict(ranges or {}), rest)


TABLES = ("word", "position", "token_type")
POOLER, POOLER_NORM, OUTPUTS = "pooler.dense", "pooler.norm", "qa_outputs"  # of a head, whatever the task
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
NORMS = ("attention_norm", "output_norm")


def tensor_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The Hugging Face name and shape of every tensor that a BERT of this configuration has for its task."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "bert.embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "bert.embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        "bert.embeddings.LayerNorm.weight": (hidden,),
        "bert.embeddings.LayerNorm.bias": (hidden,),
    }
    if not config.type_vocab_size:
        del shapes["bert.embeddings.token_type_embeddings.weight"]
    matrices = {"intermediate": (inner, hidden), "output": (hidden, inner)}
    for i in range(config.num_hidden_layers):
        for attribute, name in LAYER_NAMES.items():
            matrix = matrices.get(attribute, (hidden, hidden))
            shapes[f"bert.encoder.layer.{i}.{name}.weight"] = (hidden,) if attribute in NORMS else matrix
            shapes[f"bert.encoder.layer.{i}.{name}.bias"] = matrix[:1]
    return {**shapes, **head_shapes(config)}


def head_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a task's head: a pooler where one output is given for a whole sequence, and the outputs' projection."""
    hidden, width = config.hidden_size, len(config.labels)
    shapes: dict[str, tuple[int, ...]] = {}
    if config.pooled:
        shapes = {f"{POOLER}.weight": (hidden, hidden), f"{POOLER}.bias": (hidden,)}
    if width:
        shapes |= {f"{OUTPUTS}.weight": (width, hidden), f"{OUTPUTS}.bias": (width,)}
    return shapes


def random_weights(config: BertConfig, seed: int = 0) -> BertWeights:
    """A model of random weights, spread as BERT's own initialization (normal, 0.02), which any benchmark can run."""
    generator = np.random.default_rng(seed)
    shapes = tensor_shapes(config).items()
    weights = BertWeights.from_tensors({name: generator.standard_normal(s, np.float32) * np.float32(0.02) for name, s in shapes})
    norms = [weights.embeddings.norm, *(getattr(layer, norm) for layer in weights.layers for norm in NORMS)]
    for norm in norms:
        norm.gamma[:] += 1
    return weights
