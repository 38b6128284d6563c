"""Windows over passages that are longer than a model's sequence, and the best answer spans in their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from helpers.tokenization import Tokenizer, Tokens


class Batch(NamedTuple):
    """What an engine takes: input_ids, segment_ids, input_mask, each [B, S] int32; the mask is ones, then zeros."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    input_mask: np.ndarray


class Window(NamedTuple):
    """[CLS] question [SEP] a part of the passage [SEP]. All but `question` count tokens."""

    question: int  # index of the question
    offset: int  # of the passage's first token that the window shows
    first: int  # where that token stands in the window
    shown: int  # tokens of the passage

    @property
    def length(self) -> int:
        return self.first + self.shown + 1


@dataclass(frozen=True)
class Encoded:
    """Tokenized passages and questions, and the windows that cover them, those of one question side by side."""

    texts: Sequence[str]  # the passages as they were given
    passages: Sequence[Tokens]
    questions: Sequence[Tokens]
    passage_of: Sequence[int]  # question → passage
    windows: list[Window]
    tokenizer: Tokenizer

    def passage(self, window: Window) -> Tokens:
        return self.passages[self.passage_of[window.question]]


def make_windows(question: int, question_tokens: int, passage_tokens: int, sequence_length: int, doc_stride: int) -> list[Window]:
    """The windows over one passage. They start `doc_stride` tokens apart, closer where less than that fits.

    The caller sees to it that a window has room for at least one token of the passage.
    """
    first = question_tokens + 2
    room = sequence_length - first - 1
    step = min(doc_stride, room)
    last = max(0, -(-(passage_tokens - room) // step)) * step
    return [Window(question, offset, first, min(room, passage_tokens - offset)) for offset in range(0, last + 1, step)]


def fill(encoded: Encoded, windows: Sequence[Window], sequence_length: int) -> Batch:
    """Lays windows out as one batch [B, S], padded to `sequence_length`."""
    shape = (len(windows), sequence_length)
    batch = Batch(np.full(shape, encoded.tokenizer.pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    for row, window in enumerate(windows):
        end = window.length
        ids = batch.input_ids[row]
        ids[0] = encoded.tokenizer.cls
        ids[1 : window.first - 1] = encoded.questions[window.question].ids
        ids[window.first - 1] = ids[end - 1] = encoded.tokenizer.sep
        ids[window.first : end - 1] = encoded.passage(window).ids[window.offset : window.offset + window.shown]
        batch.segment_ids[row, window.first : end] = 1
        batch.input_mask[row, :end] = 1
    return batch


def best_context(windows: Sequence[Window]) -> list[np.ndarray]:
    """For the windows of one question: which of the tokens that each shows have their best context there, [shown] bool.

    A token's context in a window is the smaller of the numbers of tokens to its left and right there, plus a hundredth
    of the window's width; an earlier window wins a tie. An answer starts only where its first token has its best
    context, as in BERT's own treatment of SQuAD: the same span is not offered twice.
    """
    total = windows[-1].offset + windows[-1].shown
    context = np.full((len(windows), total), -1.0)
    for row, window in enumerate(windows):
        inside = np.arange(window.shown)
        context[row, window.offset : window.offset + window.shown] = (
            np.minimum(inside, window.shown - 1 - inside) + 0.01 * window.shown
        )
    best = context.argmax(0)
    return [best[window.offset : window.offset + window.shown] == row for row, window in enumerate(windows)]


class Spans(NamedTuple):
    """Candidates of a batch, best first: start, end [B, n] int32 (positions, inclusive) and score [B, n] float32.

    Where a window has fewer candidates than n, the score is -inf.
    """

    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


def best_spans(logits: np.ndarray, may_start: np.ndarray, may_end: np.ndarray, longest: int, n_best: int) -> Spans:
    """The n_best spans with the highest sum of start and end logit, exactly.

    Args:
        logits: [B, S, 2] float, start then end.
        may_start, may_end: [B, S] bool, positions where an answer may start and end.
        longest: tokens of the longest answer.
        n_best: candidates a window.

    A span among the n best starts at one of the n positions whose own best span is highest, so only those positions
    are paired with all their ends.
    """
    batch, length, _ = logits.shape
    longest, positions = min(longest, length), min(n_best, length)
    starts = np.where(may_start, logits[..., 0], -np.inf)
    ends = np.pad(np.where(may_end, logits[..., 1], -np.inf), ((0, 0), (0, longest)), constant_values=-np.inf)

    # The highest end logit within `longest` positions, in log2(longest) passes: each doubles the reach.
    reach, highest = 1, ends
    while reach < longest:
        step = min(reach, longest - reach)
        highest = np.maximum(highest[:, :-step], highest[:, step:])
        reach += step
    own_best = starts + highest[:, :length]

    rows = np.arange(batch)[:, None]
    start = np.argpartition(-own_best, positions - 1, axis=1)[:, :positions]
    pairs = starts[rows, start][..., None] + ends[rows[..., None], start[..., None] + np.arange(longest)]
    flat = pairs.reshape(batch, -1)
    n_best = min(n_best, flat.shape[1])
    chosen = np.argpartition(-flat, n_best - 1, axis=1)[:, :n_best]
    chosen = np.take_along_axis(chosen, np.argsort(-np.take_along_axis(flat, chosen, 1), axis=1, kind="stable"), 1)
    start = np.take_along_axis(start, chosen // longest, 1)
    return Spans(
        start.astype(np.int32),
        (start + chosen % longest).astype(np.int32),
        np.take_along_axis(flat, chosen, 1).astype(np.float32),
    )
