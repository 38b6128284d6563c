"""The SQuAD evaluations, run as their users run them, against numbers worked out by hand or by brute force."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import running
from tests.running import assert_refusal, shell

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
    ("dataset", "parts"),
    [
        ([], ["dataset.json: must be an object, found a list"]),
        ({}, ["dataset.json: has no 'data'"]),
        ({"data": {}}, ["dataset.json: 'data' must be a list, found an object"]),
        ({"data": []}, ["dataset.json: has no questions"]),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, ["dataset.json: has no questions"]),
        (broken(LAST[:2], "x"), ["dataset.json, data[1]: must be an object", 'found "x"']),
        (broken(LAST[:3], ...), ["dataset.json, data[1]: has no 'paragraphs'"]),
        (broken(LAST[:4], 7), ["dataset.json, data[1], paragraphs[1]: must be an object", "found 7"]),
        (broken(LAST[:5], None), ["dataset.json, data[1], paragraphs[1]: 'qas' must be a list", "found null"]),
        (broken(LAST[:6], []), ["data[1], paragraphs[1], qas[0]: must be an object", "found a list"]),
        (broken([*LAST, "id"], ...), ["data[1], paragraphs[1], qas[0]: has no 'id'"]),
        (broken([*LAST, "id"], 5), ["data[1], paragraphs[1], qas[0]: 'id' must be a string, found 5"]),
        (broken([*LAST, "answers"], ...), ["data[1], paragraphs[1], qas[0]: has no 'answers'"]),
        (broken([*LAST, "answers"], "x"), ["data[1], paragraphs[1], qas[0]: 'answers' must be a list"]),
        (broken([*LAST, "answers", 0], "x"), ["qas[0], answers[0]: must be an object"]),
        (broken([*LAST, "answers", 0, "text"], ...), ["qas[0], answers[0]: has no 'text'"]),
        (broken([*LAST, "answers", 0, "text"], True), ["qas[0], answers[0]: 'text' must be a string, found true"]),
    ],
)
def test_a_dataset_of_wrong_structure(run: Run, script: str, dataset: Any, parts: list[str]) -> None:
    assert_error(run(script, *FILES, dataset=dataset, predictions={}), *parts)


@BOTH
@pytest.mark.parametrize(
    ("predictions", "parts"),
    [
        ([], ["predictions.json: must be an object, found a list"]),
        ("x", ["predictions.json: must be an object, found"]),
        ({"q": "x", "r\ns": None}, ["predictions.json: 'r\\ns' must be a string, found null"]),
        ({"q": ["x"]}, ["predictions.json: 'q' must be a string, found a list"]),
    ],
)
def test_predictions_of_wrong_structure(run: Run, script: str, predictions: Any, parts: list[str]) -> None:
    assert_error(run(script, *FILES, dataset=squad({"q": ["x"]}), predictions=predictions), *parts)


def test_a_long_value_is_cut_in_the_message(run: Run) -> None:
    process = run("v1.1", *FILES, dataset="x" * 1000, predictions={})
    assert_error(process, "must be an object", "xxx")
    assert len(process.stderr) < 120


@BOTH
@pytest.mark.parametrize("bad", ["dataset", "predictions"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{\n  "a": 1,\n  "b" 2\n}', ["line 3, column 7"]),
        (b"", ["line 1, column 1"]),
        (b"{} {}", ["line 1, column 4"]),
        (b'"\xff"', ["malformed"]),
        (b"[" * 200_000, ["malformed"]),
    ],
    ids=["no colon", "empty", "two values", "not UTF-8", "too deep"],
)
def test_malformed_json(run: Run, script: str, bad: str, content: bytes, parts: list[str]) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}, bad: content}
    assert_error(run(script, *FILES, **files), f"{bad}.json", *parts)


@BOTH
def test_a_byte_order_mark_is_no_error(run: Run, script: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": b'\xef\xbb\xbf{"q": "x"}'}
    assert scores(run(script, *FILES, **files))["f1"] == 100.0


@BOTH
def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path, script: str) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    assert_error(run(script, "absent.json", "predictions.json", **files), "cannot read absent.json: No such file")
    assert_error(run(script, "dataset.json", "two\nlines.json", **files), "cannot read two lines.json: No such file")
    assert_error(run(script, "dataset.json", ".", **files), "cannot read .:")


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
    assert_error(run("v1.1", *FILES, **files), "dataset.json", "'b'", "no answers", "evaluate-v2.0.py")


@pytest.mark.parametrize(
    ("probs", "parts"),
    [
        (b"{", ["line 1, column 2"]),
        ([0.5], ["must be an object, found a list"]),
        ({"a": 0.5, "b": "0.5"}, ["'b' must be a finite number", '"0.5"']),
        ({"a": 0.5, "b": None}, ["'b' must be a finite number", "null"]),
        ({"a": 0.5, "b": True}, ["'b' must be a finite number", "true"]),
        (b'{"a": 0.5, "b": NaN}', ["'b' must be a finite number", "NaN"]),
        (b'{"a": 0.5, "b": -Infinity}', ["'b' must be a finite number", "-Infinity"]),
        (b'{"a": 0.5, "b": 1' + b"0" * 400 + b"}", ["'b' must be a finite number", "1000"]),
        ({"a": 0.5}, ["'b'"]),
    ],
)
def test_v2_probabilities_of_wrong_structure(run: Run, probs: Any, parts: list[str]) -> None:
    files = {"dataset": squad({"a": ["x"], "b": ["x"]}), "predictions": {"a": "x", "b": "x"}, "probs": probs}
    assert_error(run("v2.0", *FILES, "-n", "probs.json", **files), "probs.json", *parts)


def test_v2_files_that_cannot_be_opened(run: Run) -> None:
    files = {"dataset": squad({"q": ["x"]}), "predictions": {"q": "x"}}
    assert_error(run("v2.0", *FILES, "-n", "absent.json", **files), "cannot read absent.json")
    assert_error(run("v2.0", *FILES, "-o", "absent/results.json", **files), "cannot write absent/results.json")


@BOTH
def test_verbose_adds_the_traceback(run: Run, script: str) -> None:
    process = run(script, "absent.json", "absent.json", "--verbose")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("Traceback")
    assert process.stderr.splitlines()[-1].startswith("error: cannot read absent.json")


@BOTH
def test_help(run: Run, script: str) -> None:
    process = run(script, "-h")
    assert (process.returncode, process.stderr) == (0, "")
    wanted = {"v1.1": ["F1_THRESHOLD"], "v2.0": ["-n", "--na-prob-file", "-t", "--na-prob-thresh", "-o", "--out-file"]}
    for word in ["DATASET", "PREDICTIONS", *wanted[script]]:
        assert word in process.stdout
