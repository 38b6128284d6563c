"""Windows over passages, and the best spans in their logits, against brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.tokenization import Tokenizer, read_vocab
from helpers.windows import Batch, Encoded, Window, best_context, best_spans, fill, make_windows
from tests.models import write_vocab

NEVER = float("-inf")

# (tokens of the question, tokens of the passage, tokens of a window, stride), with room for the passage in each window
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 90), st.integers(1, 40), st.integers(1, 50)).map(
    lambda sizes: (sizes[0], sizes[1], sizes[0] + 3 + sizes[2], sizes[3])
)


# Windows


@given(SIZES)
@example((3, 10, 16, 5))  # the passage fills one window
@example((3, 11, 16, 5))  # and is one token more
@example((3, 90, 7, 50))  # room for one token
@settings(deadline=None, max_examples=300)
def test_make_windows(sizes: tuple[int, int, int, int]) -> None:
    question, passage, length, stride = sizes
    windows = make_windows(7, question, passage, length, stride)
    room = length - question - 3
    step = min(stride, room)
    assert [window.offset for window in windows] == [step * i for i in range(len(windows))]
    assert {(window.question, window.first) for window in windows} == {(7, question + 2)}
    covered = {i for window in windows for i in range(window.offset, window.offset + window.shown)}
    assert covered == set(range(passage))  # every token, and none beyond the end
    assert all(window.shown == room for window in windows[:-1])
    assert all(window.offset + window.shown < passage for window in windows[:-1])  # no window but the last shows the end
    assert all(window.length == question + 3 + window.shown <= length for window in windows)


def test_windows_by_hand() -> None:
    assert make_windows(0, 2, 10, 11, 3) == [Window(0, 0, 4, 6), Window(0, 3, 4, 6), Window(0, 6, 4, 4)]
    assert make_windows(0, 2, 7, 8, 100) == [Window(0, 0, 4, 3), Window(0, 3, 4, 3), Window(0, 6, 4, 1)]
    assert make_windows(0, 2, 6, 11, 3) == [Window(0, 0, 4, 6)]


# Batches


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    write_vocab(path)
    vocab = read_vocab(path)
    order = sorted(vocab, reverse=True)  # so that no marker has the id of zero, which an empty array would show
    return Tokenizer({token: i for i, token in enumerate(order)}, True)


def encode(tokenizer: Tokenizer, passages: list[str], questions: list[str], passage_of: list[int], room: int) -> Encoded:
    tokens, asked = tokenizer(passages), tokenizer(questions)
    windows = [
        window
        for i, passage in enumerate(passage_of)
        for window in make_windows(i, len(asked[i].ids), len(tokens[passage].ids), len(asked[i].ids) + 3 + room, 3)
    ]
    return Encoded(passages, tokens, asked, passage_of, windows, tokenizer)


WORDS = st.text("abc ?", min_size=1, max_size=20).filter(lambda text: bool(text.strip()))


@given(data=st.data(), room=st.integers(1, 30), extra=st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_fill(tokenizer: Tokenizer, data: st.DataObject, room: int, extra: int) -> None:
    passages, questions = data.draw(st.lists(WORDS, min_size=1, max_size=3)), data.draw(st.lists(WORDS, min_size=1, max_size=4))
    passage_of = [data.draw(st.integers(0, len(passages) - 1)) for _ in questions]
    encoded = encode(tokenizer, passages, questions, passage_of, room)
    chosen = data.draw(st.lists(st.sampled_from(encoded.windows), min_size=1, max_size=6))
    length = max(window.length for window in chosen) + extra
    batch = fill(encoded, chosen, length)

    expected: list[list[list[int]]] = [[], [], []]
    for window in chosen:
        question = encoded.questions[window.question].ids.tolist()
        passage = encoded.passages[passage_of[window.question]].ids.tolist()
        left = [tokenizer.cls, *question, tokenizer.sep]
        right = [*passage[window.offset : window.offset + room], tokenizer.sep]
        padding = length - len(left) - len(right)
        expected[0].append([*left, *right, *[tokenizer.pad] * padding])
        expected[1].append([0] * len(left) + [1] * len(right) + [0] * padding)
        expected[2].append([1] * (len(left) + len(right)) + [0] * padding)
    assert [array.tolist() for array in batch] == expected
    assert {array.dtype for array in batch} == {np.dtype(np.int32)}


def test_fill_by_hand(tokenizer: Tokenizer) -> None:
    encoded = encode(tokenizer, ["abc?", "c"], ["a b", "b"], [0, 1], 10)
    a, b, c, what = (int(tokenizer([letter])[0].ids[0]) for letter in "abc?")
    bb, cc = (int(tokenizer([f"a{letter}"])[0].ids[1]) for letter in "bc")
    cls, sep, pad = tokenizer.cls, tokenizer.sep, tokenizer.pad
    batch = fill(encoded, encoded.windows, 10)
    assert isinstance(batch, Batch)
    assert batch.input_ids.tolist() == [[cls, a, b, sep, a, bb, cc, what, sep, pad], [cls, b, sep, c, sep, *[pad] * 5]]
    assert batch.segment_ids.tolist() == [[0] * 4 + [1] * 5 + [0], [0] * 3 + [1] * 2 + [0] * 5]
    assert batch.input_mask.tolist() == [[1] * 9 + [0], [1] * 5 + [0] * 5]


# The best context


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
@settings(deadline=None, max_examples=300)
def test_best_context(sizes: tuple[int, int, int, int]) -> None:
    question, passage, length, stride = sizes
    windows = make_windows(0, question, passage, length, stride)
    masks = best_context(windows)
    expected = context_by_hand(windows)
    assert [len(mask) for mask in masks] == [window.shown for window in windows]
    found = [window.offset + int(i) for window, mask in zip(windows, masks) for i in np.flatnonzero(mask)]
    assert Counter(found) == Counter(range(passage))  # each token has exactly one best window
    for i, (window, mask) in enumerate(zip(windows, masks)):
        assert [expected[window.offset + j] == i for j in range(window.shown)] == mask.tolist()


@given(SIZES)
@settings(deadline=None, max_examples=100)
def test_best_context_has_the_larger_smaller_side(sizes: tuple[int, int, int, int]) -> None:
    """The rule as it is told, where no window is so much wider that its width counts as a token of context."""
    question, passage, length, stride = sizes
    windows = make_windows(0, question, passage, length, stride)
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
    windows = make_windows(0, 12, passage, length, stride)
    expected = context_by_hand(windows)
    assert len(windows) > 1
    for i, (window, mask) in enumerate(zip(windows, best_context(windows))):
        assert [expected[window.offset + j] == i for j in range(window.shown)] == mask.tolist()


def test_best_context_by_hand() -> None:
    windows = [Window(0, 0, 4, 6), Window(0, 3, 4, 6), Window(0, 6, 4, 4)]  # tokens 0-5, 3-8, 6-9
    masks = [mask.astype(int).tolist() for mask in best_context(windows)]
    #                    0  1  2  3  4  5
    assert masks[0] == [1, 1, 1, 1, 1, 0]  # 4 has one token beside it in both windows, the first wins
    assert masks[1] == [0, 0, 1, 1, 1, 0]  # 5 has two here; 7 has one in both that show it, the wider wins
    assert masks[2] == [0, 0, 1, 1]
    [alone] = best_context([Window(3, 0, 4, 2)])
    assert alone.tolist() == [True, True]


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
@settings(deadline=None, max_examples=400)
def test_best_spans(problem: tuple[np.ndarray, np.ndarray, np.ndarray, int, int]) -> None:
    check_spans(*problem)


@given(problems(more_than_length=True))
@settings(deadline=None, max_examples=200)
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
