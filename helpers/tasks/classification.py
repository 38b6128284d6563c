"""Sequence classification: the labels of each text, or pair of texts, with their scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from helpers.tasks import scores


class Label(NamedTuple):
    """A label and its score: a probability, or of a regression the number itself."""

    label: str
    score: float


def collect(
    results: Iterable[tuple[Sequence[int], np.ndarray]], labels: Sequence[str], scoring: str, top_k: int | None = None
) -> Iterator[tuple[int, list[Label]]]:
    """Yields (text, labels) batch by batch, the labels with the highest score first.

    Args:
        results: indexes of texts, one window each, and their logits [B, W].
        labels: W names.
        scoring: one of scores.SCORINGS.
        top_k: how many labels are kept; None for all.

    Raises:
        RuntimeError: logits are not numbers.
    """
    for indexes, logits in results:
        scores.check(logits)
        scored = scores.SCORINGS[scoring](logits)
        order = np.argsort(-scored, axis=1, kind="stable")[:, :top_k]
        for text, row, best in zip(indexes, scored.tolist(), order.tolist()):
            yield text, [Label(labels[i], row[i]) for i in best]
