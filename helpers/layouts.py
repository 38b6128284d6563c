"""Batches, and how they lie in an engine's tensors: padded to one length, or packed end to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from helpers.errors import InputError

PACKED_LEAST = 64  # tokens that a packed engine makes room for a sequence, however short it is


class Batch(NamedTuple):
    """B sequences of T tokens end to end, int32: input_ids [T], segment_ids [T], and cu_seqlens [B + 1], where each starts."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    cu_seqlens: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, [B]."""
        return np.diff(self.cu_seqlens)

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))

    def check(self) -> None:
        """Raises InputError where the arrays do not belong together."""
        tokens = len(self.input_ids)
        if len(self.segment_ids) != tokens:
            raise InputError(f"segment_ids has {len(self.segment_ids)} tokens, input_ids {tokens}: they must agree")
        bounds = self.cu_seqlens
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != tokens or (np.diff(bounds) < 1).any():
            raise InputError(
                f"cu_seqlens must rise from 0 to the number of tokens, {tokens}, by at least 1 a sequence, "
                f"not {np.array2string(bounds, threshold=8)}"
            )


def bounds_of(lengths: Sequence[int]) -> np.ndarray:
    """cu_seqlens [B + 1] int32 of sequences of these lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)


class Profile(NamedTuple):
    """What an engine was optimised for: batches of up to `batch_size` sequences of `sequence_length` tokens."""

    batch_size: int
    sequence_length: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def packed_sequences(self) -> int:
        """The most sequences of a packed batch."""
        return max(self.batch_size, self.tokens // PACKED_LEAST)


class Layout(ABC):
    """Takes batches to an engine's inputs and its output back to logits, within the bounds of its profiles.

    Args:
        best_tokens: tokens of a batch beyond which a larger one is no faster; None where larger is always better.
        length_classes: what kernels round a batch's longest sequence up to: shorter ones then better go by themselves.
        width: W, the logits of a token, or of a sequence if `pooled`.
    """

    inputs: Sequence[str]

    def __init__(
        self,
        profiles: Sequence[Profile],
        best_tokens: int | None = None,
        length_classes: Sequence[int] = (),
        width: int = 2,
        pooled: bool = False,
    ) -> None:
        self.profiles = list(profiles)
        self.max_sequence_length = max(profile.sequence_length for profile in profiles)
        self.best_tokens, self.length_classes = best_tokens, length_classes
        self.width, self.pooled = width, pooled

    @abstractmethod
    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The engine's inputs, int32, by name."""

    @abstractmethod
    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        """The logits [T, W], pooled [B, W], in an engine's output, which may be flat."""

    @abstractmethod
    def profile(self, batch: Batch) -> int:
        """The index of the tightest profile. Raises InputError where none takes this batch."""

    @abstractmethod
    def counted(self, length: int, longest: int) -> int:
        """The tokens that are computed for a sequence in a batch whose longest sequence has `longest`."""

    @abstractmethod
    def room(self, longest: int) -> tuple[int, int]:
        """The most sequences, and the most computed tokens, of a batch whose longest sequence has that length."""

    def max_batch_size(self, sequence_length: int) -> int:
        """The largest batch of sequences of one length."""
        return max(p.batch_size for p in self.profiles if p.sequence_length >= sequence_length)

    def listed(self) -> str:
        """The profiles, for messages."""
        return ", ".join(f"{size} × {length}" for size, length in self.profiles)


class Padded(Layout):
    """Inputs [B, S], output [B, S, W, 1, 1], pooled [B, 1, W, 1, 1]; the axes of 1 may be missing.

    A profile takes smaller batches.

    Args:
        any_length: whether sequences need not be padded to a profile's length.
    """

    inputs = ("input_ids", "segment_ids", "input_mask")

    def __init__(
        self,
        profiles: Sequence[Profile],
        any_length: bool,
        best_tokens: int | None = None,
        width: int = 2,
        pooled: bool = False,
    ) -> None:
        super().__init__(profiles, best_tokens, width=width, pooled=pooled)
        self.any_length = any_length

    def counted(self, length: int, longest: int) -> int:
        return longest if self.any_length else min(p.sequence_length for p in self.profiles if p.sequence_length >= longest)

    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        length = batch.longest if self.any_length else self.profiles[self.profile(batch)].sequence_length
        present = np.arange(length) < batch.lengths[:, None]  # where the padded batch has tokens, [B, S]

        def padded(tokens: np.ndarray) -> np.ndarray:
            array = np.zeros(present.shape, np.int32)
            array[present] = tokens
            return array

        arrays = padded(batch.input_ids), padded(batch.segment_ids), present.astype(np.int32)
        return dict(zip(self.inputs, arrays))

    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        rows = output.reshape(len(batch.lengths), -1, self.width)  # one a sequence, where pooled
        return rows[np.arange(rows.shape[1]) < batch.lengths[:, None]]

    def profile(self, batch: Batch) -> int:
        batch.check()
        size, longest = len(batch.lengths), batch.longest
        fitting = [
            (p.sequence_length, p.batch_size, i)
            for i, p in enumerate(self.profiles)
            if p.batch_size >= size and p.sequence_length >= longest
        ]
        if not fitting:
            raise InputError(f"a batch of {size} × {longest} tokens fits none of the engine's profiles, {self.listed()}")
        return min(fitting)[-1]

    def room(self, longest: int) -> tuple[int, int]:
        fitting = [p for p in self.profiles if p.sequence_length >= longest]
        if not self.any_length:
            fitting = [p for p in fitting if p.sequence_length == self.counted(longest, longest)]
        size = max(p.batch_size for p in fitting)
        return size, size * self.counted(longest, longest)


class Packed(Layout):
    """Inputs input_ids [T], segment_ids [T], cu_seqlens [B + 1], max_seqlen [longest]; output [W, T, 1, 1], pooled [B, W, 1, 1].

    Of max_seqlen only the length is read. The output's axes of 1 may be missing.
    """

    inputs = ("input_ids", "segment_ids", "cu_seqlens", "max_seqlen")

    def counted(self, length: int, longest: int) -> int:
        return length

    def feed(self, batch: Batch) -> Mapping[str, np.ndarray]:
        return {**batch._asdict(), "max_seqlen": np.zeros(batch.longest, np.int32)}

    def logits(self, output: np.ndarray, batch: Batch) -> np.ndarray:
        return output.reshape(-1, self.width) if self.pooled else output.reshape(self.width, -1).T

    def profile(self, batch: Batch) -> int:
        batch.check()
        tokens, sequences, longest = len(batch.input_ids), len(batch.lengths), batch.longest
        fitting = [
            (p.tokens, i)
            for i, p in enumerate(self.profiles)
            if p.tokens >= tokens and p.packed_sequences >= sequences and p.sequence_length >= longest
        ]
        if not fitting:
            largest = max(self.profiles, key=lambda p: p.tokens)
            raise InputError(
                f"{sequences} sequences of {tokens} tokens, the longest of {longest}, do not fit the engine, which takes "
                f"{largest.packed_sequences} of {largest.tokens} tokens, the longest of {largest.sequence_length}"
            )
        return min(fitting)[1]

    def room(self, longest: int) -> tuple[int, int]:
        largest = max((p for p in self.profiles if p.sequence_length >= longest), key=lambda p: p.tokens)
        return largest.packed_sequences, largest.tokens


def is_packed(inputs: Collection[str]) -> bool:
    """Whether an engine with these inputs is a packed one."""
    return "cu_seqlens" in inputs
