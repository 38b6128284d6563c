"""From logits to answers: contexts and spans against brute force, merging, and logits that are none."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.layouts import Padded, Profile
from helpers.qa.spans import Answer, Candidate, best_context, best_spans, collect, merge
from helpers.qa.windows import Encoded, Options, Window, encode, make_windows
from helpers.tokenization import Template
from tests.wordpieces import letters

NEVER = float("-inf")
SHORT = Options(sequence_length=24, doc_stride=7, max_question_len=9, max_answer_len=6, top_k=8)
TOKENIZER = letters()
BERT = Template()

# (tokens of the question, tokens of the passage, tokens of a window, stride), with room for the passage in each window
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 90), st.integers(1, 40), st.integers(1, 50)).map(
    lambda sizes: (sizes[0], sizes[1], sizes[0] + 3 + sizes[2], sizes[3])
)


# The best context


def windows_of(question: int, passage: int, length: int, stride: int) -> list[Window]:
    return make_windows(0, question, passage, BERT, length, stride)


def context_by_hand(windows: list[Window]) -> dict[int, int]:
    """Token → window, by BERT's own rule in whole hundredths: the smaller side, a little for the width, the first of equals."""
    best: dict[int, int] = {}
    score: dict[int, int] = {}
    for i, window in enumerate(windows):
        for left in range(window.shown):
            right = window.shown - 1 - left
            token, own = window.offset + left, 100 * min(left, right) + window.shown
            if token not in best or own > score[token]:
                best[token], score[token] = i, own
    return best


@given(SIZES)
@example((1, 90, 44, 1))
@settings(max_examples=300)
def test_best_context(sizes: tuple[int, int, int, int]) -> None:
    windows = windows_of(*sizes)
    masks = best_context(windows)
    expected = context_by_hand(windows)
    assert [len(mask) for mask in masks] == [window.shown for window in windows]
    found = [window.offset + int(i) for window, mask in zip(windows, masks) for i in np.flatnonzero(mask)]
    assert Counter(found) == Counter(range(sizes[1]))  # each token has exactly one best window
    for i, (window, mask) in enumerate(zip(windows, masks)):
        assert [expected[window.offset + j] == i for j in range(window.shown)] == mask.tolist()


@given(SIZES)
@settings(max_examples=100)
def test_best_context_has_the_larger_smaller_side(sizes: tuple[int, int, int, int]) -> None:
    """The rule as it is told, where no window is so much wider that its width counts as a token of context."""
    windows = windows_of(*sizes)
    for i, mask in enumerate(best_context(windows)):
        for j in np.flatnonzero(mask):
            token = windows[i].offset + int(j)
            context = [
                (min(token - w.offset, w.offset + w.shown - 1 - token), w.shown, -k)
                for k, w in enumerate(windows)
                if w.offset <= token < w.offset + w.shown
            ]
            assert max(context)[2] == -i


@pytest.mark.parametrize(("passage", "length", "stride"), [(700, 384, 128), (381, 384, 128), (600, 512, 64), (300, 200, 190)])
def test_best_context_in_windows_of_everyday_size(passage: int, length: int, stride: int) -> None:
    windows = windows_of(12, passage, length, stride)
    expected = context_by_hand(windows)
    assert len(windows) > 1
    for i, (window, mask) in enumerate(zip(windows, best_context(windows))):
        assert [expected[window.offset + j] == i for j in range(window.shown)] == mask.tolist()


def test_best_context_by_hand() -> None:
    windows = [Window(0, 0, 4, 6, 11), Window(0, 3, 4, 6, 11), Window(0, 6, 4, 4, 9)]  # tokens 0-5, 3-8, 6-9
    masks = [mask.astype(int).tolist() for mask in best_context(windows)]
    #                    0  1  2  3  4  5
    assert masks[0] == [1, 1, 1, 1, 1, 0]  # 4 has one token beside it in both windows, the first wins
    assert masks[1] == [0, 0, 1, 1, 1, 0]  # 5 has two here; 7 has one in both that show it, the wider wins
    assert masks[2] == [0, 0, 1, 1]
    [alone] = best_context([Window(3, 0, 4, 2, 7)])
    assert alone.tolist() == [True, True]


def test_best_context_of_a_long_passage_takes_little_memory() -> None:
    """Some bytes a token shown, where a table of windows by tokens would take 2 GB."""
    windows = windows_of(12, 200_000, 384, 128)
    shown = sum(window.shown for window in windows)
    tracemalloc.start()
    masks = best_context(windows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(int(mask.sum()) for mask in masks) == 200_000
    assert peak < 10 * shown


# The best spans


def spans_by_hand(logits: np.ndarray, may_start: np.ndarray, may_end: np.ndarray, longest: int) -> dict[tuple[int, int], float]:
    """The score of every span of one sequence."""
    length = len(logits)
    return {
        (i, j): float(np.float32(logits[i, 0]) + np.float32(logits[j, 1]))
        for i in range(length)
        for j in range(i, min(length, i + longest))
        if may_start[i] and may_end[j]
    }


def check_spans(logits: np.ndarray, may_start: np.ndarray, may_end: np.ndarray, longest: int, n_best: int) -> None:
    spans = best_spans(logits, may_start, may_end, longest, n_best)
    assert spans.start.shape == spans.end.shape == spans.score.shape
    assert len(spans.score) == len(logits)
    assert spans.score.shape[1] <= n_best
    assert [str(array.dtype) for array in spans] == ["int32", "int32", "float32"]
    for row in range(len(logits)):
        every = spans_by_hand(logits[row], may_start[row], may_end[row], longest)
        best = sorted(every.values(), reverse=True)[:n_best]
        scores = spans.score[row].tolist()
        assert scores == best + [NEVER] * (len(scores) - len(best))
        found = list(zip(spans.start[row].tolist(), spans.end[row].tolist()))[: len(best)]
        assert len(set(found)) == len(best)  # none twice
        assert [every[span] for span in found] == best  # each is a span, and has the score beside it
        if len(set(every.values())) == len(every):
            assert set(found) == set(sorted(every, key=lambda span: -every[span])[:n_best])


@st.composite
def problems(draw: st.DrawFn, more_than_length: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 14))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (batch, length)
    if draw(st.booleans()):
        logits = generator.standard_normal((*shape, 2), np.float32) * 5
    else:
        logits = generator.integers(-2, 3, (*shape, 2)).astype(np.float32)  # full of ties
    allowed = draw(st.sampled_from((0.0, 0.2, 0.7, 1.0)))
    may_start, may_end = generator.random(shape) < allowed, generator.random(shape) < max(allowed, 0.5)
    n_best = draw(st.integers(length + 1, 60) if more_than_length else st.integers(1, length))
    return logits, may_start, may_end, draw(st.integers(1, 20)), n_best


@given(problems())
@settings(max_examples=400)
def test_best_spans(problem: tuple[np.ndarray, np.ndarray, np.ndarray, int, int]) -> None:
    check_spans(*problem)


@given(problems(more_than_length=True))
@settings(max_examples=200)
def test_best_spans_asked_for_more_than_the_sequence_is_long(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray, int, int],
) -> None:
    check_spans(*problem)


@pytest.mark.parametrize(("length", "longest", "n_best"), [(384, 30, 20), (512, 30, 20), (100, 7, 3), (64, 64, 64), (40, 1, 40)])
def test_best_spans_in_sequences_of_everyday_size(length: int, longest: int, n_best: int) -> None:
    generator = np.random.default_rng(length)
    shape = (3, length)
    may_end = np.broadcast_to(np.arange(length) >= 12, shape) & np.array([[True], [True], [False]])
    check_spans(generator.standard_normal((*shape, 2), np.float32), may_end, may_end, longest, n_best)


def test_best_spans_by_hand() -> None:
    logits = np.array([[[0, 8], [5, 0.5], [1, 4], [0, 3]]], np.float32)
    everywhere = np.ones((1, 4), bool)
    spans = best_spans(logits, everywhere, everywhere, 2, 3)
    assert [array.tolist() for array in spans] == [[[1, 0, 1]], [[2, 0, 1]], [[9.0, 8.0, 5.5]]]


def test_best_spans_of_one_token() -> None:
    one = np.ones((1, 1), bool)
    spans = best_spans(np.array([[[2, 3]]], np.float32), one, one, 30, 1)
    assert [array.tolist() for array in spans] == [[[0]], [[0]], [[5.0]]]


# Collecting

PASSAGES = ["the cat sat on the mat. it was a mat of straw", "a b c", "who sat where and why? nobody knows"]
QUESTIONS, PASSAGE_OF = ["who?", "why", "wo ist x"], [0, 1, 2]
ENCODED = encode(PASSAGES, QUESTIONS, PASSAGE_OF, TOKENIZER, BERT, SHORT)


def logits_of(windows: Sequence[Window], seed: int | Sequence[int] = 0) -> np.ndarray:
    """Random logits of windows end to end."""
    return np.random.default_rng(seed).standard_normal((sum(window.length for window in windows), 2)).astype(np.float32)


Results = list[tuple[list[int], np.ndarray]]


def results_of(encoded: Encoded, groups: Sequence[list[int]]) -> Results:
    """Logits of batches of these windows; a window's do not depend on its batch."""
    return [(group, np.concatenate([logits_of([encoded.windows[i]], i) for i in group])) for group in groups]


def test_the_windows() -> None:
    """Of one question there are several, of another one is enough; no two batches of them need be alike."""
    counts = Counter(window.question for window in ENCODED.windows)
    assert counts[0] > 2 and counts[1] == 1 and counts[2] > 2
    assert len({window.length for window in ENCODED.windows}) > 2


def test_batches_do_not_matter() -> None:
    count = len(ENCODED.windows)
    alone = results_of(ENCODED, [[i] for i in range(count)])
    expected = dict(collect(ENCODED, alone, SHORT))
    assert set(expected) == {0, 1, 2}
    assert dict(collect(ENCODED, alone[::-1], SHORT)) == expected
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(count).tolist()
        groups = [order[:1], order[1:4], order[4:]]
        assert dict(collect(ENCODED, results_of(ENCODED, groups), SHORT)) == expected


def test_an_answer_comes_with_its_last_window() -> None:
    encoded = encode(PASSAGES[::2], ["who?", "why"], [0, 1], TOKENIZER, BERT, SHORT)
    drawn: list[int] = []

    def in_order() -> Iterator[tuple[list[int], np.ndarray]]:
        for i, window in enumerate(encoded.windows):
            drawn.append(i)
            yield [i], logits_of([window], i)

    own = sum(window.question == 0 for window in encoded.windows)
    assert 1 < own < len(encoded.windows) - 1
    answers = collect(encoded, in_order(), SHORT)
    assert (next(answers)[0], len(drawn)) == (0, own)
    assert (next(answers)[0], len(drawn)) == (1, len(encoded.windows))


def answer_by_hand(encoded: Encoded, question: int, results: Results, options: Options) -> list[tuple[str, float, float]]:
    """Text, score and probability of the candidates, from every span of every window."""
    logits = {i: parts for [i], parts in results}
    mine = [i for i, window in enumerate(encoded.windows) if window.question == question]
    best = context_by_hand([encoded.windows[i] for i in mine])
    passage = encoded.passage_of[question]
    text, offsets = encoded.texts[passage], encoded.passages[passage].offsets
    found: list[tuple[float, str]] = []
    for row, i in enumerate(mine):
        window = encoded.windows[i]
        own = logits[i][window.first : window.first + window.shown]
        may_start = np.array([best[window.offset + j] == row for j in range(window.shown)])
        spans = spans_by_hand(own, may_start, np.ones(window.shown, bool), options.max_answer_len)
        for (a, b), score in sorted(spans.items(), key=lambda item: -item[1])[: max(options.top_k, 20)]:
            found.append((score, text[offsets[window.offset + a, 0] : offsets[window.offset + b, 1]]))
    ranked: dict[str, float] = {}
    for score, slice_ in sorted(found, key=lambda each: -each[0]):
        ranked.setdefault(slice_, score)
    kept = list(ranked.items())[: max(options.top_k, 20)]
    total = sum(np.exp(score) for _, score in kept)
    return [(slice_, score, np.exp(score) / total) for slice_, score in kept][: options.top_k]


@given(
    passage=st.text("abc .", min_size=1, max_size=60).filter(lambda text: bool(text.strip())),
    options=st.builds(Options, st.integers(8, 30), st.integers(1, 20), st.just(3), st.integers(1, 9), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_answers_by_brute_force(passage: str, options: Options, seed: int) -> None:
    encoded = encode([passage], ["why"], [0], TOKENIZER, BERT, options)
    results: Results = [([i], logits_of([window], (seed, i))) for i, window in enumerate(encoded.windows)]
    [(_, found)] = collect(encoded, results, options)
    expected = answer_by_hand(encoded, 0, results, options)
    assert [candidate.text for candidate in found.candidates] == [text for text, *_ in expected]
    assert [candidate.score for candidate in found.candidates] == [score for _, score, _ in expected]
    assert [candidate.probability for candidate in found.candidates] == pytest.approx([chance for *_, chance in expected])


@pytest.mark.parametrize(
    ("nothing", "threshold"), [(False, 0.0), (True, 100.0), (True, -100.0)], ids=["not asked", "loses", "wins"]
)
def test_how_many_are_kept_does_not_matter(nothing: bool, threshold: float) -> None:
    """Up to the default they are the first of as many, with the same probability, and "no answer" beside them."""
    results = results_of(ENCODED, [[i] for i in range(len(ENCODED.windows))])
    asked = replace(SHORT, handle_impossible_answer=nothing, null_threshold=threshold)
    whole = dict(collect(ENCODED, results, replace(asked, top_k=20)))
    assert sorted({len(found.candidates) for found in whole.values()}) == [6 + nothing, 20 + nothing]
    for top_k in (1, 2, 19):
        for question, found in collect(ENCODED, results, replace(asked, top_k=top_k)):
            spoken = [candidate for candidate in whole[question].candidates if candidate.text]
            dropped = spoken[top_k:]
            assert found.candidates == [each for each in whole[question].candidates if each not in dropped]
            assert found.null_score == whole[question].null_score
    more = dict(collect(ENCODED, results, replace(asked, top_k=10**30)))
    assert len(more[0].candidates) > 21
    assert all(sum(candidate.probability for candidate in found.candidates) == pytest.approx(1) for found in more.values())


def test_questions_without_words_are_answered_with_nothing() -> None:
    encoded = encode(["a b", " "], ["why", "", "who", "who"], [0, 0, 1, 0], TOKENIZER, BERT, SHORT)
    assert [window.question for window in encoded.windows] == [0, 3]
    found = list(collect(encoded, results_of(encoded, [[0, 1]]), SHORT))
    assert [question for question, _ in found] == [1, 2, 0, 3]
    for _, answer in found[:2]:
        assert answer == Answer([Candidate("", 0, 0, 0.0, 1.0)], 0.0)
        assert answer.null_odds == 0
    for _, answer in found[2:]:
        assert answer.null_odds == answer.null_score - answer.score


# Logits that are none


def one_window() -> tuple[Encoded, np.ndarray]:
    encoded = encode(["a b c d e f"], ["why"], [0], TOKENIZER, BERT, SHORT)
    [window] = encoded.windows
    return encoded, logits_of([window])


@pytest.mark.parametrize("where", [slice(None), 0, 7], ids=["everywhere", "[CLS]", "a word of the passage"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_not_numbers_are_an_error(where: int | slice, value: float) -> None:
    encoded, logits = one_window()
    logits[where] = value
    with pytest.raises(RuntimeError, match="not numbers"):
        list(collect(encoded, [([0], logits)], SHORT))


@pytest.mark.parametrize("where", [0, 3], ids=["[CLS]", "a word of the passage"])
def test_logits_that_are_not_numbers_in_any_window(where: int) -> None:
    everything = list(range(len(ENCODED.windows)))
    begins = np.cumsum([0, *(window.length for window in ENCODED.windows)])
    for window, begin in zip(ENCODED.windows, begins):
        [(indexes, logits)] = results_of(ENCODED, [everything])
        logits[begin + (window.first + window.shown - 1 if where else 0), 1] = np.nan
        with pytest.raises(RuntimeError, match="not numbers"):
            list(collect(ENCODED, [(indexes, logits)], SHORT))


VALUES = (float("nan"), float("inf"), 1e30)


@pytest.mark.parametrize("value", VALUES)
def test_logits_of_padding_do_not_matter(value: float) -> None:
    """What a padded engine has computed beyond the end of a sequence."""
    layout = Padded([Profile(len(ENCODED.windows), 40)], any_length=False)
    batch = ENCODED.batch(ENCODED.windows)
    [(indexes, logits)] = results_of(ENCODED, [list(range(len(ENCODED.windows)))])
    output = np.full((len(ENCODED.windows), 40, 2, 1, 1), value, np.float32)
    begins = batch.cu_seqlens
    for row, (begin, end) in enumerate(zip(begins, begins[1:])):
        output[row, : end - begin, :, 0, 0] = logits[begin:end]
    found = dict(collect(ENCODED, [(indexes, layout.logits(output, batch))], SHORT))
    assert found == dict(collect(ENCODED, [(indexes, logits)], SHORT))


@pytest.mark.parametrize("value", VALUES)
def test_logits_outside_the_passage_do_not_matter(value: float) -> None:
    """But for those of [CLS], with which a window begins."""
    [(indexes, logits)] = results_of(ENCODED, [list(range(len(ENCODED.windows)))])
    expected = dict(collect(ENCODED, [(indexes, logits)], SHORT))
    begin = 0
    for window in ENCODED.windows:
        logits[begin + 1 : begin + window.first] = value
        logits[begin + window.first + window.shown : begin + window.length] = value
        begin += window.length
    assert dict(collect(ENCODED, [(indexes, logits)], SHORT)) == expected


# Merging


def part(spans: list[tuple[int, int, float]], null_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    start, end, score = (np.array(column) for column in zip(*spans))
    return start.astype(np.int32), end.astype(np.int32), score.astype(np.float32), null_score


Span = tuple[str, int, int, float]

MERGED = encode(["b a A, cd a"], ["why"], [0], TOKENIZER, BERT, SHORT)  # tokens b a A , c ##d a
PARTS = [
    part([(1, 1, 5), (0, 1, 3), (0, 0, NEVER), (6, 6, NEVER)], -1.5),
    part([(6, 6, 6), (2, 2, 4), (3, 5, 2), (3, 4, 1)], -2.5),
]
RANKED: list[Span] = [
    ("a", 10, 11, 6),
    ("A", 4, 5, 4),  # the first a, with 5, says the same as the last
    ("b a", 0, 3, 3),
    (", cd", 5, 9, 2),
    (", c", 5, 8, 1),
]
NOTHING: Span = ("", 0, 0, -2.5)


def with_probabilities(ranked: list[Span]) -> list[Any]:
    raised = [np.exp(score) for *_, score in ranked]
    return [Candidate(*span, pytest.approx(one / sum(raised))) for span, one in zip(ranked, raised)]  # type: ignore[arg-type]


def test_merge() -> None:
    for top_k in (1, 3, 5, 20):
        expected = Answer(with_probabilities(RANKED)[:top_k], -2.5)
        assert merge(MERGED, 0, PARTS, replace(SHORT, top_k=top_k)) == expected
    assert merge(MERGED, 0, PARTS[::-1], SHORT) == Answer(with_probabilities(RANKED), -2.5)


@pytest.mark.parametrize(
    ("threshold", "wins"),
    [(0.0, False), (-8.0, False), (-8.5, False), (-8.75, True), (-100.0, True), (5.0, False)],
)
def test_merge_where_a_passage_may_hold_no_answer(threshold: float, wins: bool) -> None:
    """No answer, at -2.5, scores 8.5 less than the best one: it must score more than the threshold better to win."""
    *spoken, nothing = with_probabilities([*RANKED, NOTHING])
    for top_k in (1, 2, 20):
        expected = [nothing, *spoken[:top_k]] if wins else [*spoken[:top_k], nothing]
        found = merge(MERGED, 0, PARTS, replace(SHORT, top_k=top_k, handle_impossible_answer=True, null_threshold=threshold))
        assert found == Answer(expected, -2.5)
        assert found.text == ("" if wins else "a")
