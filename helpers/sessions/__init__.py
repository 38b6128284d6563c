"""Sessions: run an engine. A batch in, logits out, whichever runtime does the work and however the engine packs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Callable

import numpy as np

from helpers.sessions.layouts import Layout
from helpers.windows import Batch


class Session(ABC):
    """An engine, loaded and ready."""

    backend: str
    version: str
    device: str
    layout: Layout
    vocab_size: int | None = None  # rows of the word embedding, where the engine itself tells

    @abstractmethod
    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Runs batches in order; yields the logits [B, S, 2] float32 of each. Batches are drawn ahead of the results.

        Raises:
            InputError: a batch does not fit the engine.
        """

    @abstractmethod
    def timed(self, batch: Batch) -> Callable[[], float]:
        """A function that runs the engine alone on `batch`, which lies ready, and returns milliseconds."""
