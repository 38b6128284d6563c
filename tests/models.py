"""Small BERT models for tests: every tensor is random, so that two that were swapped show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
import transformers

from helpers.config import BertConfig
from helpers.weights import BertWeights

VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", *ascii_lowercase, *(f"##{c}" for c in ascii_lowercase))


def small_config(**changes: Any) -> BertConfig:
    """Two layers of four heads of eight; `changes` replace what they name."""
    sizes: dict[str, Any] = {
        "vocab_size": len(VOCAB),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_new",
    }
    return BertConfig(**{**sizes, **changes})


def random_model(config: BertConfig, seed: int = 0) -> transformers.BertForQuestionAnswering:
    """Hugging Face's model, to be asked for logits, in evaluation mode; LayerNorms and biases are random too."""
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**asdict(config)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def weights_of(model: transformers.BertForQuestionAnswering, ranges: Mapping[str, float] | None = None) -> BertWeights:
    """What every loader must give for a file of this model."""
    return BertWeights.from_tensors(arrays_of(model), ranges)


def arrays_of(model: transformers.BertForQuestionAnswering) -> dict[str, np.ndarray]:
    """The model's own names and float32 arrays."""
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def write_vocab(path: Path, size: int = len(VOCAB)) -> None:
    """Writes a vocabulary that spells every lower-case word, letter by letter; beyond its tokens it has [unusedN]."""
    tokens = [*VOCAB, *(f"[unused{i}]" for i in range(size - len(VOCAB)))][:size]
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
