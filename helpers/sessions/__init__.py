"""Sessions: run an engine. A batch in, logits out, whichever runtime does the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple

import numpy as np

from helpers.errors import InputError
from helpers.windows import Batch


class Profile(NamedTuple):
    """What an engine was optimised for: batches of up to `batch_size` sequences of `sequence_length` tokens."""

    batch_size: int
    sequence_length: int


class Session(ABC):
    """An engine, loaded and ready."""

    backend: str
    version: str
    device: str
    profiles: Sequence[Profile]

    @abstractmethod
    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Runs batches in order; yields the logits [B, S, 2] float32 of each. Batches are drawn ahead of the results."""

    @abstractmethod
    def timed(self, batch: Batch) -> Callable[[], float]:
        """A function that runs the engine alone on `batch`, which lies ready, and returns milliseconds."""

    @property
    def max_sequence_length(self) -> int:
        return max(profile.sequence_length for profile in self.profiles)

    def max_batch_size(self, sequence_length: int) -> int:
        """The largest batch at a sequence length."""
        fitting = [p.batch_size for p in self.profiles if p.sequence_length >= sequence_length]
        return max(fitting)

    def schedule(self, lengths: Sequence[int], batch_size: int | None = None) -> list[tuple[Sequence[int], int]]:
        """Groups windows of similar length into batches as large as the engine takes, the longest first.

        Args:
            lengths: tokens of each window.
            batch_size: an upper bound, below the engine's own.

        Returns:
            (indexes of the windows, sequence length to pad them to) for each batch.

        Raises:
            InputError: a window is longer than the engine's longest sequence.
        """
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        if order and lengths[order[0]] > self.max_sequence_length:
            raise InputError(
                f"a window of {lengths[order[0]]} tokens does not fit the engine's longest sequence, "
                f"{self.max_sequence_length}: lower -s"
            )
        batches: list[tuple[Sequence[int], int]] = []
        at = 0
        while at < len(order):
            length = self.padded_length(lengths[order[at]])
            size = min(self.max_batch_size(length), batch_size or len(order))
            batches.append((order[at : at + size], length))
            at += size
        return batches

    def padded_length(self, length: int) -> int:
        """The shortest sequence length of the engine that holds `length` tokens."""
        return min(p.sequence_length for p in self.profiles if p.sequence_length >= length)
