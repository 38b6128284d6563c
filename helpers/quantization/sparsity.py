"""2:4 structured sparsity (Mishra et al., 2021, arXiv:2104.08378): two zeros in any four neighbours along a matrix's input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from helpers.weights import BertWeights, Layer, Linear


def matrices(weights: BertWeights) -> list[np.ndarray]:
    """Every matrix of the encoder."""
    return [part.weight for layer in weights.layers for part in vars(layer).values() if isinstance(part, Linear)]


def is_sparse(matrix: np.ndarray) -> bool:
    """Whether of every 4 neighbours along a matrix's input at least 2 are zero."""
    rows, columns = matrix.shape
    return columns % 4 == 0 and bool(((matrix.reshape(rows, -1, 4) != 0).sum(-1) <= 2).all())


def prune(weights: BertWeights) -> BertWeights:
    """Zeroes the two smallest of every four neighbours along the input of the encoder's projections."""

    def pruned(part: Any) -> Any:
        if not isinstance(part, Linear):
            return part
        fours = part.weight.reshape(-1, 4)
        kept = np.argsort(np.abs(fours), axis=1)[:, 2:]
        sparse = np.zeros_like(fours)
        np.put_along_axis(sparse, kept, np.take_along_axis(fours, kept, 1), 1)
        return replace(part, weight=sparse.reshape(part.weight.shape))

    layers = tuple(Layer(**{name: pruned(part) for name, part in vars(layer).items()}) for layer in weights.layers)
    return replace(weights, layers=layers)
