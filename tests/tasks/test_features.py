"""Vectors of texts by hand, in batches of windows of different lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.tasks.features import POOLINGS, collect
from helpers.tasks.windows import cut
from helpers.tokenization import Template
from tests.wordpieces import letters

ENCODED, _ = cut(["the cat", "", "a", "who sat there"], None, letters(), Template(), 30)
LENGTHS = [8, 2, 3, 13]


def outputs_of(indexes: list[int]) -> np.ndarray:
    """Outputs of a window do not depend on its batch."""
    parts = [np.random.default_rng(i).standard_normal((LENGTHS[i], 5)) for i in indexes]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[3, 1], [2], [0]]], ids=str)
def test_vectors(pooling: str, batches: list[list[int]]) -> None:
    assert [window.length for window in ENCODED.windows] == LENGTHS
    found = dict(collect(ENCODED, [(indexes, outputs_of(indexes)) for indexes in batches], pooling))
    assert sorted(found) == [0, 1, 2, 3]
    for i, vector in found.items():
        outputs = outputs_of([i])
        expected = outputs.mean(0) if pooling == "mean" else outputs[0]
        assert vector.dtype == np.float32 and vector.shape == (5,)
        np.testing.assert_allclose(vector, expected, rtol=1e-6, atol=1e-7)


def test_a_mean_of_many_is_exact() -> None:
    outputs = np.full((100_000, 1), 0.1, np.float32)
    assert POOLINGS["mean"](outputs, np.array([len(outputs)])).item() == pytest.approx(np.float32(0.1), rel=1e-9)


def test_outputs_that_are_not_numbers() -> None:
    outputs: Any = outputs_of([2])
    outputs[1, 1] = np.inf
    with pytest.raises(RuntimeError, match="not numbers"):
        list(collect(ENCODED, [([2], outputs)], "cls"))
