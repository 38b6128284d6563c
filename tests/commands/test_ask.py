"""inference.py and inference_varseqlen.py: one question, questions at a prompt, SQuAD's, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inputs import PARAGRAPH, SQUAD, change, lacking, questions_of, read, squad_of
from tests.models import write_vocab
from tests.running import PATIENCE, ROOT, listing, read_until, refused, start, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

SCRIPTS = ("inference.py", "inference_varseqlen.py")
ENGINES = {"inference.py": "padded.engine", "inference_varseqlen.py": "packed.engine"}
ASK = "-e padded.engine -p the cat -q why"
PROMPT = r"Question \(to exit, type exit or quit\)\? "
BLOCK = (
    r"-{24}\nRunning inference in \d+\.\d{3} Sentences/Sec\n-{24}\nAnswer: '(?P<answer>.*)'\n"
    r"With probability: (?P<percent>\d{1,3}\.\d{3})%\n"
)


# Bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-q why", "a passage is required: --passage or --passage-file"),
        ("-p a -pf passage.txt -q why", "give --passage or --passage-file, not both"),
        ("-p a -q why -qf question.txt", "give --question or --question-file, not both"),
        ("-p -q why", "the passage is empty"),
        ("-p ' ' '\t' -q why", "the passage is empty"),
        ("-p '\u200b' -q why", "passage 1 has no words"),
        ("-pf empty.txt -q why", "the passage is empty: empty.txt"),
        ("-pf blank.txt -q why", "the passage is empty: blank.txt"),
        ("-pf absent.txt -q why", "passage file absent.txt cannot be read: No such file or directory"),
        ("-pf bytes.txt -q why", "passage file bytes.txt is not UTF-8 text (byte 2)"),
        ("-p a -q", "the question is empty"),
        ("-p a -q ' '", "the question is empty"),
        ("-p a -q '\u200b'", "question 1 has no words"),
        ("-p a -qf empty.txt", "the question is empty: empty.txt"),
        (f"-p a -q {'x' * 61}", "question 1 has 61 tokens"),
        ("-s 12 -p a -q abcdefghi", "question 1 has 9 tokens, which with 3 separators leaves no room"),
        ("-s 65 -p a -q why", "sequence length 65 is above the engine's, 64"),
        ("-b 5 -p a -q why", "batch size 5 is above the engine's, 4"),
        ("-s 0 -p a -q why", "argument -s/--sequence-length: must be a whole number from 1, not '0'"),
        ("-b 0 -p a -q why", "argument -b/--batch-size: must be a whole number from 1, not '0'"),
        ("-d 0 -p a -q why", "argument -d/--doc-stride: must be a whole number from 1, not '0'"),
        ("-v other.txt -p a -q why", "tokenizer other.txt has 100 tokens but the model's embedding 60 rows"),
        ("-v absent.txt -p a -q why", "no tokenizer at absent.txt: there is no tokenizer.json or vocab.txt; name it with -v"),
        ("--pooling cls -p a -q why", "--pooling is for feature-extraction, but engine padded.engine is for question-answering"),
    ],
)
def test_bad_question(work: Path, args: str, says: str) -> None:
    (work / "empty.txt").touch()
    (work / "blank.txt").write_text(" \n\t\n")
    (work / "bytes.txt").write_bytes(b"ab\xff")
    write_vocab(work / "other.txt", 100)
    refused("inference.py", f"-e padded.engine {args}", work, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-q why", "a passage is required"),
        ("-p a -q ' '", "the question is empty"),
        (f"-p a -q {'x' * 61}", "question 1 has 61 tokens"),
        ("-s 65 -p a -q why", "sequence length 65 is above the engine's, 64"),
        ("-b 5 -p a -q why", "batch size 5 is above the engine's, 4"),
    ],
)
def test_bad_question_to_a_packed_engine(work: Path, args: str, says: str) -> None:
    refused("inference_varseqlen.py", f"-e packed.engine {args}", work, says)


@pytest.mark.parametrize(("args", "says"), [("-p 'a \udcff' -q why", "passage 1"), ("-p a -q 'b \udcff'", "question 1")])
def test_words_that_are_not_utf8(work: Path, args: str, says: str) -> None:
    """A byte that no text has; a Python string spells it as a lone surrogate."""
    refused("inference.py", f"-e padded.engine {args}", work, says)


def test_the_description_of_an_older_builder(work: Path) -> None:
    change(work / "padded.engine.json", "tokenizer", "template", "task", vocab_file="model/vocab.txt", lower_case=True)
    refused("inference.py", ASK, work, "description has no tokenizer, an older builder's: build it again, or give -v")
    assert re.fullmatch(BLOCK, succeeds("inference.py", f"{ASK} -v model/vocab.txt", work))


# What else is wrong with a SQuAD file is told in tests/qa/test_squad.py.
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"data": [\n{"paragraphs": ]', "bad.json is not JSON: line 2, column 16"),
        (json.dumps(lacking(*PARAGRAPH, "context")), "article 2, paragraph 2 must have 'context'"),
        (
            json.dumps(squad_of({"id": "2", "question": "x" * 61})),
            "question '2' (article 2, paragraph 2, question 1) has 61 tokens",
        ),
    ],
    ids=["malformed", "context", "long question"],
)
def test_bad_squad(work: Path, script: str, content: str, says: str) -> None:
    (work / "bad.json").write_text(content)
    refused(script, f"-e {ENGINES[script]} -sq bad.json", work, says)


@pytest.mark.parametrize("args", ["-p the cat", "-pf passage.txt", "-q why", "-qf question.txt"])
def test_squad_together_with_a_question(work: Path, args: str) -> None:
    (work / "good.json").write_text(json.dumps(squad_of()))
    refused("inference.py", f"-e padded.engine -sq good.json {args}", work, "--squad-json brings its own passages and questions")


# Neither the engine nor the SQuAD file is there: an output is looked at before the work starts.
@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-o absent/out.json", "output folder absent does not exist"),
        ("-o passage.txt/out.json", "output folder passage.txt "),
        ("-o model", "output model is a folder"),
        ("-o .", "output . is a folder"),
        ("-o taken.json", "output nbest_taken.json is a folder"),
        ("-o null.json --version-2-with-negative", "output null_odds_null.json is a folder"),
    ],
)
def test_predictions_that_cannot_be_written(work: Path, args: str, says: str) -> None:
    (work / "nbest_taken.json").mkdir()
    (work / "null_odds_null.json").mkdir()
    refused("inference.py", f"-e absent.engine -sq absent.json {args}", work, says)


@pytest.mark.parametrize("output", ["good.json", "padded.engine", "padded.engine.json", "model/vocab.txt"])
def test_predictions_may_not_overwrite_what_is_read(work: Path, output: str) -> None:
    (work / "good.json").write_text(json.dumps(squad_of()))
    args = f"-e padded.engine -sq good.json -v model/vocab.txt -o {output}"
    refused("inference.py", args, work, f"output {output} is read as well")


# One question


def answered(printed: str) -> tuple[str, float]:
    """Answer and percents, from what a script prints for one question."""
    match = re.fullmatch(BLOCK, printed)
    assert match, printed
    assert 0 < float(match["percent"]) <= 100
    return match["answer"], float(match["percent"])


def test_words_and_files(small: Path) -> None:
    answer, percent = answered(succeeds("inference.py", "-e padded.engine -p the cat sat 'on the' mat -q where", small))
    assert answer in "the cat sat on the mat"
    for script, engine, args in (
        ("inference.py", "padded.engine", "-p 'the cat sat on the mat' -qf question.txt"),
        ("inference.py", "padded.engine", "-pf passage.txt -q where is it --max-query-length 5"),
        ("inference_varseqlen.py", "packed.engine", "-p the cat sat on the mat -q where"),
        ("inference_varseqlen.py", "packed.engine", "-pf passage.txt -qf question.txt"),
    ):
        same, chance = answered(succeeds(script, f"-e {engine} {args}", small).replace("sat\non", "sat on"))
        assert same == answer
        assert chance == pytest.approx(percent, abs=0.002)
    other, _ = answered(succeeds("inference.py", "-e padded.engine -p a rat ran -q where", small))
    assert other in "a rat ran"


@pytest.mark.parametrize(
    ("script", "end"), [("inference.py", b"exit\n"), ("inference.py", b""), ("inference_varseqlen.py", b"quit\n")]
)
def test_prompt(small: Path, script: str, end: bytes) -> None:
    passage = f"-e {ENGINES[script]} -p the cat sat on the mat"
    printed = succeeds(script, passage, small, b"where\n\nwho sat \n" + end)
    block = BLOCK.replace("?P<answer>", "").replace("?P<percent>", "")
    match = re.fullmatch(PROMPT + block + PROMPT + PROMPT + block + PROMPT + ("" if end else r"\n"), printed)
    assert match, printed
    for question, answer, percent in (("where", match[1], match[2]), ("who sat", match[3], match[4])):
        alone, chance = answered(succeeds(script, f"{passage} -q {question}", small))
        assert answer == alone
        assert float(percent) == pytest.approx(chance, abs=0.002)


@pytest.mark.parametrize("typed", [b"x" * 61, "\u200b".encode(), b"\xff"], ids=["too long", "no words", "not UTF-8"])
def test_the_prompt_goes_on_after_a_question_that_cannot_be_asked(small: Path, typed: bytes) -> None:
    printed = succeeds("inference.py", "-e padded.engine -p the cat sat", small, typed + b"\nwhere\nexit\n")
    assert re.fullmatch(rf"{PROMPT}error: question 1 [^\n]+\n{PROMPT}{BLOCK}{PROMPT}", printed)


def test_interrupted_at_the_prompt(work: Path) -> None:
    before = listing(work)
    with start("inference.py", "-e padded.engine -p the cat sat", work) as process:
        read_until(process.stdout, b"quit")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors.decode().split()) == (130, ["interrupted"])
    assert listing(work) == before


def demo_words() -> str:
    """Passage and question of scripts/demo.sh, as it gives them."""
    script = (ROOT / "scripts/demo.sh").read_text(encoding="utf-8").replace("\\\n", "")
    match = re.search(r'-p "([^"]+)"\s+-q "([^"]+)"', script)
    assert match
    return f"-p {shlex.quote(match[1])} -q {shlex.quote(match[2])}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_demo(minilm: Path, script: str) -> None:
    engine = ENGINES[script]
    answer, percent = answered(succeeds(script, f"-e {engine} {demo_words()}", minilm))
    assert answer == "high performance deep learning inference platform"
    assert 20 < percent < 35
    narrow, _ = answered(succeeds(script, f"-e {engine} -s 48 -d 16 {demo_words()}", minilm))  # several windows
    assert narrow in demo_words()


def test_every_script_runs_an_engine_of_either_kind(minilm: Path) -> None:
    for script, engine in zip(SCRIPTS, ("packed.engine", "padded.engine")):
        answer, _ = answered(succeeds(script, f"-e {engine} {demo_words()}", minilm))
        assert answer == "high performance deep learning inference platform"


@pytest.mark.parametrize("engine", ["padded.engine", "packed.engine"])
def test_an_engine_without_its_description(work: Path, engine: str) -> None:
    args = f"-e {engine} -p the cat sat -q why"
    answer, percent = answered(succeeds("inference.py", args, work))
    (work / f"{engine}.json").unlink()
    for flags in ("-v model/vocab.txt", "-v model/vocab.txt -s 64 -b 4"):
        same, chance = answered(succeeds("inference.py", f"{args} {flags}", work))
        assert same == answer
        assert chance == pytest.approx(percent, abs=0.002)
    refused("inference.py", f"{args} -s 64", work, "no description", "tokenizer", "-v")
    write_vocab(work / "other.txt", 90)
    refused("inference.py", f"{args} -v other.txt", work, "other.txt has 90 tokens but the model's embedding 60 rows")


def test_squad_with_an_engine_without_its_description(work: Path) -> None:
    (work / "good.json").write_text(json.dumps(squad_of()))
    succeeds("inference.py", "-e padded.engine -sq good.json", work)
    (work / "padded.engine.json").unlink()
    succeeds("inference.py", "-e padded.engine -sq good.json -v model/vocab.txt -o other.json", work)
    assert read(work / "other.json") == read(work / "predictions.json")


@pytest.fixture(scope="module")
def scored(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The predictions for the small SQuAD file in windows of 64 tokens, by layout and batch size."""
    paths = {}
    for script, layout in zip(SCRIPTS, ("padded", "packed")):
        for size in (1, 8):
            folder = tmp_path_factory.mktemp("scored")
            (folder / "out.json.partial").touch()  # of an earlier run that was interrupted
            engine = minilm / f"{layout}.engine"
            printed = succeeds(script, f"-e {engine} -sq {SQUAD} -o out.json -s 64 -d 40 -b {size}", folder)
            assert re.fullmatch(
                r"Answered 12 questions, 42 windows, in \d+\.\d s \(\d+\.\d Sentences/Sec\) on .+; predictions in out\.json\n",
                printed,
            )
            assert sorted(path.name for path in folder.iterdir()) == ["nbest_out.json", "out.json"]
            paths[layout, size] = folder / "out.json"
    return paths


ALL_SCORED = [("padded", 1), ("padded", 8), ("packed", 1), ("packed", 8)]


@pytest.mark.parametrize("kind", ALL_SCORED, ids=str)
def test_squad_answers(scored: dict[tuple[str, int], Path], kind: tuple[str, int]) -> None:
    predictions, nbest = read(scored[kind]), read(scored[kind].with_name("nbest_out.json"))
    asked = questions_of(read(SQUAD))
    assert list(predictions) == list(nbest) == list(asked)  # each once, in the file's order
    for key, candidates in nbest.items():
        assert 1 <= len(candidates) <= 20
        texts, chances = ([candidate[name] for candidate in candidates] for name in ("text", "probability"))
        assert (texts[0], len(set(texts))) == (predictions[key], len(texts))
        assert all(candidate["text"] == asked[key][1][candidate["start"] : candidate["end"]] for candidate in candidates)
        assert sum(chances) == pytest.approx(1, abs=2e-5)  # each is rounded
        assert chances == sorted(chances, reverse=True)
    # Beyond the first window, with letters of two bytes, and with characters of four bytes and accents before it.
    assert predictions["light-4"] == "forty-two metres"
    assert predictions["tea-2"] == "Kraków"
    assert predictions["tea-4"] == "18 zł"


@pytest.mark.parametrize("kind", ALL_SCORED[1:], ids=str)
def test_layout_and_batch_size_change_no_answer(scored: dict[tuple[str, int], Path], kind: tuple[str, int]) -> None:
    assert read(scored[kind]) == read(scored["padded", 1])
    ours, theirs = (read(scored[each].with_name("nbest_out.json")) for each in (kind, ("padded", 1)))
    for key in ours:
        scores, expected = ([candidate["score"] for candidate in nbest[key]] for nbest in (ours, theirs))
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_evaluate(scored: dict[tuple[str, int], Path], tmp_path: Path) -> None:
    printed = succeeds("squad/evaluate-v1.1.py", f"{SQUAD} {scored['packed', 8]} 80", tmp_path)
    verdict, scores = printed.splitlines()
    assert verdict == "&&&& PASSED TensorRT BERT Squad Accuracy matches reference."
    assert min(json.loads(scores).values()) > 85


def test_the_question_alone_has_the_answer_that_it_has_in_the_file(
    scored: dict[tuple[str, int], Path], minilm: Path, tmp_path: Path
) -> None:
    question, passage = questions_of(read(SQUAD))["light-3"]
    (tmp_path / "passage.txt").write_text(passage, encoding="utf-8")
    args = f"-e {minilm / 'padded.engine'} -pf passage.txt -q {shlex.quote(question)} -s 64 -d 40"
    answer, percent = answered(succeeds("inference.py", args, tmp_path))
    [best, *_] = read(scored["padded", 8].with_name("nbest_out.json"))["light-3"]
    assert answer == best["text"]
    assert percent == pytest.approx(100 * best["probability"], abs=0.01)


def test_an_output_that_nothing_goes_to(small: Path) -> None:
    """Of one question nothing is written, so that the name does not matter."""
    answered(succeeds("inference.py", "-e padded.engine -p the cat -q where -o absent/out.json", small))


def test_squad_by_default(work: Path) -> None:
    """Predictions go into the current folder, windows are the engine's; a run replaces what an earlier one left."""
    (work / "good.json").write_text(json.dumps(squad_of()))
    (work / "predictions.json").write_text("old")
    before = set(listing(work))
    (work / "predictions.json.partial").write_text('{"old": "answer"}')
    succeeds("inference.py", "-e padded.engine -sq good.json --n-best-size 3 --max-answer-length 2", work)
    assert set(listing(work)) == before | {"nbest_predictions.json"}
    assert list(read(work / "predictions.json")) == ["1", "2"]
    nbest = read(work / "nbest_predictions.json").values()
    assert [len(candidates) for candidates in nbest] == [3, 3]
    letters = (candidate["text"].replace(" ", "") for candidates in nbest for candidate in candidates)
    assert max(map(len, letters)) == 2  # each is a token


# SQuAD 2.0


@pytest.fixture(scope="module")
def squad2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small SQuAD file as version 2.0, with two questions that its passages do not answer."""
    document = read(SQUAD)
    document["version"] = "v2.0"
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                question["is_impossible"] = False
    nothing: dict[str, Any] = {"answers": [], "is_impossible": True}
    document["data"][0]["paragraphs"][1]["qas"].append({"id": "none-1", "question": "Who painted the ceiling?", **nothing})
    document["data"][2]["paragraphs"][0]["qas"].append({"id": "none-2", "question": "When does the ferry leave?", **nothing})
    path = tmp_path_factory.mktemp("squad2") / "v2.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def score2(folder: Path, squad2: Path, flags: str) -> tuple[Any, Any]:
    succeeds("inference.py", f"-e padded.engine -sq {squad2} -o out.json {flags}", folder)
    return read(folder / "out.json"), read(folder / "nbest_out.json")


def test_squad2(work: Path, squad2: Path) -> None:
    plain, _ = score2(work, squad2, "")
    assert not (work / "null_odds_out.json").exists()
    assert list(plain) == list(questions_of(read(squad2)))
    assert all(plain.values())

    none_empty, nbest = score2(work, squad2, "--version-2-with-negative --null-score-diff-threshold 10000")
    odds = read(work / "null_odds_out.json")
    assert none_empty == plain
    assert {key for key, value in odds.items() if isinstance(value, float)} == set(plain)
    for key, candidates in nbest.items():
        texts = [candidate["text"] for candidate in candidates]
        assert (texts.count(""), texts[0], len(set(texts))) == (1, plain[key], len(texts))
        assert sum(candidate["probability"] for candidate in candidates) == pytest.approx(1, abs=2e-5)  # each is rounded
        null = candidates[texts.index("")]
        assert odds[key] == pytest.approx(null["score"] - candidates[0]["score"], abs=2e-4)

    all_empty, nbest = score2(work, squad2, "--version-2-with-negative --null-score-diff-threshold -10000")
    assert set(all_empty.values()) == {""}
    assert all(candidates[0]["text"] == "" for candidates in nbest.values())
    assert read(work / "null_odds_out.json") == odds

    middle = (sorted(odds.values())[6] + sorted(odds.values())[7]) / 2
    some_empty, _ = score2(work, squad2, f"--version-2-with-negative --null-score-diff-threshold={middle!r}")
    assert some_empty == {key: "" if odds[key] > middle else text for key, text in plain.items()}
    assert list(some_empty.values()).count("") == 7

    printed = succeeds("squad/evaluate-v2.0.py", f"{squad2} out.json --na-prob-file null_odds_out.json", work)
    scores = json.loads(printed)
    assert (scores["total"], scores["NoAns_total"]) == (14, 2)
    assert scores["NoAns_exact"] == 50 * ((some_empty["none-1"] == "") + (some_empty["none-2"] == ""))


# Interrupted


@pytest.mark.parametrize("script", SCRIPTS)
def test_interrupted_scoring_keeps_what_it_has(minilm: Path, tmp_path: Path, script: str) -> None:
    args = f"-e {minilm / ENGINES[script]} -sq {{}} -o out.json -b 1"  # which is slow
    succeeds(script, args.format(SQUAD), tmp_path)
    whole = read(tmp_path / "out.json")
    for left in ("out.json", "nbest_out.json"):
        (tmp_path / left).unlink()

    document = read(SQUAD)
    short = json.dumps([*document["data"][1:], {"paragraphs": document["data"][0]["paragraphs"][1:]}])
    for copy in range(200):  # more than can be scored before the signal comes
        document["data"] += json.loads(short.replace('"id": "', f'"id": "{copy}#'))
    asked = questions_of(document)
    (tmp_path / "many.json").write_text(json.dumps(document), encoding="utf-8")
    with start(script, args.format("many.json"), tmp_path) as process:
        read_until(process.stderr, rb"[1-9]\d*/1612 ")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.json", "out.json.partial"]
    kept = read(tmp_path / "out.json.partial")
    said = f"\n{len(kept)} of {len(asked)} questions done, kept in out.json.partial\ninterrupted\n"
    assert errors.decode().endswith(said)
    assert 0 < len(kept) < len(asked) == 1612
    assert set(kept) < set(asked)
    assert kept == {key: whole[key.split("#")[-1]] for key in kept}
