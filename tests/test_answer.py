"""Answers against an oracle that runs Hugging Face's model on each window alone; SQuAD files; files written whole."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import engine, files, squad
from helpers.answer import Answer, Candidate, Options, collect, encode, merge, probabilities, run
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.sessions.layouts import Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.tokenization import Tokenizer, read_vocab
from tests.models import random_model, small_config, weights_of, write_vocab

torch.set_num_threads(1)  # ONNX Runtime's own threads take the rest

CLOSE = 1e-4  # of two scores that should be one
APART = 1e-3  # of two scores whose order is certain
SHORT = Options(sequence_length=24, doc_stride=7, max_query_length=9, max_answer_length=6, n_best=8)


@dataclass(frozen=True, repr=False)
class World:
    """One small random model: in Hugging Face, and as an engine; and its tokenizer."""

    model: Any
    session: OnnxRuntimeSession
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    write_vocab(path)
    return Tokenizer(read_vocab(path), True)


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "packed"])
def world(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = small_config()
    model = random_model(config, seed=11)
    path = tmp_path_factory.mktemp("world") / "model.engine"
    options = BuildOptions([Profile(6, 64)], packed=request.param)
    path.write_bytes(engine.build_onnx(weights_of(model), config, options))
    return World(model, OnnxRuntimeSession(path), tokenizer)


def ask(
    world: World,
    passages: list[str],
    questions: list[str],
    passage_of: list[int],
    options: Options,
    batch_size: int | None = None,
) -> list[Answer]:
    """The answers in the order of the questions."""
    encoded = encode(passages, questions, passage_of, world.tokenizer, options)
    found = dict(collect(encoded, run(world.session, encoded, batch_size), options))
    assert sorted(found) == list(range(len(questions)))
    return [found[i] for i in range(len(questions))]


# The oracle


def logits_of(world: World, ids: list[int], segments: list[int]) -> np.ndarray:
    with torch.no_grad():
        found = world.model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([segments]))
    return torch.stack((found.start_logits[0], found.end_logits[0]), -1).numpy()


def oracle(world: World, passage: str, question: str, options: Options) -> tuple[dict[tuple[int, int], float], float]:
    """The score of every slice of the passage that may be an answer, and the null score."""
    [text], [asked] = world.tokenizer([passage]), world.tokenizer([question])
    ids, query = text.ids.tolist(), asked.ids.tolist()[: options.max_query_length]
    room = options.sequence_length - len(query) - 3
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
    null_scores: list[float] = []
    for i, (first, shown) in enumerate(parts):
        left = [world.tokenizer.cls, *query, world.tokenizer.sep]
        right = [*ids[first : first + shown], world.tokenizer.sep]
        logits = logits_of(world, left + right, [0] * len(left) + [1] * len(right))
        null_scores.append(float(logits[0].sum()))
        for start in range(shown):
            if best_part(first + start) != i:
                continue
            for end in range(start, min(start + options.max_answer_length, shown)):
                score = float(logits[len(left) + start, 0] + logits[len(left) + end, 1])
                key = int(text.offsets[first + start, 0]), int(text.offsets[first + end, 1])
                scores[key] = max(score, scores.get(key, float("-inf")))
    return scores, min(null_scores)


def check_answer(world: World, passage: str, question: str, options: Options, found: Answer) -> None:
    scores, null_score = oracle(world, passage, question, options)
    assert found.null_score == pytest.approx(null_score, abs=CLOSE)
    by_text: dict[str, float] = {}
    for (a, b), score in scores.items():
        by_text[passage[a:b]] = max(score, by_text.get(passage[a:b], float("-inf")))
    ranking = sorted(by_text.items(), key=lambda item: -item[1])

    assert 0 < len(found.candidates) <= options.n_best
    if len(ranking) == 1 or ranking[0][1] - ranking[1][1] > APART:
        assert found.candidates[0].text == ranking[0][0]
    assert found.candidates[0].score == pytest.approx(ranking[0][1], abs=CLOSE)
    for text, start, end, score in found.candidates:
        assert text == passage[start:end] != ""
        assert score == pytest.approx(scores[start, end], abs=CLOSE)
        assert score == pytest.approx(by_text[text], abs=CLOSE)
    assert len({candidate.text for candidate in found.candidates}) == len(found.candidates)
    ordered = [candidate.score for candidate in found.candidates]
    assert ordered == sorted(ordered, reverse=True)
    chances = probabilities(ordered)
    assert sum(chances) == pytest.approx(1, abs=1e-12)
    assert chances == sorted(chances, reverse=True)


# Answers

TEXT = st.text("abcdexyzAÉñ ,.?\t", min_size=1, max_size=70).filter(lambda text: any(c.isalpha() for c in text))


@given(data=st.data(), length=st.integers(16, 40), stride=st.integers(1, 30), longest=st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_answers(world: World, data: st.DataObject, length: int, stride: int, longest: int) -> None:
    passages, questions = data.draw(st.lists(TEXT, min_size=1, max_size=2)), data.draw(st.lists(TEXT, min_size=1, max_size=3))
    passage_of = [data.draw(st.integers(0, len(passages) - 1)) for _ in questions]
    options = Options(length, stride, max_query_length=data.draw(st.integers(1, 10)), max_answer_length=longest, n_best=5)
    answers = ask(world, passages, questions, passage_of, options, data.draw(st.integers(1, 6)))
    for question, passage, found in zip(questions, passage_of, answers):
        check_answer(world, passages[passage], question, options, found)


def letters(seed: int, words: int) -> str:
    generator = np.random.default_rng(seed)
    return " ".join(
        "".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), size)) for size in generator.integers(1, 5, words)
    )


LONG = [letters(1, 40) + ".", letters(2, 25), "Édith " + letters(3, 30)]
ASKED = ["who?", "wo ist x", "a", "what is it that he said?", "why"]
ABOUT = [0, 2, 1, 0, 1]


def test_answers_of_long_passages(world: World) -> None:
    answers = ask(world, LONG, ASKED, ABOUT, SHORT)
    encoded = encode(LONG, ASKED, ABOUT, world.tokenizer, SHORT)
    assert min(sum(window.question == i for window in encoded.windows) for i in range(len(ASKED))) > 5
    for question, passage, found in zip(ASKED, ABOUT, answers):
        check_answer(world, LONG[passage], question, SHORT, found)
        assert len(found.candidates) == SHORT.n_best


def same(left: Answer, right: Answer) -> None:
    """Equal but for rounding, which may swap candidates of nearly one score."""
    assert left.null_score == pytest.approx(right.null_score, abs=CLOSE)
    assert [c.score for c in left.candidates] == pytest.approx([c.score for c in right.candidates], abs=CLOSE)
    scores = [c.score for c in left.candidates]
    for i, (one, other) in enumerate(zip(left.candidates, right.candidates)):
        beside = scores[max(0, i - 1) : i] + scores[i + 1 : i + 2]
        if all(abs(one.score - score) > APART for score in beside):
            assert one[:3] == other[:3]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 6])
def test_batch_size_does_not_matter(world: World, batch_size: int) -> None:
    for left, right in zip(ask(world, LONG, ASKED, ABOUT, SHORT), ask(world, LONG, ASKED, ABOUT, SHORT, batch_size)):
        same(left, right)


def test_order_does_not_matter(world: World) -> None:
    order = [3, 0, 4, 2, 1]
    answers = ask(world, LONG, ASKED, ABOUT, SHORT)
    mixed = ask(world, LONG[::-1], [ASKED[i] for i in order], [2 - ABOUT[i] for i in order], SHORT)
    for i, found in zip(order, mixed):
        same(answers[i], found)


def test_company_does_not_matter(world: World) -> None:
    """A short passage is padded beside a long one; its candidates stay all that they were."""
    options = Options(64, n_best=20)
    [alone] = ask(world, ["a b c d e f"], ["why"], [0], options)
    beside, _ = ask(world, ["a b c d e f", letters(4, 12)], ["why", "who"], [0, 1], options)
    assert len(beside.candidates) == 20  # of 21 that there are
    same(alone, beside)


def test_order_of_batches_does_not_matter(world: World) -> None:
    encoded = encode(LONG, ASKED, ABOUT, world.tokenizer, SHORT)
    results = [(indexes, logits) for indexes, logits in run(world.session, encoded, 2)]
    assert sorted(i for indexes, _ in results for i in indexes) == list(range(len(encoded.windows)))
    assert dict(collect(encoded, results, SHORT)) == dict(collect(encoded, results[::-1], SHORT))


def test_an_answer_comes_with_its_last_window(world: World) -> None:
    encoded = encode(LONG[:2], ["who?", "why"], [0, 1], world.tokenizer, SHORT)
    results = {indexes[0]: (indexes, logits) for indexes, logits in run(world.session, encoded, 1)}
    drawn: list[int] = []

    def in_order() -> Iterator[tuple[Sequence[int], np.ndarray]]:
        for i in range(len(encoded.windows)):
            drawn.append(i)
            yield results[i]

    own = sum(window.question == 0 for window in encoded.windows)
    answers = collect(encoded, in_order(), SHORT)
    assert (next(answers)[0], len(drawn)) == (0, own)
    assert (next(answers)[0], len(drawn)) == (1, len(encoded.windows))


def test_a_question_keeps_its_first_tokens(world: World) -> None:
    cut, whole = "abcdefghi", "abcdefghijkl mno"
    assert ask(world, LONG[:1], [whole], [0], SHORT) == ask(world, LONG[:1], [cut], [0], SHORT)
    assert ask(world, LONG[:1], [cut[:-1]], [0], SHORT) != ask(world, LONG[:1], [cut], [0], SHORT)


# Logits that are none


def one_window(tokenizer: Tokenizer, padding: int) -> tuple[Any, np.ndarray]:
    encoded = encode(["a b c d e f"], ["why"], [0], tokenizer, SHORT)
    [window] = encoded.windows
    logits = np.random.default_rng(0).standard_normal((1, window.length + padding, 2)).astype(np.float32)
    return encoded, logits


@pytest.mark.parametrize("padding", [0, 40])
@pytest.mark.parametrize("where", [slice(None), 0, 7], ids=["everywhere", "[CLS]", "a word of the passage"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_not_numbers_are_an_error(tokenizer: Tokenizer, padding: int, where: Any, value: float) -> None:
    encoded, logits = one_window(tokenizer, padding)
    logits[:, where] = value
    with pytest.raises(RuntimeError, match="not numbers"):
        list(collect(encoded, [([0], logits)], SHORT))


def test_logits_of_padding_do_not_matter(tokenizer: Tokenizer) -> None:
    encoded, logits = one_window(tokenizer, 40)
    [(_, expected)] = collect(encoded, [([0], logits)], SHORT)
    length = encoded.windows[0].length
    for value in (float("nan"), float("inf"), 1e30):
        logits[:, length:] = value
        assert dict(collect(encoded, [([0], logits)], SHORT)) == {0: expected}


# Merging


def part(spans: list[tuple[int, int, float]], null_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    start, end, score = (np.array(column) for column in zip(*spans))
    return start.astype(np.int32), end.astype(np.int32), score.astype(np.float32), null_score


def test_merge(tokenizer: Tokenizer) -> None:
    passage = "b a A, cd a"  # tokens b a A , c ##d a
    encoded = encode([passage], ["why"], [0], tokenizer, SHORT)
    nothing = float("-inf")
    parts = [
        part([(1, 1, 5), (0, 1, 3), (0, 0, nothing), (6, 6, nothing)], -1.5),
        part([(6, 6, 6), (2, 2, 4), (3, 5, 2), (3, 4, 1)], -2.5),
    ]
    expected = [
        Candidate("a", 10, 11, 6),
        Candidate("A", 4, 5, 4),  # the first a, with 5, says the same as the last
        Candidate("b a", 0, 3, 3),
        Candidate(", cd", 5, 9, 2),
        Candidate(", c", 5, 8, 1),
    ]
    for n_best in (1, 3, 5, 20):
        assert merge(encoded, 0, parts, n_best) == Answer(expected[:n_best], -2.5)
    assert merge(encoded, 0, parts[::-1], 20) == Answer(expected, -2.5)


def test_probabilities() -> None:
    assert probabilities([3.0]) == [1.0]
    assert probabilities([2.0, 2.0, 2.0, 2.0]) == [0.25] * 4
    assert probabilities([np.log(6), np.log(3), 0.0]) == pytest.approx([0.6, 0.3, 0.1])
    assert probabilities([1e4, 1e4, -1e4]) == [0.5, 0.5, 0.0]


# What cannot be asked


@pytest.mark.parametrize("nothing", ["", "  \t\n", "\x00\x07\u200b", "\u0301", "\ufffd"])
def test_a_question_or_passage_without_words(tokenizer: Tokenizer, nothing: str) -> None:
    with pytest.raises(InputError, match=r"^question 2 has no words: '"):
        encode(["a b"], ["why", nothing], [0, 0], tokenizer, SHORT)
    with pytest.raises(InputError, match=r"^passage 3 has no words: '"):
        encode(["a", "b", nothing], ["why", "who"], [0, 2], tokenizer, SHORT)
    assert encode(["a", nothing], ["why"], [0], tokenizer, SHORT).windows  # which nobody asks about


def test_a_question_that_leaves_no_room(tokenizer: Tokenizer) -> None:
    options = Options(sequence_length=12, max_query_length=64)
    fits, fills = "abcdefgh", "abcdefghi"  # letters are tokens
    windows = encode(["a b c"], [fits], [0], tokenizer, options).windows
    assert [(window.offset, window.shown, window.length) for window in windows] == [(0, 1, 12), (1, 1, 12), (2, 1, 12)]
    with pytest.raises(InputError, match=r"^question 2 has 9 tokens, .* no room .* window of 12: shorten it"):
        encode(["a b c"], [fits, fills], [0, 0], tokenizer, options)
    assert encode(["a b c"], [fills], [0], tokenizer, Options(12, max_query_length=8)).windows


@pytest.mark.parametrize("text", ["a \ud83d b", "a \udcff b"], ids=["half a pair", "a byte that is not UTF-8"])
def test_text_that_is_no_unicode(tokenizer: Tokenizer, text: str) -> None:
    """JSON can spell it, and so can a command line; no file can hold it in an answer."""
    with pytest.raises(InputError):
        encode([text], ["why"], [0], tokenizer, SHORT)
    with pytest.raises(InputError):
        encode(["a b"], [text], [0], tokenizer, SHORT)


# SQuAD files


def write_squad(folder: Path, document: Any) -> Path:
    path = folder / "squad.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def paragraph(context: Any, *questions: Any) -> dict[str, Any]:
    return {"context": context, "qas": list(questions)}


def question(key: Any, text: Any = "why?") -> dict[str, Any]:
    return {"id": key, "question": text, "answers": [{"text": "a", "answer_start": 0}]}


def articles(*paragraphs: list[Any]) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": each} for each in paragraphs]}


def test_read_squad(tmp_path: Path) -> None:
    document = articles(
        [paragraph("a b", question("1", "wer?"), question("2", " wo? ")), paragraph("c\u00e9")], [paragraph("a b", question("3"))]
    )
    for ascii_only in (True, False):
        path = write_squad(tmp_path, json.dumps(document, ensure_ascii=ascii_only).encode())
        passages, questions = squad.read(path)
        assert passages == ["a b", "cé", "a b"]
        assert questions == [squad.Question("1", "wer?", 0), squad.Question("2", " wo? ", 0), squad.Question("3", "why?", 2)]


def test_read_squad_2(tmp_path: Path) -> None:
    impossible = {"id": "1", "question": "who?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "a"}]}
    document = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph("a", impossible, question("2"))]}]}
    passages, questions = squad.read(write_squad(tmp_path, document))
    assert (passages, [q.id for q in questions]) == (["a"], ["1", "2"])


GOOD = [paragraph("a", question("0"))]
NOT_TEXT: tuple[Any, ...] = (None, 5, "", " \n", [])
NOT_A_LIST: tuple[Any, ...] = (None, {}, "a")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the file must have 'data', a list"),
        *[({"data": value}, "the file must have 'data', a list") for value in NOT_A_LIST],
        ({"data": ["t"]}, "article 1 must have 'paragraphs', a list"),
        *[({"data": [{"paragraphs": GOOD}, {"paragraphs": value}]}, "article 2 must have 'paragraphs'") for value in NOT_A_LIST],
        (articles(GOOD, [None]), "article 2, paragraph 1 must have 'context', text that is not empty"),
        (articles([*GOOD, {"qas": []}]), "article 1, paragraph 2 must have 'context', text that is not empty"),
        *[(articles([*GOOD, paragraph(value)]), "article 1, paragraph 2 must have 'context', text") for value in NOT_TEXT],
        (articles([*GOOD, {"context": "b"}]), "article 1, paragraph 2 must have 'qas', a list"),
        *[(articles([{"context": "b", "qas": v}]), "article 1, paragraph 1 must have 'qas', a list") for v in NOT_A_LIST],
        (articles(GOOD, [paragraph("b", "x")]), "article 2, paragraph 1, question 1 must have 'id', text"),
        *[(articles([paragraph("b", question(v))]), "article 1, paragraph 1, question 1 must have 'id', text") for v in NOT_TEXT],
        *[
            (
                articles(GOOD, [paragraph("b"), paragraph("b", question("1"), question("2", v))]),
                "article 2, paragraph 2, question 2 must have 'question', text that is not empty",
            )
            for v in NOT_TEXT
        ],
        (
            articles(GOOD, [paragraph("b", question("1"), question("0"))]),
            "article 2, paragraph 1, question 2 repeats the id '0' of article 1, paragraph 1, question 1",
        ),
        (
            articles([paragraph("b", question("1"), question("1"))]),
            "article 1, paragraph 1, question 2 repeats the id '1' of article 1",
        ),
    ],
)
def test_read_squad_names_the_place(tmp_path: Path, document: Any, message: str) -> None:
    path = write_squad(tmp_path, document)
    with pytest.raises(InputError) as error:
        squad.read(path)
    assert str(error.value).startswith(f"SQuAD file {path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b'{\n  "data": [\n}', "is not JSON: line 3, column 1: "),
        (b'{"data": [', "is not JSON: line 1, column 11: "),
        (b"", "is not JSON: line 1, column 1: "),
        (b'{"data": "\xe9"}', "is not UTF-8 text (byte 10)"),
        (b'{"data": []}', "has no questions"),
        (b'{"data": [{"paragraphs": [{"context": "a", "qas": []}]}]}', "has no questions"),
    ],
)
def test_read_squad_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "squad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        squad.read(path)
    assert str(error.value).startswith(f"SQuAD file {path} {message}")


# Files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    files.write_bytes(path, b"one", b"", b"two")
    assert path.read_bytes() == b"onetwo"
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    files.write_bytes(path)
    assert (path.read_bytes(), names(tmp_path)) == (b"", ["out"])


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    """Whoever reads the old file reads it to its end."""
    path = tmp_path / "out"
    path.write_bytes(b"as it was")
    with open(path, "rb") as reader:
        files.write_bytes(path, b"new")
        assert reader.read() == b"as it was"
    assert path.read_bytes() == b"new"


def test_write_json(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None], "b": "中"}
    files.write_json(tmp_path / "out", value)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "é" in text and text.endswith("}\n")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "out"
    if before is not None:
        path.write_bytes(before)
    with full_disk(1 << 16), pytest.raises(InputError) as error:
        files.write_bytes(path, b"new", bytes(1 << 17))
    assert str(error.value) == f"cannot write {path}: {os.strerror(errno.EFBIG)}"
    with pytest.raises(TypeError):
        files.write_bytes(path, b"new", "no bytes")  # type: ignore[arg-type]
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["out"])


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with pytest.raises(InputError, match=r"cannot write .*out: "):
        files.write_bytes(tmp_path / "out", b"x")
    assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["kept"])


def no_folder(folder: Path) -> Path:
    return folder / "none" / "out"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def too_long(folder: Path) -> Path:
    return folder / ("a" * 300)


@pytest.mark.parametrize("place", [no_folder, below_a_file, too_long])
def test_what_cannot_be_written(tmp_path: Path, place: Any) -> None:
    path = place(tmp_path)
    before = names(tmp_path)
    with pytest.raises(InputError, match=r"cannot write .*: "):
        files.write_bytes(path, b"x")
    with pytest.raises(InputError):
        files.check_writable(path)
    assert names(tmp_path) == before


def test_a_file_may_have_the_longest_name_that_its_folder_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    files.check_writable(path)
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_check_writable(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new")
    assert names(tmp_path) == []
    (tmp_path / "old").write_bytes(b"x")
    files.check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"x"
    with pytest.raises(InputError, match=f"^output {tmp_path} is a folder: name a file$"):
        files.check_writable(tmp_path)
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'none'} does not exist: create it first$"):
        files.check_writable(tmp_path / "none" / "out")
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'old'} is not a folder$"):
        files.check_writable(tmp_path / "old" / "out")
    (tmp_path / "link").symlink_to("old")
    files.check_writable(tmp_path / "new", tmp_path / "old", tmp_path / "absent")
    with pytest.raises(InputError, match="old is read as well, and would be overwritten"):
        files.check_writable(tmp_path / "old", tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_check_writable_by_permission(tmp_path: Path) -> None:
    (tmp_path / "old").touch(0o444)
    with pytest.raises(InputError, match="old exists and is not writable"):
        files.check_writable(tmp_path / "old")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            files.check_writable(tmp_path / "new")
    finally:
        tmp_path.chmod(0o755)
