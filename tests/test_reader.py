"""Reader: answers against an oracle that runs Hugging Face's model on each window alone, other tasks against its pipelines."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pipelines.token_classification import AggregationStrategy

from helpers import backends
from helpers import reader as reader_module
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.errors import InputError
from helpers.layouts import Batch, Profile, bounds_of
from helpers.progress import Progress
from helpers.qa import squad
from helpers.qa.spans import Answer, Candidate
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.tasks.classification import Label
from helpers.tasks.entities import Entity
from helpers.tokenization import Template
from tests.batches import onnx_blob, theirs
from tests.inputs import change, write_squad
from tests.models import random_model, small_config, weights_of, write_vocab
from tests.oracle import CLOSE, check, check_probabilities, expect, same
from tests.pipelines import TAGS, model_of, pipeline, save
from tests.running import MODEL, ROOT, succeeds

SHORT = Options(sequence_length=24, doc_stride=7, max_question_len=9, max_answer_len=6, top_k=8)


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
    options = Options(length, stride, max_question_len=data.draw(st.integers(1, 10)), max_answer_len=longest, top_k=5)
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
        assert len(found.candidates) == SHORT.top_k


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
    options = Options(64, top_k=20)
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
    narrow = world.reader.answer("who?", LONG[0], sequence_length=20, doc_stride=3, max_answer_len=2, top_k=4)
    check_answer(world, LONG[0], "who?", Options(20, 3, max_answer_len=2, top_k=4), narrow)
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
    nothing = world.reader.answer("who?", LONG[0], handle_impossible_answer=True, null_threshold=margin - 0.01)
    assert (nothing.text, nothing.start, nothing.end, nothing.score) == ("", 0, 0, found.null_score)
    assert [c[:4] for c in nothing.candidates[1:]] == [c[:4] for c in found.candidates]
    something = world.reader.answer("who?", LONG[0], handle_impossible_answer=True, null_threshold=margin + 0.01)
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


def test_a_squad_file_with_questions_without_words(world: World, tmp_path: Path) -> None:
    """They are named, and answered with nothing; the others are answered as ever."""
    path = write_squad(tmp_path / "squad.json", ("a b c", ["why", " ", "who"]), ("\u200b", ["why", "who"]), ("c", ["", "why"]))
    passages, questions = squad.read(path)
    told = Told()
    write_vocab(tmp_path / "vocab.txt")
    reader = Reader(world.reader.session, None, tmp_path / "vocab.txt", told)
    encoded = reader.encode_squad(passages, questions, Options(64))
    assert told.texts == [
        "4 of 7 questions have no words, or their passages have none, and are answered with nothing: "
        "'0 1' (article 1, paragraph 1, question 2), '1 0' (article 1, paragraph 2, question 1), "
        "'1 1' (article 1, paragraph 2, question 2) and 1 more"
    ]
    found = dict(reader.answers(encoded, Options(64)))
    assert [i for i, answer in sorted(found.items()) if not answer.text] == [1, 3, 4, 5]
    assert [found[i] for i in (0, 2, 6)] == ask(world, ["a b c", "c"], ["why", "who", "why"], [0, 0, 1], Options(64), 1)
    with pytest.raises(InputError, match=r"^question '0 2' \(article 1, paragraph 1, question 3\) has 3 tokens, which with"):
        reader.encode_squad(passages, [questions[2]], Options(6))


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
    """With the tokenizer in the description, or another that is given; paths may be text."""
    path = small / f"{kind}.engine"
    with Reader.open(str(path)) as reader:
        found = reader.answer("where", "the cat sat on the mat")
        assert found.text and found.text in "the cat sat on the mat"
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


def test_no_tokenizer_is_known(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    expected = Reader.open(work / "padded.engine").answer("where", "the cat")
    for says, spoil in (
        (
            "the engine's description has no tokenizer, an older builder's: build it again, or give vocab_file",
            lambda path: change(path, "tokenizer", "template", "task", "labels", "scoring", vocab_file="absent", lower_case=True),
        ),
        ("the engine has no description beside it that tells its tokenizer: give it with vocab_file", Path.unlink),
    ):
        spoil(work / "padded.engine.json")
        with pytest.raises(InputError) as error:
            Reader.open(work / "padded.engine")
        assert str(error.value) == says
        assert Reader.open(work / "padded.engine", vocab_file=work / "model/vocab.txt").answer("where", "the cat") == expected
    assert len(closed) == 2


def test_a_tokenizer_that_is_not_there(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    with pytest.raises(InputError, match=r"^no tokenizer at .*absent\.txt: .* name it with vocab_file$"):
        Reader.open(work / "padded.engine", vocab_file=work / "absent.txt")
    assert len(closed) == 1


def test_an_engine_needs_nothing_of_its_checkpoint(work: Path) -> None:
    expected = Reader.open(work / "padded.engine", vocab_file=work / "model").answer("where", "the cat")
    (work / "model").rename(work / "elsewhere")
    assert Reader.open(work / "padded.engine").answer("where", "the cat") == expected


@pytest.mark.parametrize("described", [True, False])
def test_a_vocabulary_of_another_model(work: Path, described: bool, closed: list[OnnxRuntimeSession]) -> None:
    write_vocab(work / "other.txt", 100)
    if not described:
        (work / "padded.engine.json").unlink()
    with pytest.raises(InputError) as error:
        Reader.open(work / "padded.engine", vocab_file=work / "other.txt")
    assert str(error.value).startswith(f"tokenizer {work / 'other.txt'} has 100 tokens but the model's embedding 60 rows: ")
    assert len(closed) == 1


def test_an_engine_that_does_not_tell_its_size(work: Path) -> None:
    """As TensorRT's: then the description's counts, and without one there is nothing to hold a vocabulary against."""
    write_vocab(work / "other.txt", 100)
    session, description = backends.open_engine(work / "padded.engine")
    session.vocab_size = None
    with pytest.raises(InputError, match=r"has 100 tokens but the model's embedding 60 rows"):
        Reader(session, description, work / "other.txt")
    Reader(session, None, work / "other.txt")


def test_a_family_that_is_not_ours(work: Path, closed: list[OnnxRuntimeSession]) -> None:
    change(work / "padded.engine.json", model_type="gpt2")
    with pytest.raises(InputError, match=r"^the engine's description: model_type 'gpt2' is not supported; "):
        Reader.open(work / "padded.engine", vocab_file=work / "model/vocab.txt")
    assert len(closed) == 1


def test_segments_are_those_that_the_description_says_the_model_has(work: Path) -> None:
    change(work / "padded.engine.json", template=[["[CLS]"], ["[SEP]"], ["[SEP]"], 0])
    for vocab_file in (None, work / "model"):
        assert Reader.open(work / "padded.engine", vocab_file=vocab_file).template == Template(passage_segment=0)


@pytest.mark.parametrize("told", [True, False])
def test_lower_case_as_the_vocabularys_folder_says(work: Path, told: bool) -> None:
    (work / "padded.engine.json").unlink()
    (work / "model/tokenizer_config.json").write_text(json.dumps({"do_lower_case": told}))
    reader = Reader.open(work / "padded.engine", vocab_file=work / "model/vocab.txt")
    [capital, small] = reader.tokenizer(["THE CAT", "the cat"])
    assert (capital.ids.tolist() == small.ids.tolist()) is told


# Other tasks

CLASSIFY, TAG, EMBED = "sequence-classification", "token-classification", "feature-extraction"
PIPELINES = {CLASSIFY: "text-classification", TAG: "token-classification", EMBED: "feature-extraction"}
LENGTH = 24
TEXTS = ["the cat sat", "", "a", "who? why, where. it was", LONG[0], LONG[2]]  # of which the last two fit no window
PAIRS = ["on a mat", "x", LONG[1], "b", LONG[2], "a b"]


class Told(Progress):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


class Task(NamedTuple):
    """A small random model: an engine's reader, what it was told, Hugging Face's model and its pipeline."""

    reader: Reader
    told: Told
    model: Any
    pipeline: Any


def open_task(task: str, folder: Path, packed: bool = False, labels: Sequence[str] = TAGS, **changes: Any) -> Task:
    model = model_of(task, labels, **changes)
    save(model, folder / "model")
    script = "builder_varseqlen.py" if packed else "builder.py"
    succeeds(script, f"-pt model -o task.engine --task {task} -s {LENGTH} -b 4 --backend onnxruntime", folder)
    told = Told()
    reader = Reader.open(folder / "task.engine", progress=told)
    return Task(reader, told, model, pipeline(PIPELINES[task], folder / "model"))


CUT = {"truncation": True, "max_length": LENGTH}
SCORED: dict[str, Any] = {
    "softmax": {},
    "sigmoid": {"problem_type": "multi_label_classification"},
    "sigmoid of one": {"labels": ["spam"]},
    "none": {"problem_type": "regression", "labels": ["stars"]},
}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("scored", SCORED)
def test_classify(tmp_path: Path, scored: str, packed: bool) -> None:
    task = open_task(CLASSIFY, tmp_path, packed, **SCORED[scored])

    def check(found: list[list[Label]], theirs: list[list[dict[str, Any]]]) -> None:
        for ours, expected in zip(found, theirs):
            assert [label for label, _ in ours] == [each["label"] for each in expected]
            assert [score for _, score in ours] == pytest.approx([each["score"] for each in expected], abs=CLOSE)

    alone = task.reader.classify(TEXTS)
    check(alone, [task.pipeline(text, top_k=None, **CUT) for text in TEXTS])
    assert len({label.score for found in alone for label in found}) == len(TEXTS) * len(alone[0])  # or nothing would show
    pairs = task.reader.classify(TEXTS, PAIRS)
    check(pairs, [task.pipeline({"text": a, "text_pair": b}, top_k=None, **CUT) for a, b in zip(TEXTS, PAIRS)])
    check([task.reader.classify(TEXTS[4], PAIRS[4], top_k=2)], [[label._asdict() for label in pairs[4][:2]]])
    assert task.reader.classify([]) == task.reader.classify([], []) == []
    # Of long texts it is told once.
    assert task.told.texts == [f"2 of 6 texts do not fit a window of {LENGTH} tokens: only their beginning is read"]


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "packed"])
def tagger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(TAG, tmp_path_factory.mktemp("tagger"), request.param)


def same_entities(found: list[Entity], theirs: list[dict[str, Any]], text: str) -> None:
    assert [(e.label, e.start, e.end) for e in found] == [(e["entity_group"], e["start"], e["end"]) for e in theirs]
    assert [e.score for e in found] == pytest.approx([e["score"] for e in theirs], abs=CLOSE)
    assert all(e.text == text[e.start : e.end] for e in found)


def test_entities(tagger: Task) -> None:
    texts = TEXTS[:4]
    found = tagger.reader.entities(texts)
    assert sum(map(len, found)) > 5
    for text, entities in zip(texts, found):
        same_entities(entities, tagger.pipeline(text, aggregation_strategy="simple"), text)
    same_entities(tagger.reader.entities(texts[3]), tagger.pipeline(texts[3], aggregation_strategy="simple"), texts[3])
    assert tagger.reader.entities([]) == []


@pytest.mark.parametrize("stride", [4, 9, 100])
def test_entities_of_long_texts(tagger: Task, stride: int) -> None:
    """The pipeline groups what the model says of each token in the window where it has its best context."""
    text, room = LONG[2], LENGTH - 2
    [tokens] = tagger.reader.tokenizer([text])
    cls, sep = tagger.reader.tokenizer.ids(["[CLS]", "[SEP]"])
    ids, step = tokens.ids.tolist(), min(stride, room)
    best: dict[int, tuple[int, Any]] = {}
    for begin in range(0, max(0, -(-(len(ids) - room) // step)) * step + 1, step):
        shown = ids[begin : begin + room]
        window = np.array([[cls, *shown, sep]], np.int32)
        logits = theirs(tagger.model, Batch(window[0], np.zeros_like(window[0]), bounds_of([window.size])))
        for i in range(len(shown)):
            context = 100 * min(i, len(shown) - 1 - i) + len(shown)
            if begin + i not in best or context > best[begin + i][0]:
                best[begin + i] = context, torch.from_numpy(logits[1 + i]).softmax(-1).numpy()
    said = [
        {"scores": best[i][1], "index": i, "word": "x", "start": int(start), "end": int(end), "is_subword": False}
        for i, (start, end) in enumerate(tokens.offsets)
    ]
    grouped = tagger.pipeline.aggregate(said, AggregationStrategy.SIMPLE)
    expected = [entity for entity in grouped if entity["entity_group"] != "O"]
    same_entities(tagger.reader.entities([text, "a"], doc_stride=stride)[0], expected, text)
    assert tagger.told.texts == []


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_embed(tmp_path: Path, packed: bool) -> None:
    task = open_task(EMBED, tmp_path, packed)
    outputs = [task.pipeline(text, return_tensors=True, tokenize_kwargs=CUT)[0].numpy() for text in TEXTS]
    mean, cls = task.reader.embed(TEXTS), task.reader.embed(TEXTS, pooling="cls")
    np.testing.assert_allclose(mean, [each.mean(0) for each in outputs], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(cls, [each[0] for each in outputs], rtol=0, atol=CLOSE)
    assert mean.dtype == cls.dtype == np.float32
    one = task.reader.embed(TEXTS[3])
    assert one.shape == (mean.shape[1],)
    np.testing.assert_allclose(one, mean[3], rtol=0, atol=CLOSE)
    assert task.reader.embed([]).shape == (0, mean.shape[1])
    with pytest.raises(InputError) as error:
        task.reader.embed("a", pooling="max")
    assert str(error.value) == "pooling 'max' is unknown: use one of mean, cls"
    assert len(task.told.texts) == 1


def test_texts_and_pairs(tmp_path: Path) -> None:
    reader = open_task(CLASSIFY, tmp_path).reader
    for texts, pairs, says in ((["a", "b"], ["c"], "2 texts with 1 pairs"), ("a", ["b", "c"], "1 texts with 2 pairs")):
        with pytest.raises(InputError) as error:
            reader.classify(texts, pairs)
        assert str(error.value) == f"{says}: give one pair for each text"
    with pytest.raises(InputError, match=r"^top_k must be a whole number from 1, not 0$"):
        reader.classify("a", top_k=0)
    with pytest.raises(InputError, match=r"^text 2 is not valid Unicode"):
        reader.classify(["a", "\udcff"])


CALLS: dict[str, Callable[[Reader], object]] = {
    "question-answering": lambda reader: reader.answer("why", "a"),
    CLASSIFY: lambda reader: reader.classify("a"),
    TAG: lambda reader: reader.entities("a"),
    EMBED: lambda reader: reader.embed("a"),
}


@pytest.mark.parametrize("asked", CALLS)
def test_another_task_than_the_engines(tagger: Task, small: Path, asked: str) -> None:
    for reader, own, method in (
        (tagger.reader, TAG, "entities"),
        (Reader.open(small / "padded.engine"), "question-answering", "answer"),
    ):
        if asked == own:
            CALLS[asked](reader)
            continue
        with pytest.raises(InputError) as error:
            CALLS[asked](reader)
        assert str(error.value) == f"the engine is for {own}, not for {asked}: call {method}, or build one with task {asked}"


def test_outputs_that_the_description_does_not_tell(tmp_path: Path, closed: list[OnnxRuntimeSession]) -> None:
    open_task(CLASSIFY, tmp_path).reader.close()
    engine, description = tmp_path / "task.engine", tmp_path / "task.engine.json"
    for changes, says in (
        ({"task": "translation"}, "the engine's description: task 'translation' is not supported; supported are question-answer"),
        ({"task": TAG}, "the engine's description has 6 labels for token-classification, but its outputs are others: build it"),
        ({"labels": ["a", "b"]}, "the engine's description has 2 labels for sequence-classification, but its outputs are others"),
    ):
        before = description.read_text()
        change(description, **changes)
        with pytest.raises(InputError) as error:
            Reader.open(engine)
        assert str(error.value).startswith(says)
        description.write_text(before)
    description.unlink()
    with pytest.raises(InputError) as error:
        Reader.open(engine, vocab_file=tmp_path / "model")
    assert str(error.value) == "the engine has no description beside it that tells its outputs: build it again"
    assert len(closed) == 5


# The bundled model


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engines").mkdir()
    args = ["-pt", str(MODEL), "-o", "engines/qa.engine", "-s", "128", "--backend", "onnxruntime"]
    succeeds("builder.py", args, tmp_path)
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(reader_module)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_page_for_those_who_come_from_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its commands and code run, but for the pipeline that transformers 5 refuses."""
    page = (ROOT / "docs/from-transformers.md").read_text(encoding="utf-8")
    (tmp_path / "engines").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    for name, task in (("my-classifier", CLASSIFY), ("my-tagger", TAG), ("my-encoder", EMBED)):
        save(model_of(task, TAGS, max_position_embeddings=128), tmp_path / name)
    builds = re.findall(r"python (builder\.py) ([^`\n]+)", page)
    assert len(builds) == 4
    for script, args in builds:
        succeeds(script, f"{args} --backend onnxruntime", tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    pipelined, *blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with pytest.raises(KeyError, match="question-answering has been removed"):
        exec(pipelined)
    for block in blocks:
        exec(block, found)
    assert found["found"].text == "deep learning inference platform"
    assert len(found["labels"]) == len(TAGS) and [len(labels) for labels in found["several"]] == [1, 1]
    assert found["vectors"].shape == (2, 32)
