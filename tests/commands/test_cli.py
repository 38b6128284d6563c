"""What all command lines share: flags, help, tab completion, exit statuses, and engines that are none."""

from __future__ import annotations

import functools
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers import __version__
from helpers.commands import cli, process
from helpers.config import TASKS
from helpers.errors import InputError
from tests.inputs import Bad, change, cut, half_of
from tests.models import small_tensors, write_onnx
from tests.running import PATIENCE, ROOT, assert_refusal, command, read_until, refused, run, shell, start, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

BUILDERS = ("builder.py", "builder_varseqlen.py")
INFERENCES = ("inference.py", "inference_varseqlen.py")
PERFS = ("perf.py", "perf_varseqlen.py")
SCRIPTS = (*BUILDERS, *INFERENCES, *PERFS)
PYTHON = sorted(str(path.relative_to(ROOT)) for kind in ("*.py", "scripts/*.py") for path in ROOT.glob(kind))


# Flags


class Flag(NamedTuple):
    spelling: str  # short and long form
    default: str = ""


SHARED_BUILDER = (
    Flag("-m --ckpt"),
    Flag("-x --onnx"),
    Flag("-pt --pytorch"),
    Flag("-o --output"),
    Flag("-c --config-dir"),
    Flag("-f --fp16"),
    Flag("-i --int8"),
    Flag("-w --workspace-size", "1200"),
    Flag("-v --vocab-file", "in the config folder"),
    Flag("--task", "question-answering"),
    Flag("-j --squad-json", "squad/dev-v1.1.json"),
    Flag("-n --calib-num", "100"),
    Flag("-p --calib-path"),
    Flag("-sp --sparse"),
    Flag("-tcf --timing-cache-file"),
    Flag("--backend", "auto"),
    Flag("--verbose"),
    Flag("--version"),
)
INFERENCE = (
    Flag("-e --engine"),
    Flag("-p --passage"),
    Flag("-pf --passage-file"),
    Flag("-q --question"),
    Flag("-qf --question-file"),
    Flag("-sq --squad-json"),
    Flag("-o --output-prediction-file", "predictions.json"),
    Flag("-v --vocab-file"),
    Flag("-s --sequence-length", "the engine's"),
    Flag("-b --batch-size", "the engine's largest"),
    Flag("-d --doc-stride", "128"),
    Flag("--max-query-length", "64"),
    Flag("--max-answer-length", "30"),
    Flag("--n-best-size", "20"),
    Flag("--version-2-with-negative"),
    Flag("--null-score-diff-threshold", "0.0"),
    Flag("--backend", "auto"),
    Flag("--verbose"),
)
PERF = (
    Flag("-e --engine"),
    Flag("-b --batch-size", "1"),
    Flag("-s --sequence-length", "128"),
    Flag("-i --iterations", "200"),
    Flag("-w --warm-up-runs", "10"),
    Flag("-d --duration", "0.0"),
    Flag("-r --random-seed", "12345"),
    Flag("--lengths"),
    Flag("--json"),
    Flag("--backend", "auto"),
    Flag("--verbose"),
)
FLAGS = {
    "builder.py": (
        *SHARED_BUILDER,
        Flag("-b --batch-size", "1"),
        Flag("-s --sequence-length", "128"),
        Flag("-t --strict"),
        Flag("-g --force-fc2-gemm"),
        Flag("-iln --force-int8-skipln"),
        Flag("-imh --force-int8-multihead"),
    ),
    "builder_varseqlen.py": (
        *SHARED_BUILDER,
        Flag("-b --max-batch-size", "1"),
        Flag("-s --max-sequence-length", "128"),
        Flag("-pkl --pickle"),
        Flag("--megatron"),
        Flag("-il --interleaved"),
    ),
    "inference.py": INFERENCE,
    "inference_varseqlen.py": INFERENCE,
    "perf.py": PERF,
    "perf_varseqlen.py": PERF,
}


@functools.cache
def help_of(script: str) -> dict[str, str]:
    """What `-h` says of each flag, by its spelling without metavariables."""
    printed = succeeds(script, "-h", ROOT)
    assert printed.startswith(f"usage: {script} ")
    entries = re.split(r"\n  (?=-)", printed)[1:]
    heads = [re.split(r"  +|\n", entry)[0] for entry in entries]
    return {
        " ".join(word.rstrip(",") for word in head.split() if word.startswith("-")): " ".join(entry.split())
        for head, entry in zip(heads, entries)
    }


@pytest.mark.parametrize(("script", "flag"), [(s, flag) for s in SCRIPTS for flag in FLAGS[s]], ids=lambda x: str(x))
def test_help(script: str, flag: Flag) -> None:
    told = help_of(script)
    assert flag.spelling in told
    if flag.default:
        assert f"(default: {flag.default})" in told[flag.spelling]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_no_default_twice(script: str) -> None:
    told = help_of(script)
    assert told
    assert [spelling for spelling, text in told.items() if text.count("(default:") > 1] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_version(script: str, tmp_path: Path) -> None:
    assert succeeds(script, "--version", tmp_path) == f"{__version__}\n"


def complete(script: str, args: str) -> list[str]:
    """What a shell offers after these arguments: it reads the suggestions from file descriptor 8, as argcomplete's does."""
    line = f"{script} {args}"
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    shell = ["bash", "-c", 'exec "$@" 8>&1 >/dev/null', "bash", *command(script)]
    done = subprocess.run(shell, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE)
    return sorted(word.strip() for word in done.stdout.split("\n") if word.strip())


@pytest.mark.parametrize("script", PYTHON)
def test_tab_completion(script: str) -> None:
    assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / script).read_bytes()[:1024]  # where the shell looks for it
    assert complete(script, "--verb") == ["--verbose"]


def test_tab_completion_of_choices() -> None:
    assert complete("builder.py", "--backend ") == ["auto", "onnxruntime", "tensorrt"]
    assert complete("builder.py", "--task ") == sorted(TASKS)
    assert complete("scripts/random_checkpoint.py", "-o x l") == ["large"]


@pytest.mark.parametrize("script", ["builder.py", "inference.py", "perf.py"])
def test_unknown_flag(script: str, work: Path) -> None:
    given = "-pt model -o new.engine" if script == "builder.py" else "-e padded.engine"
    refused(script, f"{given} --frobnicate", work, "--frobnicate")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("-t", " -t"),
        ("-g", " -g"),
        ("-iln", ""),  # read as -i, and something after it
        ("--force-int8-skipln", " --force-int8-skipln"),
        ("-imh", ""),
    ],
)
def test_flags_that_packed_engines_do_not_have(work: Path, flag: str, named: str) -> None:
    refused("builder_varseqlen.py", f"-pt model -s 64 -o new.engine {flag}", work, named)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("builder.py", "-pt model -o new.engine -s 64 -tc new.cache"),
        ("builder_varseqlen.py", "-pt model -o new.engine -s 64 -t new.cache"),
        ("builder_varseqlen.py", "-p model -o new.engine -s 64"),
        ("builder.py", "-pt model -o new.engine --sequence 64"),
        ("inference.py", "--eng padded.engine -p a -q b"),
    ],
)
def test_a_flag_is_not_shortened(work: Path, script: str, args: str) -> None:
    """Else a flag added later would change what an older command line means."""
    refused(script, args, work)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("builder.py", "-pt model -o new.engine -s 65"),
        ("inference.py", "-e absent.engine -p a -q b"),
        ("perf.py", "-e absent.engine"),
    ],
)
def test_verbose_shows_a_traceback(work: Path, script: str, args: str) -> None:
    quiet, verbose = run(script, args, work), run(script, f"{args} --verbose", work)
    assert verbose.stderr.startswith("Traceback (most recent call last):\n")
    assert f'File "{ROOT / "helpers"}' in verbose.stderr
    assert quiet.stderr.removeprefix("error: ") in verbose.stderr
    assert (quiet.returncode, verbose.returncode) == (2, 2)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("what to\n  do"), 2, "error: what to do\n"),
        (RuntimeError("no\n luck"), 1, "error: RuntimeError: no luck\n"),
        (MemoryError(), 1, "error: out of memory\n"),
    ],
)
def test_how_a_command_that_fails_ends(
    error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: list[str]) -> None:
        assert arguments == ["-s", "5"]
        raise error

    monkeypatch.setattr(sys, "argv", ["script", "-s", "5"])
    with pytest.raises(SystemExit) as end:
        process.main(command)
    assert (end.value.code, *capsys.readouterr()) == (code, "", says)


def test_a_reader_who_has_seen_enough(small: Path) -> None:
    """As in `inference.py … | head -1`."""
    with start("inference.py", "-e padded.engine -p the cat sat -q where", small) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait(PATIENCE)) == (b"", 1)


def test_a_clock_runs_on_a_terminal_and_stands_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(InputError), cli.elapsed("building"):
        raise InputError("no such thing")
    assert re.fullmatch(r"\rbuilding: \d+\.\d s\n", capsys.readouterr().err)
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as shown, os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with cli.elapsed("building"):
            read_until(shown, rb"^(\rbuilding: \d+\.\d s)+$")
        read_until(shown, rb"\rbuilding: \d+\.\d s\r\n$")


# Through the shell, which the other tests do without


@pytest.mark.parametrize("script", [*PYTHON, "squad/evaluate-v1.1.py", "squad/evaluate-v2.0.py"])
def test_a_process_helps_as_we_do(script: str, tmp_path: Path) -> None:
    ours, theirs = run(script, "--help", tmp_path), shell(script, "--help", tmp_path)
    assert (theirs.returncode, theirs.stdout, theirs.stderr) == (0, ours.stdout, "")
    assert theirs.stdout.startswith(f"usage: {Path(script).name} ")


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("builder.py", "-pt model -s 64"),  # usage
        ("builder_varseqlen.py", "-pt model -o new.engine -s 65"),  # input
        ("inference.py", "-e padded.engine -p 'a \udcff' -q why"),
        ("perf.py", "-e padded.engine --backend tensorrt"),
    ],
)
def test_a_process_refuses_as_we_do(script: str, args: str, small: Path) -> None:
    ours, theirs = run(script, args, small), shell(script, args, small)
    assert_refusal(theirs)
    assert (theirs.returncode, theirs.stdout, theirs.stderr) == (ours.returncode, ours.stdout, ours.stderr)


# Engines that are none


@pytest.mark.parametrize("script", ["inference.py", "perf.py"])
def test_without_an_engine(work: Path, script: str) -> None:
    refused(script, "", work, "the following arguments are required: -e/--engine")


BAD_ENGINES = {
    "missing": Bad("-e absent.engine", ("engine absent.engine cannot be read: No such file or directory",)),
    "this folder": Bad("-e .", ("engine . cannot be read: Is a directory",)),
    "no name": Bad("-e ''", ("engine",)),
    "text": Bad("-e passage.txt", ("passage.txt is not an engine",)),
    "checkpoint": Bad("-e model/model.safetensors -v model/vocab.txt", ("model/model.safetensors is not a",)),
    "truncated": Bad(
        "-e half.engine -v model/vocab.txt",
        ("half.engine is not a whole ONNX engine",),
        half_of(lambda path: shutil.copyfile(path.with_name("padded.engine"), path), "half.engine"),
    ),
    "truncated and described": Bad(
        "-e padded.engine",
        ("engine padded.engine has ", "but padded.engine.json says ", "truncated or was replaced"),
        lambda folder: cut(folder / "padded.engine"),
    ),
    "another ONNX model": Bad(
        "-e model.onnx -v model/vocab.txt",
        ("model.onnx is not a whole ONNX engine of this project",),
        lambda folder: write_onnx(folder / "model.onnx", small_tensors()),
    ),
    "plan": Bad(
        "-e new.plan -v model/vocab.txt",
        ("new.plan is a TensorRT engine, but TensorRT cannot be imported (none here)",),
        lambda folder: (folder / "new.plan").write_bytes(b"ftrt" + bytes(100)),
    ),
    "ONNX for TensorRT": Bad(
        "-e padded.engine --backend tensorrt", ("padded.engine is an engine of onnxruntime, not of tensorrt",)
    ),
    "malformed description": Bad(
        "-e padded.engine", ("padded.engine.json does not describe an engine",), lambda folder: cut(folder / "padded.engine.json")
    ),
    "description without a member": Bad(
        "-e padded.engine",
        ("padded.engine.json does not describe an engine", "vocab_size"),
        lambda folder: change(folder / "padded.engine.json", "vocab_size"),
    ),
}


@pytest.mark.parametrize("bad", BAD_ENGINES.values(), ids=BAD_ENGINES)
def test_bad_engine(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("inference.py", f"{bad.args} -p the cat -q why", work, *bad.says)


@pytest.mark.parametrize("kind", ["missing", "this folder", "truncated", "truncated and described", "plan", "ONNX for TensorRT"])
def test_bad_engine_to_time(work: Path, kind: str) -> None:
    bad = BAD_ENGINES[kind]
    bad.prepare(work)
    refused("perf.py", bad.args.replace("-v model/vocab.txt", "") + " -s 32", work, *bad.says)
