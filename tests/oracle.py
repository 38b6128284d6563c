"""Answers by brute force: Hugging Face's model on each window alone, and the score of every span that may be an answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from helpers.layouts import Batch, bounds_of
from helpers.qa.spans import Answer
from helpers.qa.windows import Options
from helpers.tokenization import Template, Tokenizer
from tests.batches import theirs

CLOSE = 1e-4  # of two scores that should be one
APART = 1e-3  # of two scores whose order is certain


class Expected(NamedTuple):
    """The score of every slice of the passage that may be an answer, the least score that is found, and the null score.

    Several runs of tokens may be one slice, where a token is a part of a character or a space.
    """

    passage: str
    scores: dict[tuple[int, int], float]
    least: float
    null_score: float


def expect(
    model: Any, tokenizer: Tokenizer, passage: str, question: str, options: Options, template: Template | None = None
) -> Expected:
    assert options.sequence_length
    template = template or Template()
    [text], [asked] = tokenizer([passage]), tokenizer([question])
    before, between, after = (tokenizer.ids(tokens) for tokens in template[:3])
    ids, query = text.ids.tolist(), asked.ids.tolist()[: options.max_question_len]
    offsets = text.offsets.tolist()
    room = options.sequence_length - len(query) - len(before + between + after)
    parts: list[tuple[int, int]] = []  # first token, tokens
    at = 0
    while True:
        shown = min(room, len(ids) - at)
        parts.append((at, shown))
        if at + shown == len(ids):
            break
        at += min(shown, options.doc_stride)

    def best_part(token: int) -> int:
        inside = [(i, a, n) for i, (a, n) in enumerate(parts) if a <= token < a + n]
        return max(inside, key=lambda part: (100 * min(token - part[1], part[1] + part[2] - 1 - token) + part[2], -part[0]))[0]

    scores: dict[tuple[int, int], float] = {}
    every: list[float] = []
    null_scores: list[float] = []
    for i, (first, shown) in enumerate(parts):
        left, right = [*before, *query, *between], [*ids[first : first + shown], *after]
        kinds = [0] * len(left) + [template.passage_segment] * len(right)
        tokens, segments = np.array([left + right, kinds], np.int32)
        logits = theirs(model, Batch(tokens, segments, bounds_of([len(tokens)])))
        starts, ends = logits[len(left) :].T.tolist()
        null_scores.append(float(logits[0].sum()))
        for start in range(shown):
            if best_part(first + start) != i:
                continue
            for end in range(start, min(start + options.max_answer_len, shown)):
                score = starts[start] + ends[end]
                every.append(score)
                key = offsets[first + start][0], offsets[first + end][1]
                scores[key] = max(score, scores.get(key, float("-inf")))
    # As many runs of tokens are looked for in each window, so the best of all are found.
    least = sorted([float("-inf")] * options.searched + every)[-options.searched]
    return Expected(passage, scores, least, min(null_scores))


def check(found: Answer, expected: Expected, options: Options) -> None:
    """Holds an answer against all that it might have been."""
    passage, scores, least, null_score = expected
    assert found.null_score == pytest.approx(null_score, abs=CLOSE)
    by_text: dict[str, float] = {}
    for (a, b), score in scores.items():
        by_text[passage[a:b]] = max(score, by_text.get(passage[a:b], float("-inf")))
    ranking = sorted(by_text.items(), key=lambda item: -item[1])

    # Those of one text may leave others no place.
    assert 0 < len(found.candidates) <= min(options.top_k, len(ranking))
    kept = max(least, float("-inf") if len(ranking) <= options.top_k else ranking[options.top_k][1])
    assert {text for text, score in ranking if score > kept + APART} <= {candidate.text for candidate in found.candidates}
    if len(ranking) == 1 or ranking[0][1] - ranking[1][1] > APART:
        assert found.text == ranking[0][0]
    assert found.score == pytest.approx(ranking[0][1], abs=CLOSE)
    # Probabilities are shared by all that are found: surely those above the least score, at most as many as are looked for.
    raised = [np.exp(score) for _, score in ranking[: options.searched]]
    fewest = sum(one for one, (_, score) in zip(raised, ranking) if score > least + APART)
    for text, start, end, score, chance in found.candidates:
        assert text == passage[start:end] != ""
        assert score == pytest.approx(scores[start, end], abs=CLOSE)
        assert score <= by_text[text] + CLOSE
        if by_text[text] > least + APART:
            assert score == pytest.approx(by_text[text], abs=CLOSE)
        assert np.exp(score) / sum(raised) - CLOSE <= chance <= np.exp(score) / max(fewest, np.exp(score)) + CLOSE
    assert len({candidate.text for candidate in found.candidates}) == len(found.candidates)
    ordered = [candidate.score for candidate in found.candidates]
    assert ordered == sorted(ordered, reverse=True)


def check_probabilities(found: Answer) -> None:
    """A softmax over the scores, where all that were found are kept."""
    raised = np.exp(np.array([candidate.score for candidate in found.candidates]))
    chances = [candidate.probability for candidate in found.candidates]
    assert chances == pytest.approx((raised / raised.sum()).tolist(), abs=1e-9)
    assert sum(chances) == pytest.approx(1, abs=1e-12)


def same(left: Answer, right: Answer) -> None:
    """Equal but for rounding, which may swap candidates of nearly one score."""
    assert left.null_score == pytest.approx(right.null_score, abs=CLOSE)
    assert [c.score for c in left.candidates] == pytest.approx([c.score for c in right.candidates], abs=CLOSE)
    assert [c.probability for c in left.candidates] == pytest.approx([c.probability for c in right.candidates], abs=CLOSE)
    scores = [c.score for c in left.candidates]
    for i, (one, other) in enumerate(zip(left.candidates, right.candidates)):
        beside = scores[max(0, i - 1) : i] + scores[i + 1 : i + 2]
        if all(abs(one.score - score) > APART for score in beside):
            assert one[:3] == other[:3]
