"""The SQuAD evaluations, run as their users run them, against numbers worked out by hand or by brute force."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import __version__
from helpers.errors import InputError
from helpers.qa.squad import read
from tests import running
from tests.running import assert_refusal, listing, shell, when_read

PASSED = "&&&& PASSED TensorRT BERT Squad Accuracy matches reference.\n"
FAILED = "&&&& FAILED TensorRT BERT Squad Accuracy matches reference.\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def squad(truths: dict[str, list[str]]) -> dict[str, Any]:
    """Build a data set from question ids and their annotated answers, over two articles of two paragraphs."""
    paragraphs: list[list[dict[str, Any]]] = [[], [], [], []]
    for number, (question, answers) in enumerate(truths.items()):
        texts = [{"text": text, "answer_start": 0} for text in answers]
        paragraphs[4 * number // len(truths)].append({"id": question, "question": "?", "answers": texts})
    passages = [{"context": "", "qas": questions} for questions in paragraphs]
    return {"version": "any", "data": [{"paragraphs": passages[:2]}, {"paragraphs": passages[2:]}]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Give a function that runs an evaluation from another folder, with contents as files NAME.json."""

    def run(script: str, *arguments: str, **files: Any) -> subprocess.CompletedProcess[str]:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / f"{name}.json").write_bytes(data)
        return running.run(f"squad/evaluate-{script}.py", arguments, tmp_path)

    return run


def scores(process: subprocess.CompletedProcess[str], warning: str = "") -> dict[str, float]:
    assert (process.returncode, process.stderr) == (0, warning)
    results = json.loads(process.stdout)
    assert isinstance(results, dict)
    return results


FILES = ("dataset.json", "predictions.json")


# SQuAD 1.1


@pytest.mark.parametrize(
    ("prediction", "truths", "exact", "f1"),
    [
        # Articles: only whole words, wherever a word ends.
        ("the Cat", ["Cat"], 1, 1),
        ("A cat, an owl and THE dog.", ["cat owl and dog"], 1, 1),
        ("theatre", ["atre"], 0, 0),
        ("vitamin a.", ["vitamin"], 1, 1),
        ("l\u2019a", ["l\u2019"], 1, 1),
        ("x\u2014the\u2014y", ["x\u2014 \u2014y"], 1, 1),
        ("the-end", ["end"], 0, 0),
        # Punctuation: ASCII's goes without a trace, the rest of Unicode's stays.
        ("U.S.A.", ["usa"], 1, 1),
        ("nearly $12", ["nearly 12"], 1, 1),
        ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~cat", ["cat"], 1, 1),
        ("rock-n-roll", ["rock n roll"], 0, 0),
        ("1990\u20132000", ["1990-2000"], 0, 0),
        ("\u201cNine\u201d", ["Nine"], 0, 0),
        # Case and space: all of Unicode's; composed and decomposed letters differ.
        ("CAF\u00c9", ["caf\u00e9"], 1, 1),
        ("\u0130zmir", ["i\u0307zmir"], 1, 1),
        ("caf\u00e9", ["cafe\u0301"], 0, 0),
        ("  ten\u00a0km\n", ["ten km"], 1, 1),
        # Words are a multiset: 2 red in common, so precision 2/4 and recall 2/3.
        ("red red red blue", ["red red green"], 0, 4 / 7),
        ("east west", ["west east"], 0, 1),
        # The best of the annotated answers: 2/3 for the first, 4/5 for the second.
        ("new york", ["york", "new york city", "big apple"], 0, 4 / 5),
        ("york", ["new york", "York"], 1, 1),
        # Nothing left to compare: the same, yet without a word in common.
        ("the", ["a"], 1, 0),
        ("", ["an"], 1, 0),
        ("", ["cat"], 0, 0),
        ("cat", ["the"], 0, 0),
    ],
)
def test_v1_scores_one_question(run: Run, prediction: str, truths: list[str], exact: float, f1: float) -> None:
    process = run("v1.1", *FILES, dataset=squad({"q": truths}), predictions={"q": prediction})
    assert scores(process) == {"exact_match": 100 * exact, "f1": pytest.approx(100 * f1)}


def test_v1_averages_over_all_questions_and_counts_the_unanswered(run: Run) -> None:
    dataset = squad({"right": ["cat"], "half": ["new york"], "unanswered": ["x"], "forgotten": [""], "wrong": ["y"]})
    predictions = {"right": "cat", "half": "york", "wrong": "mouse", "of another set": "x"}
    process = run("v1.1", *FILES, dataset=dataset, predictions=predictions)
    results = scores(process, "warning: 2 of 5 questions unanswered, scored as 0\n")
    assert results == {"exact_match": 20.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 5)}


def test_v1_prints_one_line_of_json(run: Run) -> None:
    dataset = squad({"right": ["x y"], "half": ["x z"], "wrong": ["y"], "other": ["x"]})
    predictions = {"right": "x y", "half": "x y", "wrong": "", "other": "z"}
    process = run("v1.1", *FILES, dataset=dataset, predictions=predictions)
    assert (process.returncode, process.stdout, process.stderr) == (0, '{"exact_match": 25.0, "f1": 37.5}\n', "")


@pytest.mark.parametrize("threshold", ["75", "74.999", "0", "-5"])
def test_v1_passes_a_threshold_that_f1_reaches(run: Run, threshold: str) -> None:
    files = {"dataset": squad({"right": ["x y"], "half": ["x z"]}), "predictions": {"right": "x y", "half": "x y"}}
    process = run("v1.1", *FILES, threshold, **files)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == PASSED + '{"exact_match": 50.0, "f1": 75.0}\n'


@pytest.mark.parametrize("threshold", ["75.001", "100", "1e3"])
def test_v1_fails_a_threshold_above_f1(run: Run, threshold: str) -> None:
    files = {"dataset": squad({"right": ["x y"], "half": ["x z"]}), "predictions": {"right": "x y", "half": "x y"}}
    process = run("v1.1", *FILES, threshold, **files)
    assert (process.returncode, process.stderr) == (1, "")
    assert process.stdout == FAILED + '{"exact_match": 50.0, "f1": 75.0}\n'


def test_v1_fails_in_a_process_of_its_own(run: Run, tmp_path: Path) -> None:
    files = {"dataset": squad({"right": ["x y"], "half": ["x z"]}), "predictions": {"right": "x y", "half": "x y"}}
    ours, theirs = run("v1.1", *FILES, "76", **files), shell("squad/evaluate-v1.1.py", [*FILES, "76"], tmp_path)
    assert (theirs.returncode, theirs.stdout, theirs.stderr) == (1, ours.stdout, "")


def test_first_truths_as_predictions_score_100(run: Run) -> None:
    source = random.Random(1)
    truths = {
        f"q{number}": [" ".join(source.choices(["the", "Caf\u00e9,", "1,000", "of", "$"], k=5)) + " end", "other"]
        for number in range(50)
    }
    files = {"dataset": squad(truths), "predictions": {question: answers[0] for question, answers in truths.items()}}
    assert scores(run("v1.1", *FILES, **files)) == {"exact_match": 100.0, "f1": 100.0}
    results = scores(run("v2.0", *FILES, **files))
    assert (results["exact"], results["f1"], results["total"]) == (100.0, 100.0, 50)


# SQuAD 2.0


def test_v2_scores_questions_with_and_without_answer(run: Run) -> None:
    dataset = squad({"half": ["new york"], "right": ["cat", "dog"], "none": [], "guess": [], "declined": ["owl"]})
    predictions = {"half": "york", "right": "The Dog", "none": "", "guess": "owl", "declined": ""}
    results = scores(run("v2.0", *FILES, dataset=dataset, predictions=predictions))
    expected = {
        "exact": 40.0,
        "f1": pytest.approx(100 * (2 / 3 + 1 + 1) / 5),
        "total": 5,
        "HasAns_exact": pytest.approx(100 / 3),
        "HasAns_f1": pytest.approx(100 * (2 / 3 + 1) / 3),
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }
    assert results == expected
    assert list(results) == list(expected)


def test_v2_leaves_out_an_empty_group(run: Run) -> None:
    results = scores(run("v2.0", *FILES, dataset=squad({"q": ["cat"]}), predictions={"q": "cat"}))
    assert list(results) == ["exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"]
    results = scores(run("v2.0", *FILES, dataset=squad({"q": []}), predictions={"q": ""}))
    assert list(results) == ["exact", "f1", "total", "NoAns_exact", "NoAns_f1", "NoAns_total"]


@pytest.mark.parametrize(
    ("prediction", "truths", "score"),
    [
        # A truth that normalises to nothing is dropped where there is another...
        ("", ["the", "cat"], 0),
        ("an", ["the", "cat"], 0),
        ("cat", ["the", "cat"], 1),
        # ...and stands for "no answer" where there is none, as does a prediction that normalises to nothing.
        ("", ["the"], 1),
        ("an", ["the", "..."], 1),
        ("cat", ["the"], 0),
        ("The!", [], 1),
        ("cat", [], 0),
    ],
)
def test_v2_compares_with_nothing_by_equality(run: Run, prediction: str, truths: list[str], score: float) -> None:
    results = scores(run("v2.0", *FILES, dataset=squad({"q": truths}), predictions={"q": prediction}))
    group = "HasAns" if truths else "NoAns"
    assert (results["exact"], results["f1"]) == (100 * score, 100 * score)
    assert (results[f"{group}_exact"], results[f"{group}_f1"], results[f"{group}_total"]) == (
        100 * score,
        100 * score,
        1,
    )


def test_v2_declines_only_above_the_threshold(run: Run) -> None:
    files = {
        "dataset": squad({"below": ["cat"], "at": ["cat"], "above": ["cat"], "none at": [], "none above": []}),
        "predictions": {"below": "cat", "at": "cat", "above": "cat", "none at": "cat", "none above": "cat"},
        "probs": {"below": 0.25, "at": 0.5, "above": 0.75, "none at": 0.5, "none above": 0.75},
    }
    results = scores(run("v2.0", *FILES, "--na-prob-file", "probs.json", "--na-prob-thresh", "0.5", **files))
    assert (results["HasAns_exact"], results["NoAns_exact"]) == pytest.approx((200 / 3, 50.0))
    assert (results["HasAns_f1"], results["NoAns_f1"]) == pytest.approx((200 / 3, 50.0))
    # By default nothing is above the threshold, and without a file every probability is 0.
    results = scores(run("v2.0", *FILES, "-n", "probs.json", **files))
    assert (results["HasAns_exact"], results["NoAns_exact"]) == (100.0, 0.0)
    results = scores(run("v2.0", *FILES, "-t", "-1", **files))
    assert (results["HasAns_exact"], results["NoAns_exact"]) == (0.0, 100.0)
    results = scores(run("v2.0", *FILES, "-t", "0", **files))
    assert (results["HasAns_exact"], results["NoAns_exact"]) == (100.0, 0.0)


# Annotated answers, a prediction, and what it scores where it is trusted. The F1 are exact in binary: ties stay ties
# however the sums are ordered.
KINDS: list[tuple[list[str], str, dict[str, float]]] = [
    (["x y"], "x y", {"exact": 1, "f1": 1}),
    (["x y"], "x z", {"exact": 0, "f1": 0.5}),
    (["x y"], "z", {"exact": 0, "f1": 0}),
    (["x y"], "", {"exact": 0, "f1": 0}),
    ([], "", {"exact": 1, "f1": 1}),
    ([], "z", {"exact": 0, "f1": 0}),
]


@pytest.mark.parametrize("seed", range(12))
def test_v2_thresholds_agree_with_brute_force(run: Run, seed: int) -> None:
    source = random.Random(seed)
    count = source.randint(6, 25)
    kinds = dict(zip(map(str, range(count)), KINDS + source.choices(KINDS, k=count)))
    # Distinct and above 0; every other time beyond 1, for models that give unbounded scores and not probabilities.
    scale = 100 if seed % 2 else 1
    probs = {question: number / scale for question, number in zip(kinds, source.sample(range(1, 99), count))}
    threshold = source.choice(list(probs.values()))
    groups = {
        "": list(kinds),
        "HasAns_": [question for question, (truths, _, _) in kinds.items() if truths],
        "NoAns_": [question for question, (truths, _, _) in kinds.items() if not truths],
    }

    def average(metric: str, threshold: float, group: str = "") -> float:
        total = 0.0
        for question in groups[group]:
            truths, _, trusted = kinds[question]
            total += trusted[metric] if probs[question] <= threshold else not truths
        return 100 * total / len(groups[group])

    files = {
        "dataset": squad({question: truths for question, (truths, _, _) in kinds.items()}),
        "predictions": {question: prediction for question, (_, prediction, _) in kinds.items()},
        "probs": {"of another set": 0.001, **dict(source.sample(list(probs.items()), count))},
    }
    results = scores(run("v2.0", *FILES, "-n", "probs.json", "-t", str(threshold), **files))
    for metric in ("exact", "f1"):
        for group in groups:
            assert results[group + metric] == pytest.approx(average(metric, threshold, group))
        # The lowest of the best thresholds; 0 trusts no prediction.
        candidates = [0.0, *sorted(probs.values())]
        best = max(candidates, key=lambda candidate: average(metric, candidate))
        assert results[f"best_{metric}_thresh"] == best
        assert results[f"best_{metric}"] == pytest.approx(average(metric, best))


def test_v2_sweeps_equal_probabilities_one_by_one(run: Run) -> None:
    # No threshold separates the two, but the published figures come from a sweep that does, in the order of the file.
    files: dict[str, Any] = {
        "dataset": squad({"good": ["cat"], "bad": []}),
        "predictions": {"good": "cat", "bad": "cat"},
    }
    results = scores(run("v2.0", *FILES, "-n", "probs.json", **files, probs={"good": 0.5, "bad": 0.5}))
    assert (results["best_exact"], results["best_exact_thresh"]) == (100.0, 0.5)
    assert (results["best_f1"], results["best_f1_thresh"]) == (100.0, 0.5)
    results = scores(run("v2.0", *FILES, "-n", "probs.json", **files, probs={"bad": 0.5, "good": 0.5}))
    assert (results["best_exact"], results["best_exact_thresh"]) == (50.0, 0.0)
    assert (results["best_f1"], results["best_f1_thresh"]) == (50.0, 0.0)


def test_v2_sweep_takes_an_article_for_an_answer(run: Run) -> None:
    files = {
        "dataset": squad({"article": [], "good": ["cat"]}),
        "predictions": {"article": "the", "good": "cat"},
        "probs": {"article": 0.25, "good": 0.5},
    }
    results = scores(run("v2.0", *FILES, "-n", "probs.json", **files))
    assert (results["exact"], results["best_exact"], results["best_exact_thresh"]) == (100.0, 50.0, 0.0)


def test_v2_counts_the_unanswered_as_0(run: Run) -> None:
    files = {
        "dataset": squad({"right": ["cat"], "unanswered": ["dog"], "none": [], "none unanswered": []}),
        "predictions": {"right": "cat", "none": ""},
        "probs": {"right": 0.5, "none": 0.5, "none unanswered": 0.75},
    }
    warning = "warning: 2 of 4 questions unanswered, scored as 0\n"
    results = scores(run("v2.0", *FILES, "-n", "probs.json", "-t", "0.6", **files), warning)
    assert (results["exact"], results["f1"], results["total"]) == (50.0, 50.0, 4)
    assert (results["HasAns_exact"], results["HasAns_total"]) == (50.0, 2)
    assert (results["NoAns_exact"], results["NoAns_total"]) == (50.0, 2)
    assert (results["best_exact"], results["best_exact_thresh"]) == (50.0, 0.5)
    assert (results["best_f1"], results["best_f1_thresh"]) == (50.0, 0.5)


@pytest.mark.parametrize("option", ["-o", "--out-file"])
def test_v2_writes_its_results_to_a_file_instead(run: Run, tmp_path: Path, option: str) -> None:
    files = {"dataset": squad({"q": ["cat"]}), "predictions": {"q": "cat"}}
    printed = run("v2.0", *FILES, **files)
    written = run("v2.0", *FILES, option, "results.json")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == printed.stdout
    assert scores(printed)["exact"] == 100.0


# Bad input

BOTH = pytest.mark.parametrize("script", ["v1.1", "v2.0"])


def assert_error(process: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that a run ended in status 2 with one line, which holds the parts in their order."""
    assert_refusal(process)
    position = len("error: ")
    for part in parts:
        assert part in process.stderr[position:]
        position = process.stderr.index(part, position) + len(part)


def broken(path: list[Any], value: Any) -> dict[str, Any]:
    """Build a data set with `value` at the path, or without what is there if the value is Ellipsis."""
    dataset = squad({"a": ["x"], "b": ["x"], "c": ["x"], "d": ["x"], "e": ["x"], "f": ["x"]})
    holder: Any = dataset
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return dataset


# The last question of the set: second article, second paragraph of it, first question.
LAST = ["data", 1, "paragraphs", 1, "qas", 0]


@BOTH
@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("x" * 1000, ": the file must have 'data', a list"),
        (squad({}), " has no questions"),
        (broken(LAST[:5], 7), ": article 2, paragraph 2 must have 'qas', a list"),
        (broken([*LAST, "id"], ...), ": article 2, paragraph 2, question 1 must have 'id', text"),
        (
            broken([*LAST, "id"], "a"),
            ": article 2, paragraph 2, question 1 repeats the id 'a' of article 1, paragraph 1, question 1",
        ),
        (
            broken([*LAST, "id"], "\ud83d"),
            ": article 2, paragraph 2, question 1: 'id' is not valid Unicode, it has half a surrogate pair: '\\ud83d'",
        ),
    ],
)
def test_a_dataset_is_refused_in_the_words_of_inference(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, dataset: Any, says: str
) -> None:
    process = run(script, *FILES, dataset=dataset, predictions={})
    assert_refusal(process)
    assert process.stderr == f"error: SQuAD file dataset.json{says}\n"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        read(Path("dataset.json"))
    assert process.stderr == f"error: {error.value}\n"


@BOTH
@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["answers"], ..., "must have 'answers', a list"),
        (["answers"], "x", "must have 'answers', a list"),
        (["answers", 0], "x", ", answer 1 must have 'text', text"),
        (["answers", 0, "text"], ..., ", answer 1 must have 'text', text"),
        (["answers", 0, "text"], True, ", answer 1 must have 'text', text"),
    ],
)
def test_answers_of_wrong_structure(run: Run, script: str, path: list[Any], value: Any, says: str) -> None:
    process = run(script, *FILES, dataset=broken([*LAST, *path], value), predictions={})
    assert_error(process, "SQuAD file dataset.json: article 2, paragraph 2, question 1", says)


@BOTH
@pytest.mark.parametrize(
    ("predictions", "says"),
    [
        ([], "prediction file predictions.json must hold one JSON object, but holds a list"),
        ({"q": "x", "r\ns": None}, "prediction file predictions.json: the answer to 'r\\ns' must be text, found null"),
        ({"q": ["x"]}, "prediction file predictions.json: the answer to 'q' must be text, found a list"),
        ({"q": 10**4000}, "prediction file predictions.json: the answer to 'q' must be text, found 1" + "0" * 39),
        (
            b'{"q": "x", "q": "y"}',
            "prediction file predictions.json is not JSON that can be read: it has 'q' twice in one object",
        ),
    ],
)
def test_predictions_of_wrong_structure(run: Run, script: str, predictions: Any, says: str) -> None:
    process = run(script, *FILES, dataset=squad({"q": ["x"]}), predictions=predictions)
    assert_refusal(process, f"error: {says}")


@BOTH
@pytest.mark.parametrize("bad", ["dataset", "predictions"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{\n  "a": 1,\n  "b" 2\n}', "is not JSON: line 3, column 7: "),
        (b"", "is not JSON: line 1, column 1: "),
        (b"{} {}", "is not JSON: line 1, column 4: "),
        (b'"\xff"', "is not UTF-8 text (byte 1)"),
        (b"[" * 200_000, "is not JSON that can be read: it is nested too deeply"),
        (b"\0", "is not text: it has a NUL byte"),
    ],
    ids=["no colon", "empty", "two values", "not UTF-8", "too deep", "zeros"],
)
def test_malformed_json(run: Run, script: str, bad: str, content: bytes, says: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}, bad: content}
    named = "SQuAD" if bad == "dataset" else "prediction"
    assert_error(run(script, *FILES, **files), f"{named} file {bad}.json {says}")


@BOTH
def test_a_byte_order_mark_is_no_error(run: Run, script: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": b'\xef\xbb\xbf{"q": "x"}'}
    assert scores(run(script, *FILES, **files))["f1"] == 100.0


@BOTH
def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path, script: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    absent = "cannot be read: No such file or directory"
    assert_error(run(script, "absent.json", "predictions.json", **files), f"SQuAD file absent.json {absent}")
    assert_error(run(script, "dataset.json", "two\nlines.json", **files), f"prediction file two lines.json {absent}")
    assert_error(run(script, "dataset.json", ".", **files), "prediction file . cannot be read: Is a directory")
    assert_error(run(script, "/dev/zero", "predictions.json", **files), "SQuAD file /dev/zero is not text")


@BOTH
def test_bad_usage(run: Run, script: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    assert_error(run(script), "DATASET")
    assert_error(run(script, "dataset.json", **files), "PREDICTIONS")
    assert_error(run(script, *FILES, "--unknown", **files), "--unknown")
    assert_error(run(script, *FILES, "50", "more\nyet", **files), "more yet")


@pytest.mark.parametrize("threshold", ["high", "", "nan", "inf", "90%"])
def test_a_threshold_that_is_no_number(run: Run, threshold: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    assert_error(run("v1.1", *FILES, threshold, **files), "F1_THRESHOLD", "number", repr(threshold))
    assert_error(run("v2.0", *FILES, "--na-prob-thresh", threshold, **files), "thresh", "number", repr(threshold))


def test_v1_refuses_questions_without_answers(run: Run) -> None:
    files = {"dataset": squad({"a": ["x"], "b": []}), "predictions": {"a": "x"}}
    assert_error(run("v1.1", *FILES, **files), "SQuAD file dataset.json: question 'b' has no answers", "evaluate-v2.0.py")


@pytest.mark.parametrize(
    ("probs", "parts"),
    [
        (b"{", ["line 1, column 2"]),
        ([0.5], ["must hold one JSON object, but holds a list"]),
        ({"a": 0.5, "b": "0.5"}, ["'b' must be a finite number", '"0.5"']),
        ({"a": 0.5, "b": None}, ["'b' must be a finite number", "null"]),
        ({"a": 0.5, "b": True}, ["'b' must be a finite number", "true"]),
        (b'{"a": 0.5, "b": NaN}', ["'b' must be a finite number", "NaN"]),
        (b'{"a": 0.5, "b": -Infinity}', ["'b' must be a finite number", "-Infinity"]),
        (b'{"a": 0.5, "b": 1' + b"0" * 400 + b"}", ["'b' must be a finite number", "1000"]),
        ({"a": 0.5}, ["has no number for question 'b'"]),
    ],
)
def test_v2_probabilities_of_wrong_structure(run: Run, probs: Any, parts: list[str]) -> None:
    files = {"dataset": squad({"a": ["x"], "b": ["x"]}), "predictions": {"a": "x", "b": "x"}, "probs": probs}
    assert_error(run("v2.0", *FILES, "-n", "probs.json", **files), "probs.json", *parts)


def test_v2_files_that_cannot_be_opened(run: Run) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    absent = "probability file absent.json cannot be read: No such file"
    assert_error(run("v2.0", *FILES, "-n", "absent.json", **files), absent)
    # What cannot be written is refused before anything is read.
    assert_error(run("v2.0", "absent.json", "absent.json", "-o", "absent/results.json"), "output folder absent does not exist")


@pytest.mark.parametrize("name", ["dataset", "predictions", "probs"])
@pytest.mark.parametrize("link", [None, os.link, os.symlink], ids=["itself", "hard link", "symbolic link"])
def test_v2_overwrites_nothing_that_it_reads(
    run: Run, tmp_path: Path, name: str, link: Callable[[Path, Path], None] | None
) -> None:
    out = tmp_path / "out.json"
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}, "probs": {"q": 0.5}}
    scores(run("v2.0", *FILES, "-n", "probs.json", **files))
    if link:
        link(tmp_path / f"{name}.json", out)
    else:
        out = tmp_path / f"{name}.json"
    before = listing(tmp_path)
    assert_error(run("v2.0", *FILES, "-n", "probs.json", "-o", str(out)), f"output {out} is read as well")
    assert listing(tmp_path) == before


def test_v2_writes_to_devices(run: Run, tmp_path: Path) -> None:
    files = {"dataset": squad({"q": ["cat"]}), "predictions": {"q": "cat"}}
    printed = run("v2.0", *FILES, **files)
    assert run("v2.0", *FILES, "-o", "/dev/stdout").stdout == printed.stdout
    assert run("v2.0", *FILES, "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()


# Processes


def start_in(folder: Path, script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Starts an evaluation under Python alone, without any package."""
    command = [sys.executable, "-S", str(running.ROOT / f"squad/evaluate-{script}.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, encoding="utf-8", **{"stderr": subprocess.PIPE, **options})


@BOTH
def test_full_and_closed_streams(run: Run, tmp_path: Path, script: str) -> None:
    run(script, *FILES, dataset=squad({"q": ["x"]}), predictions={"q": "x"})
    with open("/dev/full", "w") as full:
        process = start_in(tmp_path, script, *FILES, stdout=full)
    says = "error: standard output cannot be written: No space left on device\n"
    assert (process.communicate()[1], process.returncode) == (says, 1)
    for descriptor in (1, 2):
        close = functools.partial(os.close, descriptor)
        process = start_in(tmp_path, script, *FILES, stdout=subprocess.DEVNULL, preexec_fn=close)
        assert (process.communicate()[1], process.returncode) == ("", 0)


@BOTH
def test_streams_that_have_no_letters_but_ascii(tmp_path: Path, script: str) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = start_in(tmp_path, script, "é\udcff.json", "x", env=ascii_only)
    says = "error: SQuAD file \\xe9\\udcff.json cannot be read: No such file or directory\n"
    assert (process.communicate()[1], process.returncode) == (says, 2)


@BOTH
@pytest.mark.parametrize(
    ("number", "by"), [(signal.SIGINT, ""), (signal.SIGTERM, " by SIGTERM"), (signal.SIGHUP, " by SIGHUP")], ids=str
)
def test_signals(run: Run, tmp_path: Path, script: str, number: signal.Signals, by: str) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    process = start_in(tmp_path, script, *FILES)
    with when_read(tmp_path / "dataset.json", process):
        process.send_signal(number)
        assert (process.communicate(timeout=running.PATIENCE)[1], process.returncode) == (f"\ninterrupted{by}\n", 128 + number)


@BOTH
@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_adds_the_traceback(run: Run, script: str, flag: str) -> None:
    process = run(script, "absent.json", "absent.json", flag)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("Traceback")
    assert process.stderr.splitlines()[-1].startswith("error: SQuAD file absent.json cannot be read")


@BOTH
def test_version(run: Run, script: str) -> None:
    process = run(script, "--version")
    assert (process.returncode, process.stdout, process.stderr) == (0, f"{__version__}\n", "")


@BOTH
def test_help(run: Run, script: str) -> None:
    process = run(script, "-h")
    assert (process.returncode, process.stderr) == (0, "")
    wanted = {"v1.1": ["F1_THRESHOLD"], "v2.0": ["-n", "--na-prob-file", "-t", "--na-prob-thresh", "-o", "--out-file"]}
    for word in ["DATASET", "PREDICTIONS", *wanted[script]]:
        assert word in process.stdout
