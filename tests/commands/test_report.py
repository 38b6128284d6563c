"""Benchmark reports: the table and the plot as they are read, and scripts/compare_benchmarks.py as it is run."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any, Callable

import matplotlib.image
import numpy as np
import pytest

from helpers.commands import report
from helpers.commands.report import Cell
from helpers.errors import InputError
from tests import running
from tests.running import ROOT, assert_refusal


def row(precision: str, length: int, size: int, median: float, model: str = "base", packed: bool = False) -> report.Row:
    times = {"average_ms": median + 0.1, "median_ms": median, "p95_ms": median + 0.2, "p99_ms": median + 0.3}
    sizes = {"sequence_length": length, "batch_size": size, "iterations": 100}
    return {"model": model, "precision": precision, "packed": packed, **sizes, **times}


def perf(precision: str | None, medians: dict[tuple[int, int], float], **more: Any) -> dict[str, Any]:
    """What perf.py writes, of medians by sequence length and batch size."""
    rows = [{"sequence_length": length, "batch_size": size, "median_ms": ms} for (length, size), ms in medians.items()]
    return {"backend": "tensorrt", "device": "NVIDIA H200", "precision": precision, "results": rows, **more}


ROWS = [row("float16", 128, 8, 2), row("float16", 128, 1, 1), row("float16", 384, 1, 3), row("int8", 128, 1, 0.5)]


# The table


def test_markdown() -> None:
    assert report.markdown(ROWS) == (
        "| sequence length | batch size | float16 95 % (ms) | float16 99 % (ms) | float16 average (ms) "
        "| int8 95 % (ms) | int8 99 % (ms) | int8 average (ms) |\n"
        "|-----------------|------------|-------------------|-------------------|----------------------"
        "|----------------|----------------|-------------------|\n"
        "|             128 |          1 |             1.200 |             1.300 |                1.100 "
        "|          0.700 |          0.800 |             0.600 |\n"
        "|             128 |          8 |             2.200 |             2.300 |                2.100 "
        "|              – |              – |                 – |\n"
        "|             384 |          1 |             3.200 |             3.300 |                3.100 "
        "|              – |              – |                 – |\n"
    )


def test_markdown_of_several_models_names_them_in_their_order() -> None:
    lines = report.markdown([row("int8", 128, 1, 1, "large"), row("int8", 128, 1, 0.5, "base")]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:3] == ["model", "sequence length", "batch size"]
    assert cells[2:] == [["large", "128", "1", "1.200", "1.300", "1.100"], ["base", "128", "1", "0.700", "0.800", "0.600"]]


def test_a_wide_table_does_not_wrap_and_takes_words_as_they_are() -> None:
    name = "[red]" + "x" * 300
    assert report.table([name], [[name]]) == f"| {name} |\n|-{'-' * len(name)}-|\n| {name} |\n"


# The plot


def test_plot() -> None:
    figure = report.plot(ROWS, "NVIDIA H200, 8.6.0")
    assert [{line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines} for axes in figure.axes] == [
        {"float16": [[1, 1], [8, 2]], "int8": [[1, 0.5]]},
        {"float16": [[1, 1000], [8, 4000]], "int8": [[1, 2000]]},
        {"float16": [[1, 3]]},
        {"float16": [[1, 1000 / 3]]},
    ]
    assert {(line.get_label(), line.get_color()) for axes in figure.axes for line in axes.lines} == {
        ("float16", "C0"),
        ("int8", "C1"),
    }
    files = report.images(figure)
    assert sorted(files) == ["png", "svg"]
    assert matplotlib.image.imread(io.BytesIO(files["png"])).shape[:2] == (1032, 1320)
    words = re.findall("<text[^>]*>([^<]*)</text>", files["svg"].decode())
    assert {"NVIDIA H200, 8.6.0", "base, sequence length 128", "base, sequence length 384", "median latency, ms", "float16"} <= {
        *words
    }
    assert {"0.5", "1", "2", "8", "500", "1,000", "2,000"} <= {*words}  # on the axes


# Files of figures


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_read_takes_both_forms(tmp_path: Path) -> None:
    alone = write(tmp_path / "perf.json", perf("int8", {(128, 1): 0.5, (384, 8): 2}, packed=True))
    assert report.read(alone) == {
        Cell(None, "int8", True, None, False, 128, 1): 0.5,
        Cell(None, "int8", True, None, False, 384, 8): 2.0,
    }
    whole = write(tmp_path / "figures.json", {"device": "NVIDIA H200", "results": ROWS[2:]})
    assert report.read(whole) == {
        Cell("base", "float16", False, None, False, 384, 1): 3.0,
        Cell("base", "int8", False, None, False, 128, 1): 0.5,
    }
    lengths = write(tmp_path / "lengths.json", perf("int8", {(384, 8): 2}, lengths="squad"))
    assert list(report.read(lengths)) == [Cell(None, "int8", False, "squad", False, 384, 8)]


def test_read_takes_the_measured_files_of_the_project() -> None:
    found = report.read(ROOT / "docs/benchmarks/base128.json")
    assert found[Cell(None, "float16", False, None, False, 128, 32)] == 1.8194


GOOD = perf("float16", {(128, 1): 1})
BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "is not JSON: line 1, column 2"),
    "nested": ("[" * 100_000, "is not JSON that can be read: it is nested too deeply"),
    "digits": ('{"results": ' + "9" * 5000 + "}", "is not JSON that can be read: Exceeds the limit"),
    "a list": ([], "is not a file that perf.py"),
    "no results": ({"precision": "int8"}, "lacks 'results'"),
    "empty": ({**GOOD, "results": []}, "has no results"),
    "no median": ({**GOOD, "results": [{"sequence_length": 1, "batch_size": 1}]}, "lacks 'median_ms'"),
    "no size": ({**GOOD, "results": [{"sequence_length": 1, "median_ms": 1}]}, "lacks 'batch_size'"),
    "a size in words": (perf("int8", {("128", 1): 1}), "must be whole numbers, not '128' and 1"),  # type: ignore[dict-item]
    "a strange model": (perf("int8", {(128, 1): 1}, model=["base"]), "must be words"),
    "no time": (perf("int8", {(128, 1): 0}), "int8 S 128 B 1: a time must be above 0 ms, not 0.0"),
    "not a number": (perf("int8", {(128, 1): float("nan")}), "a time must be above 0 ms, not nan"),
    "more than a float": (perf("int8", {(128, 1): 10**400}), "is not a file that perf.py"),
    "twice": ({**GOOD, "results": GOOD["results"] * 2}, "has 2 times of one cell: float16 S 128 B 1"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_read_refuses(tmp_path: Path, content: Any, says: str) -> None:
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(InputError) as caught:
        report.read(path)
    assert says in str(caught.value) and str(path) in str(caught.value)


# scripts/compare_benchmarks.py


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **files: Any) -> subprocess.CompletedProcess[str]:
        """Compares what is given as JSON, under its name, after further arguments."""
        paths = [str(write(tmp_path / name, content).relative_to(tmp_path)) for name, content in files.items()]
        return running.run("scripts/compare_benchmarks.py", [*arguments, *paths], tmp_path)

    return run


def lines_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


def test_compare(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    before = perf("float16", {(128, 1): 1.0, (128, 8): 2.0, (128, 32): 4.0})
    after = perf("float16", {(128, 1): 1.1, (128, 8): 1.0, (384, 8): 7.0})
    files = {"A": before, "B": after}
    done = compare(**files)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(done.stdout) == [
        ["median (ms)", "A", "B", "ratio"],
        ["float16 S 128 B 1", "1.000", "1.100", "1.100"],
        ["float16 S 128 B 8", "2.000", "1.000", "0.500"],
    ]
    assert done.stdout.splitlines()[-2:] == ["Only in A: float16 S 128 B 32", "Only in B: float16 S 384 B 8"]
    assert compare("--max-slowdown", "1.11", **files).returncode == 0
    slow = compare("--max-slowdown", "1.09", **files)
    assert slow.returncode == 1
    assert slow.stderr == "error: slower than --max-slowdown 1.09: float16 S 128 B 1 in B takes 1.100 times as long\n"
    assert lines_of(slow.stdout)[1] == ["float16 S 128 B 1", "1.000", "1.100", "1.100 !"]


def test_compare_several_files_to_the_first(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    files = {"A": perf("int8", {(128, 1): 2, (128, 2): 4}), "B": perf("int8", {(128, 1): 1}), "C": perf("int8", {(128, 2): 8})}
    done = compare("--max-slowdown", "2", **files)
    assert lines_of(done.stdout)[1:] == [
        ["int8 S 128 B 1", "2.000", "1.000", "0.500", "–", "–"],
        ["int8 S 128 B 2", "4.000", "–", "–", "8.000", "2.000"],
    ]
    assert "Only in" not in done.stdout and done.returncode == 0


def test_compare_matches_by_model_where_all_files_name_one(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    base, large = {"results": [row("int8", 128, 1, 1)]}, {"results": [row("int8", 128, 1, 3, "large")]}
    both = {"results": [*base["results"], *large["results"]]}
    done = compare(A=both, B=large)
    assert lines_of(done.stdout)[1:] == [["large int8 S 128 B 1", "3.000", "3.000", "1.000"]]
    assert done.stdout.endswith("Only in A: base int8 S 128 B 1\n")
    # perf.py does not name a model.
    unnamed = perf("int8", {(128, 1): 2}, packed=False)
    assert lines_of(compare(A=base, B=unnamed).stdout)[1:] == [["int8 S 128 B 1", "1.000", "2.000", "2.000"]]
    unclear = compare(A=both, B=unnamed)
    assert (unclear.returncode, unclear.stdout) == (2, "")
    assert unclear.stderr == "error: A has several models, and another file does not say which one is its own\n"


def test_compare_prints_no_escapes(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Of a file from elsewhere, which a terminal would obey."""
    rows = [row("int8", 128, size, 1, "\x1b[2Jbase") for size in (1, 2)]
    done = compare("--max-slowdown", "1", A={"results": rows}, B={"results": [{**rows[0], "median_ms": 2}]})
    assert done.returncode == 1
    for text in (done.stdout, done.stderr):
        assert "\\x1b[2Jbase int8 S 128 B 1" in text and "\x1b" not in text


def test_compare_refuses(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for files, arguments, says in (
        ({"A": GOOD}, [], "give two or more different files"),
        ({"A": GOOD, "B": perf("int8", {(128, 1): 1})}, [], "no cell of A is in another file"),
        ({"A": GOOD, "B": {**GOOD, "packed": True}}, [], "no cell of A is in another file"),
        ({"A": GOOD, "B": {**GOOD, "end_to_end": True}}, [], "no cell of A is in another file"),
        ({"A": GOOD, "B": "{"}, [], "B is not JSON: line 1, column 2"),
        ({"A": GOOD}, ["absent.json"], "absent.json cannot be read: No such file or directory"),
        ({"A": GOOD, "B": GOOD}, ["--max-slowdown", "0.9"], "argument --max-slowdown: must be a number from 1, not '0.9'"),
        ({"A": GOOD, "B": GOOD}, ["--max-slowdown", "fast"], "argument --max-slowdown: must be a finite number, not 'fast'"),
    ):
        done = compare(*arguments, **files)
        assert_refusal(done, says)
