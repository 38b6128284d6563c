"""Feature extraction: one vector for each text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable

import numpy as np

from helpers.qa.windows import Encoded
from helpers.tasks import scores


def mean(outputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of all of a window's tokens, the special ones too."""
    return np.asarray(np.add.reduceat(outputs, np.cumsum(lengths) - lengths, dtype=np.float64) / lengths[:, None])


def first(outputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of a window's first token, [CLS]."""
    return outputs[np.cumsum(lengths) - lengths]


# (outputs [T, E] of B windows end to end, their lengths [B]) → one vector for each, [B, E]
POOLINGS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"mean": mean, "cls": first}


def collect(
    encoded: Encoded, results: Iterable[tuple[Sequence[int], np.ndarray]], pooling: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (text, vector [E] float32) batch by batch.

    Args:
        encoded: of texts with one window each.
        results: indexes of texts, and the outputs [T, E] of their tokens end to end.
        pooling: one of POOLINGS.

    Raises:
        RuntimeError: outputs are not numbers.
    """
    for indexes, outputs in results:
        scores.check(outputs)
        lengths = np.array([encoded.windows[i].length for i in indexes])
        yield from zip(indexes, POOLINGS[pooling](outputs, lengths).astype(np.float32))
