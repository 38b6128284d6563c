"""Logits as scores, against PyTorch, and where they overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tasks.scores import SCORINGS, check, sigmoid, softmax

LOGITS = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) * 20


def test_scores() -> None:
    doubled = torch.from_numpy(LOGITS).double()
    np.testing.assert_allclose(softmax(LOGITS), doubled.softmax(-1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(sigmoid(LOGITS), doubled.sigmoid().numpy(), rtol=0, atol=1e-15)
    assert set(SCORINGS) == {"softmax", "sigmoid", "none"}
    assert SCORINGS["none"](LOGITS) is LOGITS


def test_logits_that_are_large() -> None:
    assert softmax(np.array([1e4, 1e4, -1e4], np.float32)).tolist() == [0.5, 0.5, 0.0]
    assert sigmoid(np.array([3e38, -3e38, 0], np.float32)).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_numbers(value: float) -> None:
    logits = LOGITS.copy()
    check(logits)
    logits[3, 2] = value
    with pytest.raises(RuntimeError, match="not numbers"):
        check(logits)
