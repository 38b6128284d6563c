"""Reader: answers against an oracle that runs Hugging Face's model on each window alone, and what is refused."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import backends
from helpers import reader as reader_module
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.errors import InputError
from helpers.layouts import Batch, Profile
from helpers.qa.spans import Answer, Candidate
from helpers.qa.windows import Options
from helpers.reader import Reader
from tests.batches import onnx_blob
from tests.inputs import change
from tests.models import random_model, small_config, weights_of, write_vocab
from tests.oracle import CLOSE, check, check_probabilities, expect, same
from tests.running import MODEL, succeeds

SHORT = Options(sequence_length=24, doc_stride=7, max_query_length=9, max_answer_length=6, n_best=8)


class World(NamedTuple):
    """One small random model: in Hugging Face, and as an engine."""

    model: Any
    reader: Reader


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "packed"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = small_config()
    model = random_model(config, seed=11)
    folder = tmp_path_factory.mktemp("world")
    write_vocab(folder / "vocab.txt")
    (folder / "model.engine").write_bytes(onnx_blob(weights_of(model), config, [Profile(6, 64)], request.param))
    return World(model, Reader.open(folder / "model.engine", vocab_file=folder / "vocab.txt"))


def ask(
    world: World,
    passages: list[str],
    questions: list[str],
    passage_of: list[int],
    options: Options,
    batch_size: int | None = None,
) -> list[Answer]:
    """The answers in the order of the questions."""
    encoded = world.reader.encode(passages, questions, passage_of, options)
    found = dict(world.reader.answers(encoded, options, batch_size))
    assert sorted(found) == list(range(len(questions)))
    return [found[i] for i in range(len(questions))]


def check_answer(world: World, passage: str, question: str, options: Options, found: Answer) -> None:
    check(found, expect(world.model, world.reader.tokenizer, passage, question, options), options)


# Answers

TEXT = st.text("abcdexyzAÉñ ,.?\t", min_size=1, max_size=70).filter(lambda text: any(c.isalpha() for c in text))


@given(data=st.data(), length=st.integers(16, 40), stride=st.integers(1, 30), longest=st.integers(1, 12))
@settings(max_examples=30)
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
    encoded = world.reader.encode(LONG, ASKED, ABOUT, SHORT)
    assert min(sum(window.question == i for window in encoded.windows) for i in range(len(ASKED))) > 5
    for question, passage, found in zip(ASKED, ABOUT, answers):
        check_answer(world, LONG[passage], question, SHORT, found)
        assert len(found.candidates) == SHORT.n_best


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


def test_a_question_keeps_its_first_tokens(world: World) -> None:
    cut, whole = "abcdefghi", "abcdefghijkl mno"
    assert ask(world, LONG[:1], [whole], [0], SHORT) == ask(world, LONG[:1], [cut], [0], SHORT)
    assert ask(world, LONG[:1], [cut[:-1]], [0], SHORT) != ask(world, LONG[:1], [cut], [0], SHORT)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_every_window_is_run_once(world: World, batch_size: int | None) -> None:
    encoded = world.reader.encode(LONG, ASKED, ABOUT, SHORT)
    results = [(indexes, logits) for indexes, logits in world.reader.run(encoded, batch_size)]
    assert sorted(i for indexes, _ in results for i in indexes) == list(range(len(encoded.windows)))
    for indexes, logits in results:
        assert len(indexes) <= (batch_size or 6)
        alone = [logits for i in indexes for logits in world.reader.session.stream([encoded.batch([encoded.windows[i]])])]
        np.testing.assert_allclose(logits, np.concatenate(alone), rtol=0, atol=CLOSE)
    lengths = [[encoded.windows[i].length for i in indexes] for indexes, _ in results]
    assert all(max(shorter) <= min(longer) for shorter, longer in zip(lengths, lengths[1:]))


# Asked in Python


def watch(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are run from now on."""
    sizes: list[int] = []
    stream = world.reader.session.stream

    def watched(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        def counted() -> Iterator[Batch]:
            for batch in batches:
                sizes.append(len(batch.lengths))
                yield batch

        return stream(counted())

    monkeypatch.setattr(world.reader.session, "stream", watched)
    return sizes


def test_one_question_or_several(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    options, passages = asdict(SHORT), [LONG[i] for i in ABOUT]
    single = [world.reader.answer(question, passage, **options) for question, passage in zip(ASKED, passages)]
    for found, expected in zip(single, ask(world, LONG, ASKED, ABOUT, SHORT)):
        assert isinstance(found, Answer)
        same(found, expected)
    sizes = watch(world, monkeypatch)
    several = world.reader.answer(ASKED, passages, **options)
    assert max(sizes) > 1 and sum(sizes) == len(world.reader.encode(LONG, ASKED, ABOUT, SHORT).windows)
    assert isinstance(several, list) and len(several) == len(ASKED)
    for found, expected in zip(several, single):
        same(found, expected)


def test_several_questions_about_one_passage(world: World) -> None:
    several = world.reader.answer(tuple(ASKED), LONG[0], **asdict(SHORT))
    assert len({found.candidates[0] for found in several}) > 1  # or nothing would show
    for question, found in zip(ASKED, several):
        same(found, world.reader.answer(question, LONG[0], **asdict(SHORT)))


def test_few_questions(world: World) -> None:
    found = world.reader.answer("who?", LONG[1])
    assert world.reader.answer(["who?"], LONG[1]) == world.reader.answer(["who?"], [LONG[1]]) == [found]
    assert world.reader.answer("who?", [LONG[1]]) == found
    assert world.reader.answer([], LONG[1]) == world.reader.answer([], []) == []


def test_options(world: World) -> None:
    """By default those of BERT's own treatment of SQuAD, in windows as long as the engine takes."""
    check_answer(world, LONG[0], "who?", Options(64), world.reader.answer("who?", LONG[0]))
    narrow = world.reader.answer("who?", LONG[0], sequence_length=20, doc_stride=3, max_answer_length=2, n_best=4)
    check_answer(world, LONG[0], "who?", Options(20, 3, max_answer_length=2, n_best=4), narrow)
    assert world.reader.options(Options()) == Options(64)
    assert world.reader.options(Options(20)) == Options(20)
    with pytest.raises(TypeError, match="stride"):
        world.reader.answer("who?", LONG[0], stride=3)


def test_the_answer_is_the_first_candidate(world: World) -> None:
    found = world.reader.answer("who?", LONG[0])
    assert Candidate(found.text, found.start, found.end, found.score, found.probability) == found.candidates[0]


def test_a_passage_without_an_answer(world: World) -> None:
    found = world.reader.answer("who?", LONG[0])
    margin = found.null_score - found.score
    nothing = world.reader.answer("who?", LONG[0], null_threshold=margin - 0.01)
    assert (nothing.text, nothing.start, nothing.end, nothing.score) == ("", 0, 0, found.null_score)
    assert [c[:4] for c in nothing.candidates[1:]] == [c[:4] for c in found.candidates]
    something = world.reader.answer("who?", LONG[0], null_threshold=margin + 0.01)
    assert [c[:4] for c in something.candidates] == [c[:4] for c in (*found.candidates, nothing.candidates[0])]
    assert found.null_score == nothing.null_score == something.null_score
    check_probabilities(nothing)
    check_probabilities(something)
    assert all(candidate.text for candidate in found.candidates)


# What cannot be asked


@pytest.mark.parametrize(
    ("questions", "passages", "says"),
    [
        (["why", "who"], ["a b"], "2 questions about 1 passages"),
        (["why"], ["a b", "c"], "1 questions about 2 passages"),
        ("why", ["a b", "c"], "1 questions about 2 passages"),
        ([], ["a b"], "0 questions about 1 passages"),
    ],
)
def test_counts_that_differ(world: World, questions: Any, passages: Any, says: str) -> None:
    with pytest.raises(InputError) as error:
        world.reader.answer(questions, passages)
    assert str(error.value) == f"{says}: give one passage for all, or one each"


def test_windows_that_are_longer_than_the_engine_takes(world: World) -> None:
    with pytest.raises(InputError) as error:
        world.reader.answer("why", "a b", sequence_length=65)
    assert str(error.value) == "sequence length 65 is above the engine's, 64: lower sequence_length"
    assert world.reader.answer("why", "a b", sequence_length=64) == world.reader.answer("why", "a b")


def test_texts_without_words(world: World) -> None:
    with pytest.raises(InputError, match=r"^question 2 has no words: ' '$"):
        world.reader.answer(["why", " "], "a b")
    with pytest.raises(InputError, match=r"^passage 1 has no words: ''$"):
        world.reader.answer("why", "")


# Engines


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[OnnxRuntimeSession]:
    """The sessions that have been closed."""
    sessions: list[OnnxRuntimeSession] = []
    close = OnnxRuntimeSession.close

    def watched(session: OnnxRuntimeSession) -> None:
        sessions.append(session)
        close(session)

    monkeypatch.setattr(OnnxRuntimeSession, "close", watched)
    return sessions


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_open(small: Path, kind: str, closed: list[OnnxRuntimeSession]) -> None:
    """With the vocabulary that the description names, or another that is given; paths may be text."""
    path = small / f"{kind}.engine"
    with Reader.open(str(path)) as reader:
        found = reader.answer("where", "the cat sat on the mat")
        assert found.text and found.text in "the cat sat on the mat"
        assert reader.description and reader.description.vocab_file == str(small / "model/vocab.txt")
        assert closed == []
    assert closed == [reader.session]
    for vocab_file in (small / "model/vocab.txt", str(small / "model/vocab.txt")):
        with Reader.open(path, backend="onnxruntime", runtime="onnxruntime", vocab_file=vocab_file) as other:
            assert other.answer("where", "the cat sat on the mat") == found


def test_a_closed_reader_holds_no_engine(small: Path) -> None:
    with Reader.open(small / "padded.engine") as reader:
        assert reader.answer("where", "the cat").text
    with pytest.raises(AttributeError):
        reader.answer("where", "the cat")


def test_an_error_closes_the_reader(small: Path, closed: list[OnnxRuntimeSession]) -> None:
    with pytest.raises(InputError, match="no words"), Reader.open(small / "padded.engine") as reader:
        reader.answer("", "the cat")
    assert closed == [reader.session]


def test_no_vocabulary_is_known(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    expected = Reader.open(work / "padded.engine").answer("where", "the cat")
    (work / "padded.engine.json").unlink()
    with pytest.raises(InputError) as error:
        Reader.open(work / "padded.engine")
    says = "the engine has no description beside it that names its vocabulary: give it with vocab_file"
    assert str(error.value) == says
    assert len(closed) == 1
    assert Reader.open(work / "padded.engine", vocab_file=work / "model/vocab.txt").answer("where", "the cat") == expected


@pytest.mark.parametrize("described", [True, False])
def test_a_vocabulary_of_another_model(work: Path, described: bool, closed: list[OnnxRuntimeSession]) -> None:
    write_vocab(work / "other.txt", 100)
    if not described:
        (work / "padded.engine.json").unlink()
    with pytest.raises(InputError) as error:
        Reader.open(work / "padded.engine", vocab_file=work / "other.txt")
    assert str(error.value).startswith(f"vocabulary {work / 'other.txt'} has 100 tokens but the model's embedding 60 rows: ")
    assert len(closed) == 1


def test_an_engine_that_does_not_tell_its_size(work: Path) -> None:
    """As TensorRT's: then the description's counts, and without one there is nothing to hold a vocabulary against."""
    write_vocab(work / "other.txt", 100)
    session, description = backends.open_engine(work / "padded.engine")
    session.vocab_size = None
    with pytest.raises(InputError, match=r"has 100 tokens but the model's embedding 60 rows"):
        Reader(session, description, work / "other.txt")
    Reader(session, None, work / "other.txt")


def test_a_vocabulary_that_is_not_there(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    change(work / "padded.engine.json", vocab_file="absent.txt")
    says = "vocabulary absent.txt cannot be read: No such file or directory; name it with vocab_file"
    with pytest.raises(InputError) as error:
        Reader.open(work / "padded.engine")
    assert (str(error.value), len(closed)) == (says, 1)


def test_a_family_that_is_not_ours(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    change(work / "padded.engine.json", model_type="roberta")
    with pytest.raises(InputError, match=r"^the engine's description: model_type 'roberta' is not supported; "):
        Reader.open(work / "padded.engine")
    assert len(closed) == 1


def lower_case(reader: Reader) -> bool:
    [capital, small] = reader.tokenizer(["THE CAT", "the cat"])
    return capital.ids.tolist() == small.ids.tolist()


def test_lower_case_as_the_description_says(work: Path) -> None:
    assert lower_case(Reader.open(work / "padded.engine"))
    change(work / "padded.engine.json", lower_case=False)
    assert not lower_case(Reader.open(work / "padded.engine"))


@pytest.mark.parametrize("told", [True, False])
def test_lower_case_as_the_vocabularys_folder_says(work: Path, told: bool) -> None:
    (work / "padded.engine.json").unlink()
    (work / "model/tokenizer_config.json").write_text(json.dumps({"do_lower_case": told}))
    assert lower_case(Reader.open(work / "padded.engine", vocab_file=work / "model/vocab.txt")) is told


# The bundled model


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engines").mkdir()
    args = ["-pt", str(MODEL), "-o", "engines/qa.engine", "-s", "128", "--backend", "onnxruntime"]
    succeeds("builder.py", args, tmp_path)
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(reader_module)
    assert results.attempted > 0
    assert results.failed == 0
