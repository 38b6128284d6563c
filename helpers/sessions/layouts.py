"""How a batch lies in an engine's tensors: padded, or packed end to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from helpers.errors import InputError
from helpers.windows import Batch

# Fused attention over packed sequences rounds the longest of a batch up to one of these (docs/design.md).
LENGTH_CLASSES = (64, 96, 128, 192, 256, 384, 512)


class Profile(NamedTuple):
    """What an engine was optimised for: batches of up to `batch_size` sequences of `sequence_length` tokens."""

    batch_size: int
    sequence_length: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def packed_sequences(self) -> int:
        """The most sequences of a packed batch. Attention rounds each up to 64 tokens, so none counts as less."""
        return max(self.batch_size, self.tokens // LENGTH_CLASSES[0])


class Layout(ABC):
    """Takes batches to an engine's inputs and its output back to logits, within the bounds of its profiles."""

    inputs: Sequence[str]

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self.profiles = list(profiles)
        self.max_sequence_length = max(profile.sequence_length for profile in profiles)

    @abstractmethod
    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The engine's inputs, int32, by name."""

    @abstractmethod
    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        """The logits [B, S, 2] in an engine's output, which may be flat; zero at padding where the engine has none."""

    @abstractmethod
    def profile(self, feed: Mapping[str, np.ndarray]) -> int:
        """The index of the tightest profile. Raises InputError where none takes these inputs."""

    @abstractmethod
    def schedule(self, lengths: Sequence[int], batch_size: int | None = None) -> list[tuple[Sequence[int], int]]:
        """Groups windows of similar length into batches as large as the engine takes, the longest first.

        Args:
            lengths: tokens of each window.
            batch_size: an upper bound on the windows of a batch.

        Returns:
            (indexes of the windows, sequence length of the batch) for each batch.

        Raises:
            InputError: a window is longer than the engine's longest sequence.
        """

    def max_batch_size(self, sequence_length: int) -> int:
        """The largest batch of sequences of one length."""
        return max(p.batch_size for p in self.profiles if p.sequence_length >= sequence_length)

    def describe(self) -> str:
        """The profiles, for messages."""
        return ", ".join(f"{size} × {length}" for size, length in self.profiles)

    def longest_first(self, lengths: Sequence[int]) -> list[int]:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        if order and lengths[order[0]] > self.max_sequence_length:
            raise InputError(
                f"a sequence of {lengths[order[0]]} tokens does not fit the engine's longest, "
                f"{self.max_sequence_length}: lower -s"
            )
        return order


class Padded(Layout):
    """Inputs [B, S], output [B, S, 2, 1, 1]. A profile takes smaller batches, but sequences of its own length only.

    Args:
        any_length: whether sequences need not be padded to a profile's length.
    """

    inputs = ("input_ids", "segment_ids", "input_mask")

    def __init__(self, profiles: Sequence[Profile], any_length: bool) -> None:
        super().__init__(profiles)
        self.any_length = any_length

    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        return batch._asdict()

    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        return output.reshape(*batch.input_ids.shape, 2)

    def profile(self, feed: Mapping[str, np.ndarray]) -> int:
        size, length = feed["input_ids"].shape
        fitting = [
            (p.tokens, i)
            for i, p in enumerate(self.profiles)
            if p.batch_size >= size and (p.sequence_length == length or (self.any_length and p.sequence_length > length))
        ]
        if not fitting:
            raise InputError(f"a batch of {size} × {length} tokens fits none of the engine's profiles, {self.describe()}")
        return min(fitting)[1]

    def schedule(self, lengths: Sequence[int], batch_size: int | None = None) -> list[tuple[Sequence[int], int]]:
        order = self.longest_first(lengths)
        batches: list[tuple[Sequence[int], int]] = []
        at = 0
        while at < len(order):
            fitting = [p for p in self.profiles if p.sequence_length >= lengths[order[at]]]
            length = lengths[order[at]] if self.any_length else min(p.sequence_length for p in fitting)
            largest = max(p.batch_size for p in fitting if self.any_length or p.sequence_length == length)
            size = min(largest, batch_size or len(order))
            batches.append((order[at : at + size], length))
            at += size
        return batches


class Packed(Layout):
    """Inputs input_ids [T], segment_ids [T], cu_seqlens [B + 1], max_seqlen [longest]; output [2, T, 1, 1].

    Of max_seqlen only the length is read.
    """

    inputs = ("input_ids", "segment_ids", "cu_seqlens", "max_seqlen")

    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        seen = batch.input_mask.astype(bool)
        lengths = seen.sum(1)
        return {
            "input_ids": batch.input_ids[seen],
            "segment_ids": batch.segment_ids[seen],
            "cu_seqlens": np.concatenate([[0], lengths.cumsum()]).astype(np.int32),
            "max_seqlen": np.zeros(lengths.max(initial=0), np.int32),
        }

    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        seen = batch.input_mask.astype(bool)
        logits = np.zeros((*seen.shape, 2), np.float32)
        logits[seen] = output.reshape(2, -1).T
        return logits

    def profile(self, feed: Mapping[str, np.ndarray]) -> int:
        self.check(feed)
        tokens, sequences, longest = len(feed["input_ids"]), len(feed["cu_seqlens"]) - 1, len(feed["max_seqlen"])
        fitting = [
            (p.tokens, i)
            for i, p in enumerate(self.profiles)
            if p.tokens >= tokens and p.packed_sequences >= sequences and p.sequence_length >= longest
        ]
        if not fitting:
            largest = max(self.profiles)
            raise InputError(
                f"{sequences} sequences of {tokens} tokens, the longest of {longest}, do not fit the engine, which takes "
                f"{largest.packed_sequences} of {largest.tokens} tokens, the longest of {largest.sequence_length}"
            )
        return min(fitting)[1]

    def check(self, feed: Mapping[str, np.ndarray]) -> None:
        """Raises InputError where cu_seqlens are not running totals of the sequences' lengths, or one is too long."""
        bounds, tokens, longest = feed["cu_seqlens"], len(feed["input_ids"]), len(feed["max_seqlen"])
        steps = np.diff(bounds)
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != tokens or (steps < 1).any():
            raise InputError(
                f"cu_seqlens must rise from 0 to the number of tokens, {tokens}, by at least 1 a sequence, "
                f"not {np.array2string(bounds, threshold=8)}"
            )
        if len(feed["segment_ids"]) != tokens:
            raise InputError(f"segment_ids has {len(feed['segment_ids'])} tokens, input_ids {tokens}: they must agree")
        if steps.max() > longest:
            raise InputError(f"a sequence of {steps.max()} tokens is longer than max_seqlen, {longest}")

    def schedule(self, lengths: Sequence[int], batch_size: int | None = None) -> list[tuple[Sequence[int], int]]:
        order = self.longest_first(lengths)
        largest = max(self.profiles)
        bound = min(largest.packed_sequences, batch_size or len(order))
        batches: list[tuple[Sequence[int], int]] = []
        batch: list[int] = []
        tokens = kind = 0
        for i in order:
            if not batch or len(batch) == bound or tokens + lengths[i] > largest.tokens or lengths[i] <= kind:
                batch, tokens = [], 0
                batches.append((batch, lengths[i]))
                # The class below this window's own: a window that fits it starts a batch of its own.
                kind = max((c for c in LENGTH_CLASSES if c < lengths[i]), default=0)
            batch.append(i)
            tokens += lengths[i]
        return batches
