"""perf.py and perf_varseqlen.py: what they print and write, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests import running
from tests.inputs import PARAGRAPH, SQUAD, lacking, read
from tests.running import PATIENCE, listing, refused, shell, start, succeeds, wait_for
from tests.variants import PLAIN, save
from tests.wordpieces import write_tokenizer

pytestmark = pytest.mark.usefixtures("no_tensorrt")

SCRIPTS = ("perf.py", "perf_varseqlen.py")
ENGINES = {"perf.py": "padded.engine", "perf_varseqlen.py": "packed.engine"}
TIMES = "".join(
    rf"\t{name}: (\d+\.\d{{3}}) ms\n" for name in ("Total time", "Average", "Median", "95th percentile", "99th percentile")
)
ROW = r"Running (\d+) iterations with Batch Size: (\d+), Sequence Length: (\d+)\n" + TIMES
THROUGHPUT = r"\t(\d+) sequences, (\d+) tokens in (\d+) batches: (\d+\.\d{3}) s\n\t(\d+) tokens/s, (\d+\.\d) sequences/s\n"


# Bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("", "sequence length 128 is above the engine's, 64"),
        ("-s 65", "sequence length 65 is above the engine's, 64"),
        ("-s 64 -b 5", "batch size 5 is above the engine's largest, 4"),
        ("-s 64 -b 2 -b 5", "batch size 5 is above the engine's largest, 4"),  # before anything is timed
        ("-s 0", "argument -s/--sequence-length"),
        ("-s 64 -b 0", "argument -b/--batch-size"),
        ("-s 64 -i 0", "argument -i/--iterations"),
        ("-s 64 -d=-1", "argument -d/--duration: must be a number from 0, not '-1'"),
        ("-s 64 -d nan", "argument -d/--duration: must be a finite number, not 'nan'"),
        ("-s 64 -r=-1", "argument -r/--random-seed: must be a whole number from 0, not '-1'"),
        ("-s 64 --json absent/out.json", "output folder absent does not exist"),
        ("-s 64 --json padded.engine", "output padded.engine is read as well, and would be overwritten"),
        ("-s 64 --lengths long.txt --json long.txt", "output long.txt is read as well, and would be overwritten"),
        ("-s 64 --json padded.engine.json", "output padded.engine.json is read as well, and would be overwritten"),
        ("-s 64 --lengths squad --json squad/dev-v1.1.json", "output squad/dev-v1.1.json is read as well"),
        ("-s 64 --json passage.txt/out.json", "output folder passage.txt "),
        ("-s 64 --lengths absent.txt", "lengths file absent.txt cannot be read: No such file or directory"),
        ("-s 64 --lengths empty.txt", "lengths file empty.txt must hold numbers from 1 to 64, the sequence length, at least one"),
        ("-s 64 --lengths passage.txt", "lengths file passage.txt must hold whole numbers only, not 'the'"),
        ("-s 64 --lengths digits.txt", f"lengths file digits.txt must hold whole numbers only, not '{'9' * 20}'"),
        ("-s 64 --lengths bytes.txt", "lengths file bytes.txt is not UTF-8 text (byte 2)"),
        ("-s 64 --lengths /dev/zero", "lengths file /dev/zero is not text: it has a NUL byte"),
        ("-s 64 --lengths zero.txt", "lengths file zero.txt must hold numbers from 1 to 64, the sequence length, at least one"),
        ("-s 64 --lengths long.txt", "lengths file long.txt must hold numbers from 1 to 64, the sequence length, at least one"),
        ("-s 64 --lengths bad.json", "SQuAD file bad.json: article 2, paragraph 2 must have 'context'"),
        ("-s 64 --lengths other.json", "other.json does not exist: fetch it with scripts/download_squad.sh"),
        ("-s 64 --enable-graph", "onnxruntime, which the runtime extension does not run: use inference.py, or perf.py without"),
    ],
)
def test_bad_perf(work: Path, args: str, says: str) -> None:
    (work / "empty.txt").touch()
    (work / "bytes.txt").write_bytes(b"5 \xff")
    (work / "digits.txt").write_text("5 " + "9" * 5000)
    (work / "zero.txt").write_text("5 0 6")
    (work / "long.txt").write_text("5 65 6")
    (work / "bad.json").write_text(json.dumps(lacking(*PARAGRAPH, "context")))
    (work / "squad").mkdir()
    shutil.copy(SQUAD, work / "squad/dev-v1.1.json")
    refused("perf.py", f"-e padded.engine {args}", work, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-s 65", "sequence length 65 is above the engine's, 64"),
        ("-s 64 -b 5", "batch size 5 is above the engine's largest, 4"),
        ("-s 64 --lengths long.txt", "lengths file long.txt must hold numbers from 1 to 64, the sequence length, at least one"),
    ],
)
def test_bad_perf_of_a_packed_engine(work: Path, args: str, says: str) -> None:
    (work / "long.txt").write_text("5 65 6")
    refused("perf_varseqlen.py", f"-e packed.engine {args}", work, says)


def test_perf_looks_at_its_output_before_the_engine(work: Path) -> None:
    refused("perf.py", "-e absent.engine --json absent/out.json", work, "output folder absent does not exist")


def test_perf_does_not_write_over_what_the_engine_was_built_from(small: Path) -> None:
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        refused("perf.py", f"-e padded.engine -s 64 --json model/{name}", small, f"output model/{name} is read as well")


# Timing


def timed(printed: str, throughput: bool = False) -> list[list[float]]:
    """The numbers that a perf script prints, a list for each batch size."""
    row = ROW + (THROUGHPUT if throughput else "")
    assert re.fullmatch(rf"Timing \S+ with onnxruntime on [^\n]+\n({row})+", printed), printed
    return [[float(number) for number in match] for match in re.findall(row, printed)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_perf(work: Path, script: str) -> None:
    engine = ENGINES[script]
    before = set(listing(work))
    rows = timed(succeeds(script, f"-e {engine} -b 1 -b 4 -s 64 -i 8 -w 2 --json out.json", work))
    assert set(listing(work)) == before | {"out.json"}
    report = read(work / "out.json")
    assert (report["backend"], report["engine"], report["precision"]) == ("onnxruntime", engine, "float32")
    assert (report["packed"], report["lengths"], report["random_seed"]) == (engine.startswith("packed"), None, 12345)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", report["version"])
    assert report["device"]
    assert [(row["batch_size"], row["sequence_length"], row["iterations"]) for row in report["results"]] == [
        (1, 64, 8),
        (4, 64, 8),
    ]
    for shown, row in zip(rows, report["results"]):
        assert shown[:3] == [row["iterations"], row["batch_size"], row["sequence_length"]]
        names = ("total_ms", "average_ms", "median_ms", "p95_ms", "p99_ms")
        np.testing.assert_allclose(shown[3:], [row[name] for name in names], atol=6e-4)
        assert row["total_ms"] == pytest.approx(8 * row["average_ms"], abs=1e-3)
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"] < row["total_ms"]


def test_perf_by_default(minilm: Path) -> None:
    [row] = timed(succeeds("perf.py", "-e padded.engine -i 3", minilm))
    assert row[:3] == [3, 1, 128]


def test_perf_by_default_takes_as_many_runs_as_are_quick(work: Path) -> None:
    [row] = timed(succeeds("perf.py", "-e padded.engine -s 64", work))
    assert row[:3] == [200, 1, 64]


def test_a_bar_shows_what_takes_longer(work: Path) -> None:
    """Nothing before two seconds; on standard error, where it stays out of what is printed."""
    done = running.run("perf.py", "-e padded.engine -s 64 -i 1 -w 0 -d 1", work)
    assert (done.returncode, done.stderr) == (0, "")
    done = running.run("perf.py", "-e padded.engine -s 64 -b 2 -i 1 -w 0 -d 3", work)
    assert timed(done.stdout)
    assert re.search(r"Batch size 2:\s+\d+%\|.*run/s\]", done.stderr)


def test_figures_on_standard_output(work: Path) -> None:
    """As a pipe, to which nothing can be written twice, and after all that is printed."""
    done = shell("perf.py", "-e padded.engine -s 64 -b 1 -b 2 -i 2 -w 0 --json /dev/stdout", work)
    printed, brace, figures = done.stdout.partition("{")
    assert [row[1] for row in timed(printed)] == [1, 2] == [row["batch_size"] for row in json.loads(brace + figures)["results"]]


def test_a_row_that_is_timed_is_kept(work: Path) -> None:
    """Where a signal ends the next one, too."""
    before = set(listing(work))
    with start("perf.py", "-e padded.engine -s 64 -b 1 -b 4 -d 2 --json out.json", work) as process:
        wait_for(work / "out.json", process)
        process.terminate()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr.splitlines()[-1]) == (128 + signal.SIGTERM, b"interrupted by SIGTERM")
    assert set(listing(work)) == before | {"out.json"}
    assert [row["batch_size"] for row in read(work / "out.json")["results"]] == [1]
    assert stdout.count(b"Median") == 1


@pytest.mark.parametrize("flag", ["", "--end-to-end"])
def test_perf_for_some_time(work: Path, flag: str) -> None:
    """How many runs it takes is tests/commands/test_timing.py's; how long they take is the machine's."""
    start = time.monotonic()
    [row] = timed(succeeds("perf.py", f"-e padded.engine -s 64 -i 1 -w 0 -d 0.5 --json out.json {flag}", work))
    seconds = time.monotonic() - start
    assert row[0] > 1
    assert 0 < row[3] < 1e3 * seconds
    assert seconds > 0.5
    assert read(work / "out.json")["end_to_end"] == bool(flag)


@pytest.mark.parametrize("script", SCRIPTS)
def test_perf_with_lengths(work: Path, script: str) -> None:
    (work / "lengths.txt").write_text("5 64\n7 9 33 1\n\n64\n")
    args = f"-e {ENGINES[script]} -s 64 --lengths lengths.txt --json out.json -w 1"
    # Padded, the longest four are one batch and the other three another; packed, none is in a class of its own, and
    # 183 tokens of 7 sequences are more than the four that a batch takes.
    [row] = timed(succeeds(script, f"{args} -i 5", work), throughput=True)
    assert row[:3] == [6, 4, 64]  # whole rounds of two batches
    assert row[8:11] == [7, 183, 2]
    [result] = read(work / "out.json")["results"]
    assert read(work / "out.json")["lengths"] == "lengths.txt"
    assert (result["sequences"], result["tokens"], result["batches"]) == (7, 183, 2)
    # Each is rounded, which counts for more the faster or the slower the machine is.
    assert 183 / result["tokens_per_s"] == pytest.approx(result["round_s"], abs=6e-5)
    assert result["tokens_per_s"] == pytest.approx(result["sequences_per_s"] * 183 / 7, abs=1.5)
    rows = timed(succeeds(script, f"{args} -i 7 -b 1 -b 3", work), throughput=True)
    assert [(r[0], r[1], r[10]) for r in rows] == [(7, 1, 7), (9, 3, 3)]


def test_perf_with_the_windows_of_a_squad_file(work: Path) -> None:
    printed = succeeds("inference.py", f"-e padded.engine -sq {SQUAD} -s 48", work)
    match = re.match(r"Answered 12 questions, (\d+) windows", printed)
    assert match
    for script, engine in zip(SCRIPTS, ("padded.engine", "packed.engine")):
        [row] = timed(succeeds(script, f"-e {engine} --lengths {SQUAD} -s 48 -i 1 -w 0", work), throughput=True)
        assert row[8] == float(match[1])
        assert 24 * row[8] < row[9] <= 48 * row[8]


def test_perf_with_a_squad_file_needs_a_vocabulary(work: Path) -> None:
    """And may not send its user to a flag that it has not."""
    (work / "padded.engine.json").unlink()
    said = refused("perf.py", f"-e padded.engine -s 64 --lengths {SQUAD}", work, "no description")
    flags, known = (set(re.findall(r"(?<!\S)--?[a-z][\w-]*", text)) for text in (said, succeeds("perf.py", "--help", work)))
    assert flags <= known


@pytest.mark.parametrize("engine", ["padded.engine", "packed.engine"])
def test_perf_of_an_engine_without_its_description(work: Path, engine: str) -> None:
    """Its embedding is not as large as most are."""
    (work / f"{engine}.json").unlink()
    [row] = timed(succeeds("perf.py", f"-e {engine} -s 64 -i 2 -w 0 -r 2147483647", work))
    assert row[:3] == [2, 1, 64]


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_perf_of_an_engine_for_another_task(name: str, tmp_path: Path) -> None:
    """Of a model that has one segment, or none: tokens of another one would be refused."""
    pytest.importorskip("torch")
    save(PLAIN[name].model("sequence-classification"), tmp_path)
    write_tokenizer(tmp_path)
    backend = "--backend onnxruntime"
    for builder, script in (("builder.py", "perf.py"), ("builder_varseqlen.py", "perf_varseqlen.py")):
        succeeds(builder, f"-pt . -o new.engine -b 2 -s 60 --task sequence-classification {backend}", tmp_path)
        [row] = timed(succeeds(script, "-e new.engine -s 60 -b 2 -i 2 -w 0", tmp_path))
        assert row[:3] == [2, 2, 60]
        [row] = timed(succeeds(script, f"-e new.engine -s 60 --lengths {SQUAD} -i 1 -w 0", tmp_path), throughput=True)
        assert row[8] > 12
