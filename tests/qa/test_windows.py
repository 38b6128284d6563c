"""Windows over passages: where they lie, the batches that they make, and questions that cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.commands.flags import FLAGS
from helpers.errors import InputError
from helpers.layouts import Padded, Profile
from helpers.qa import windows
from helpers.qa.windows import Encoded, Options, Window, make_windows
from helpers.tokenization import Template
from tests.models import VOCAB
from tests.wordpieces import letters

SHORT = Options(sequence_length=24, doc_stride=7, max_question_len=9)

# In descending order, so that no marker has the id of zero, which an empty array would show.
TOKENIZER = letters(sorted(VOCAB, reverse=True))
CLS, SEP = TOKENIZER.ids(["[CLS]", "[SEP]"])

BERT = Template()
# BERT's, and others that families may have
TEMPLATES = (
    BERT,
    Template(passage_segment=0),
    Template(("[CLS]",), ("[SEP]", "[SEP]"), ("[SEP]",), 0),
    Template(("[CLS]", "[MASK]"), ("[SEP]", "[UNK]", "[SEP]"), ("[SEP]", "[CLS]")),
    Template(("[CLS]",), (), ()),
)


def special(template: Template) -> int:
    return sum(map(len, template[:3]))


# (tokens of the question, tokens of the passage, room for the passage in each window, stride)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 90), st.integers(1, 40), st.integers(1, 50))


# Where they lie


@given(SIZES, st.sampled_from(TEMPLATES))
@example((3, 10, 10, 5), BERT)  # the passage fills one window
@example((3, 11, 10, 5), BERT)  # and is one token more
@example((3, 90, 1, 50), BERT)  # room for one token
@settings(max_examples=300)
def test_make_windows(sizes: tuple[int, int, int, int], template: Template) -> None:
    question, passage, room, stride = sizes
    length = question + special(template) + room
    made = make_windows(7, question, passage, template, length, stride)
    step = min(stride, room)
    assert [window.offset for window in made] == [step * i for i in range(len(made))]
    first = len(template.before) + question + len(template.between)
    assert {(window.question, window.first) for window in made} == {(7, first)}
    covered = {i for window in made for i in range(window.offset, window.offset + window.shown)}
    assert covered == set(range(passage))  # every token, and none beyond the end
    assert all(window.shown == room for window in made[:-1])
    assert all(window.offset + window.shown < passage for window in made[:-1])  # no window but the last shows the end
    assert all(window.length == question + special(template) + window.shown <= length for window in made)


def test_windows_by_hand() -> None:
    assert make_windows(0, 2, 10, BERT, 11, 3) == [Window(0, 0, 4, 6, 11), Window(0, 3, 4, 6, 11), Window(0, 6, 4, 4, 9)]
    assert make_windows(0, 2, 7, BERT, 8, 100) == [Window(0, 0, 4, 3, 8), Window(0, 3, 4, 3, 8), Window(0, 6, 4, 1, 6)]
    assert make_windows(0, 2, 6, BERT, 11, 3) == [Window(0, 0, 4, 6, 11)]
    double = Template(("[CLS]",), ("[SEP]", "[SEP]"), ("[SEP]",))
    assert make_windows(3, 2, 10, double, 12, 3) == [Window(3, 0, 5, 6, 12), Window(3, 3, 5, 6, 12), Window(3, 6, 5, 4, 10)]


# Batches


def encode(passages: list[str], questions: list[str], passage_of: list[int], room: int, template: Template = BERT) -> Encoded:
    tokens, asked = TOKENIZER(passages), TOKENIZER(questions)
    made = [
        window
        for i, passage in enumerate(passage_of)
        for window in make_windows(
            i, len(asked[i].ids), len(tokens[passage].ids), template, len(asked[i].ids) + special(template) + room, 3
        )
    ]
    return Encoded(passages, tokens, asked, passage_of, made, template, TOKENIZER)


WORDS = st.text("abc ?", min_size=1, max_size=20).filter(lambda text: bool(text.strip()))


@given(data=st.data(), room=st.integers(1, 30), template=st.sampled_from(TEMPLATES))
@settings(max_examples=100)
def test_batch(data: st.DataObject, room: int, template: Template) -> None:
    passages, questions = data.draw(st.lists(WORDS, min_size=1, max_size=3)), data.draw(st.lists(WORDS, min_size=1, max_size=4))
    passage_of = [data.draw(st.integers(0, len(passages) - 1)) for _ in questions]
    encoded = encode(passages, questions, passage_of, room, template)
    chosen = data.draw(st.lists(st.sampled_from(encoded.windows), min_size=1, max_size=6))
    batch = encoded.batch(chosen)

    ids: list[int] = []
    segments: list[int] = []
    bounds = [0]
    before, between, after = ([TOKENIZER.ids([token])[0] for token in tokens] for tokens in template[:3])
    for window in chosen:
        question = encoded.questions[window.question].ids.tolist()
        passage = encoded.passages[passage_of[window.question]].ids.tolist()
        left = [*before, *question, *between]
        right = [*passage[window.offset : window.offset + room], *after]
        ids += left + right
        segments += [0] * len(left) + [template.passage_segment] * len(right)
        bounds.append(len(ids))
    assert [array.tolist() for array in batch] == [ids, segments, bounds]
    assert {array.dtype for array in batch} == {np.dtype(np.int32)}


def test_batch_by_hand() -> None:
    encoded = encode(["abc?", "c"], ["a b", "b"], [0, 1], 10)
    a, b, c, what = (int(TOKENIZER([letter])[0].ids[0]) for letter in "abc?")
    bb, cc = (int(TOKENIZER([f"a{letter}"])[0].ids[1]) for letter in "bc")
    batch = encoded.batch(encoded.windows)
    assert batch.input_ids.tolist() == [CLS, a, b, SEP, a, bb, cc, what, SEP, CLS, b, SEP, c, SEP]
    assert batch.segment_ids.tolist() == [0] * 4 + [1] * 5 + [0] * 3 + [1] * 2
    assert batch.cu_seqlens.tolist() == [0, 9, 14]

    ids, segments, mask = Padded([Profile(2, 10)], any_length=False).feed(batch).values()
    assert ids.tolist() == [[CLS, a, b, SEP, a, bb, cc, what, SEP, 0], [CLS, b, SEP, c, SEP, *[0] * 5]]
    assert segments.tolist() == [[0] * 4 + [1] * 5 + [0], [0] * 3 + [1] * 2 + [0] * 5]
    assert mask.tolist() == [[1] * 9 + [0], [1] * 5 + [0] * 5]


# What cannot be asked


def ask(passages: list[str], questions: list[str], passage_of: list[int], options: Options = SHORT) -> list[Window]:
    encoded = windows.encode(passages, questions, passage_of, TOKENIZER, BERT, options)
    windows.check_words(encoded, questions)
    return encoded.windows


@pytest.mark.parametrize("nothing", ["", "  \t\n", "\x00\x07\u200b", "\u0301", "\ufffd"])
def test_a_question_or_passage_without_words(nothing: str) -> None:
    with pytest.raises(InputError, match=r"^question 2 has no words: '"):
        ask(["a b"], ["why", nothing], [0, 0])
    with pytest.raises(InputError, match=r"^passage 3 has no words: '"):
        ask(["a", "b", nothing], ["why", "who"], [0, 2])
    assert ask(["a", nothing], ["why"], [0])  # which nobody asks about
    asked = ["why", nothing, "who", "who"]
    encoded = windows.encode(["a b", nothing], asked, [0, 0, 1, 0], TOKENIZER, BERT, SHORT)
    assert encoded.wordless() == [1, 2]
    assert [window.question for window in encoded.windows] == [0, 3]


def test_a_question_that_leaves_no_room() -> None:
    options = Options(sequence_length=12, max_question_len=64)
    fits, fills = "abcdefgh", "abcdefghi"  # letters are tokens
    made = ask(["a b c"], [fits], [0], options)
    assert [(window.offset, window.shown, window.length) for window in made] == [(0, 1, 12), (1, 1, 12), (2, 1, 12)]
    with pytest.raises(InputError) as error:
        ask(["a b c"], [fits, fills], [0, 0], options)
    assert error.value.told(FLAGS) == (
        "question 2 has 9 tokens, which with 3 separators leaves no room for the passage in a window of 12: "
        "shorten it, lower --max-query-length or raise -s"
    )
    assert ask(["a b c"], [fills], [0], Options(12, max_question_len=8))
    with pytest.raises(InputError, match=r"^question 'x' \(article 1\) has 9 tokens, which"):
        windows.encode(["a b c"], [fits, fills], [0, 0], TOKENIZER, BERT, options, ["'w' (article 1)", "'x' (article 1)"])


def test_room_beside_the_special_tokens_of_another_template() -> None:
    double, options = Template(("[CLS]",), ("[SEP]", "[SEP]"), ("[SEP]",)), Options(12)
    assert len(windows.encode(["a b c"], ["abcdefg"], [0], TOKENIZER, double, options).windows) == 3
    with pytest.raises(InputError, match=r"^question 1 has 8 tokens, which with 4 separators leaves no room .* window of 12: "):
        windows.encode(["a b c"], ["abcdefgh"], [0], TOKENIZER, double, options)


@pytest.mark.parametrize("text", ["a \ud83d b", "a \udcff b"], ids=["half a pair", "a byte that is not UTF-8"])
def test_text_that_is_no_unicode(text: str) -> None:
    """JSON can spell it, and so can a command line; no file can hold it in an answer."""
    with pytest.raises(InputError, match=r"^passage 1 is not valid Unicode"):
        ask([text], ["why"], [0])
    with pytest.raises(InputError, match=r"^question 1 is not valid Unicode"):
        ask(["a b"], [text], [0])


@pytest.mark.parametrize("name", ["sequence_length", "doc_stride", "max_question_len", "max_answer_len", "top_k"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3"])
def test_options_that_are_no_count(name: str, value: object) -> None:
    with pytest.raises(InputError) as error:
        Options(**{name: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{name} must be a whole number from 1, not {value!r}"
    Options(**{name: np.int64(3)})
    assert ask(["a b"], ["why"], [0], Options(24, **{name: 10**30} if name != "sequence_length" else {}))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.float32("inf"), "0", None, 1j])
def test_a_threshold_that_is_no_number(value: object) -> None:
    with pytest.raises(InputError) as error:
        Options(null_threshold=value)  # type: ignore[arg-type]
    assert str(error.value) == f"null_threshold must be a finite number, not {value!r}"
    for good in (-3, 1e308, np.float32(3e38), np.int8(-128)):
        Options(null_threshold=good)
