"""Logits as scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import numpy as np


def check(logits: np.ndarray) -> None:
    """Raises RuntimeError where logits are not numbers."""
    if not np.isfinite(logits).all():
        raise RuntimeError(
            "the engine's logits are not numbers: values overflow in this model; if it was built in float16, build it in float32"
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """In float64; by tanh, which no logit overflows."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64)))


# What makes scores of the logits of a sequence, by the name that a description has for it.
SCORINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"softmax": softmax, "sigmoid": sigmoid, "none": np.asarray}
