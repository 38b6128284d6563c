"""From logits to answers: the best spans of each window, merged into the candidates of each question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from helpers.qa.windows import Encoded, Options, Window
from helpers.tasks import scores


class Candidate(NamedTuple):
    """A slice of the passage, characters [start, end), and the sum of its start and end logit.

    `probability` is a softmax of that over the question's best 20 candidates, however few are kept; over all that are
    kept, where those are more; and over "no answer", where a passage may hold none.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


class Answer(NamedTuple):
    """The candidates for a question, at least one, no text twice, the answer first and the others by their score.

    Where a passage may hold no answer, the candidate for that is the empty text. `null_score` is its score.
    """

    candidates: list[Candidate]
    null_score: float

    @property
    def text(self) -> str:
        return self.candidates[0].text

    @property
    def start(self) -> int:
        return self.candidates[0].start

    @property
    def end(self) -> int:
        return self.candidates[0].end

    @property
    def score(self) -> float:
        return self.candidates[0].score

    @property
    def probability(self) -> float:
        return self.candidates[0].probability

    @property
    def null_odds(self) -> float:
        """How much better no answer scores than the best one; 0 where there is none."""
        return self.null_score - max((each.score for each in self.candidates if each.text), default=self.null_score)


NOTHING = Answer([Candidate("", 0, 0, 0.0, 1.0)], 0.0)  # where a question or its passage has no words


class Spans(NamedTuple):
    """Spans of a batch, best first: first and last token, inclusive, [B, n] int32 and score [B, n] float32.

    Where a window has fewer candidates than n, the score is -inf.
    """

    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


def collect(
    encoded: Encoded, results: Iterable[tuple[Sequence[int], np.ndarray]], options: Options
) -> Iterator[tuple[int, Answer]]:
    """Yields (question, answer) as soon as the last window of a question has been run; holds no logits.

    Those without words are answered first, with NOTHING.

    Args:
        results: indexes of windows, and their logits [T, 2] end to end.

    Raises:
        RuntimeError: logits are not numbers.
    """
    windows = encoded.windows
    siblings = encoded.siblings()
    starts_here = {
        i: mask
        for group in siblings.values()
        if len(group) > 1
        for i, mask in zip(group, best_context([windows[j] for j in group]))
    }
    waiting = {question: len(group) for question, group in siblings.items()}
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, float]] = {}
    yield from ((question, NOTHING) for question in encoded.wordless())

    for indexes, logits in results:
        group = [windows[i] for i in indexes]
        shown = np.array([window.shown for window in group])
        begins = np.cumsum([0, *(window.length for window in group[:-1])])
        places = np.arange(shown.max())
        may_end = places < shown[:, None]  # the passages alone, [B, most tokens shown]
        may_start = may_end.copy()
        for row, i in enumerate(indexes):
            if i in starts_here:
                may_start[row, : windows[i].shown] = starts_here[i]
        first = begins + [window.first for window in group]
        of_passages = logits[np.minimum(first[:, None] + places, len(logits) - 1)]
        null_scores = logits[begins].sum(-1, dtype=np.float32)
        scores.check(of_passages[may_end])
        scores.check(null_scores)
        spans = best_spans(of_passages, may_start, may_end, options.max_answer_len, options.searched)
        for row, (i, window) in enumerate(zip(indexes, group)):
            parts = spans.start[row] + window.offset, spans.end[row] + window.offset, spans.score[row]
            found[i] = (*parts, float(null_scores[row]))
            question = window.question
            waiting[question] -= 1
            if not waiting[question]:
                yield question, merge(encoded, question, [found.pop(j) for j in siblings[question]], options)


def merge(
    encoded: Encoded, question: int, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, float]], options: Options
) -> Answer:
    """One answer from the spans (first token, last token, score) and null scores of a question's windows."""
    start, end, score = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(-score, kind="stable")
    order = order[np.isfinite(score[order])]
    passage = encoded.passage_of[question]
    text, offsets = encoded.texts[passage], encoded.passages[passage].offsets
    first, past = offsets[start[order], 0].tolist(), offsets[end[order], 1].tolist()
    spans: dict[str, tuple[str, int, int, float]] = {}
    for a, b, total in zip(first, past, score[order].tolist()):
        if len(spans) == options.searched:
            break
        spans.setdefault(text[a:b], (text[a:b], a, b, total))
    ranked, null_score, wins = list(spans.values()), min(part[3] for part in parts), False
    if options.handle_impossible_answer:
        wins = null_score - ranked[0][3] > options.null_threshold
        ranked.insert(0 if wins else len(ranked), ("", 0, 0, null_score))
    chances = scores.softmax(np.array([span[3] for span in ranked])).tolist()
    candidates = [Candidate(*span, chance) for span, chance in zip(ranked, chances)]
    del candidates[wins + options.top_k : wins + len(spans)]  # but not their share of the probability
    return Answer(candidates, null_score)


def best_context(windows: Sequence[Window]) -> list[np.ndarray]:
    """For the windows of one question: which of the tokens that each shows have their best context there, [shown] bool.

    A token's context in a window is the smaller of the numbers of tokens to its left and right there, plus a hundredth
    of the window's width; an earlier window wins a tie. An answer starts only where its first token has its best
    context, as in BERT's own treatment of SQuAD: the same span is not offered twice.
    """
    total = windows[-1].offset + windows[-1].shown
    context, best = np.full(total, -1.0), np.zeros(total, np.int32)
    for row, window in enumerate(windows):
        inside, part = np.arange(window.shown), slice(window.offset, window.offset + window.shown)
        own = np.minimum(inside, window.shown - 1 - inside) + 0.01 * window.shown
        best[part][own > context[part]] = row
        np.maximum(context[part], own, out=context[part])
    return [best[window.offset : window.offset + window.shown] == row for row, window in enumerate(windows)]


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
