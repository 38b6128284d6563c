"""BertWeights: the one layout of a BERT question-answering model, whichever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

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
    """word [V, E], position [P, E], token_type [2, E], float32, and the normalisation of their sum."""

    word: np.ndarray
    position: np.ndarray
    token_type: np.ndarray
    norm: LayerNorm


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
class BertWeights:
    """A whole model; `ranges` holds the absolute maxima that quantization-aware training found, by quantizer name."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    qa_outputs: Linear
    ranges: Mapping[str, float] = field(default_factory=dict)

    def head_size(self, num_heads: int) -> int:
        """Channels of each attention head, which transforms may have made larger than the configuration's."""
        return len(self.layers[0].query.bias) // num_heads

    def tensors(self) -> dict[str, np.ndarray]:
        """Every array under its Hugging Face name."""
        named: dict[str, np.ndarray] = {
            "bert.embeddings.word_embeddings.weight": self.embeddings.word,
            "bert.embeddings.position_embeddings.weight": self.embeddings.position,
            "bert.embeddings.token_type_embeddings.weight": self.embeddings.token_type,
        }

        def add(prefix: str, part: Linear | LayerNorm) -> None:
            weight, bias = (part.weight, part.bias) if isinstance(part, Linear) else (part.gamma, part.beta)
            named[f"{prefix}.weight"], named[f"{prefix}.bias"] = weight, bias

        add("bert.embeddings.LayerNorm", self.embeddings.norm)
        for i, layer in enumerate(self.layers):
            for attribute, name in LAYER_NAMES.items():
                add(f"bert.encoder.layer.{i}.{name}", getattr(layer, attribute))
        add("qa_outputs", self.qa_outputs)
        return named

    @classmethod
    def from_tensors(cls, named: Mapping[str, np.ndarray], ranges: Mapping[str, float] | None = None) -> BertWeights:
        """The inverse of `tensors`. Raises KeyError for an absent name."""

        def linear(prefix: str) -> Linear:
            return Linear(named[f"{prefix}.weight"], named[f"{prefix}.bias"])

        def norm(prefix: str) -> LayerNorm:
            return LayerNorm(named[f"{prefix}.weight"], named[f"{prefix}.bias"])

        def layer(prefix: str) -> Layer:
            parts: dict[str, Any] = {
                attribute: (norm if attribute in NORMS else linear)(f"{prefix}.{name}") for attribute, name in LAYER_NAMES.items()
            }
            return Layer(**parts)

        depth = next(i for i in count() if f"bert.encoder.layer.{i}.attention.self.query.weight" not in named)
        word, position, token_type = (
            named[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        return cls(
            Embeddings(word, position, token_type, norm("bert.embeddings.LayerNorm")),
            tuple(layer(f"bert.encoder.layer.{i}") for i in range(depth)),
            linear("qa_outputs"),
            dict(ranges or {}),
        )


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
    """The Hugging Face name and shape of every tensor that a model of this configuration has."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "bert.embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "bert.embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        "bert.embeddings.LayerNorm.weight": (hidden,),
        "bert.embeddings.LayerNorm.bias": (hidden,),
    }
    matrices = {"intermediate": (inner, hidden), "output": (hidden, inner)}
    for i in range(config.num_hidden_layers):
        for attribute, name in LAYER_NAMES.items():
            matrix = matrices.get(attribute, (hidden, hidden))
            shapes[f"bert.encoder.layer.{i}.{name}.weight"] = (hidden,) if attribute in NORMS else matrix
            shapes[f"bert.encoder.layer.{i}.{name}.bias"] = matrix[:1]
    shapes["qa_outputs.weight"], shapes["qa_outputs.bias"] = (2, hidden), (2,)
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
