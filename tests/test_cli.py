"""The scripts as their users run them: real processes, real files, the exit status, and what is printed and left behind."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import save_file

from helpers import __version__, cli
from helpers.errors import InputError
from helpers.weights import random_weights
from tests.models import small_config, write_vocab

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/minilm-l6-squad"
SQUAD = ROOT / "tests/data/squad-mini.json"
BUILDERS = ("builder.py", "builder_varseqlen.py")
INFERENCES = ("inference.py", "inference_varseqlen.py")
PERFS = ("perf.py", "perf_varseqlen.py")
SCRIPTS = (*BUILDERS, *INFERENCES, *PERFS)
ENGINES = {"inference.py": "padded.engine", "perf.py": "padded.engine"}  # others take packed.engine

PROMPT = r"Question \(to exit, type exit or quit\)\? "
BLOCK = (
    r"-{24}\nRunning inference in \d+\.\d{3} Sentences/Sec\n-{24}\nAnswer: '(?P<answer>.*)'\n"
    r"With probability: (?P<percent>\d{1,3}\.\d{3})\n"
)
TIMES = "".join(
    rf"\t{name}: (\d+\.\d{{3}}) ms\n" for name in ("Total time", "Average", "Median", "95th percentile", "99th percentile")
)
ROW = r"Running (\d+) iterations with Batch Size: (\d+), Sequence Length: (\d+)\n" + TIMES
THROUGHPUT = r"\t(\d+) sequences, (\d+) tokens in (\d+) batches: (\d+\.\d{3}) s\n\t(\d+) tokens/s, (\d+\.\d) sequences/s\n"


# Processes


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No TensorRT, whatever is installed, and lines of help that do not wrap."""
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "tensorrt.py").write_text("raise ImportError('none here')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hidden))
        patch.setenv("COLUMNS", "300")
        yield


def command(script: str, args: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *shlex.split(args)]


def run(script: str, args: str, folder: Path, typed: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder, with what is typed at its prompts."""
    done = subprocess.run(command(script, args), cwd=folder, input=typed, capture_output=True, timeout=100)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def succeeds(script: str, args: str, folder: Path, typed: bytes = b"") -> str:
    """Runs a script that must succeed; returns what it printed."""
    done = run(script, args, folder, typed)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(script: str, args: str, folder: Path, *says: str, typed: bytes = b"") -> None:
    """Runs a script that must refuse: exit 2, one line that names the thing at fault, and not a file changed."""
    before = listing(folder)
    done = run(script, args, folder, typed)
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    for text in says:
        assert text in done.stderr
    assert listing(folder) == before


def start(script: str, args: str, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a script that Ctrl-C reaches, also where the tests themselves run in a shell's background."""
    return subprocess.Popen(
        command(script, args),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_until(stream: Any, pattern: bytes, seconds: float = 60) -> bytes:
    """What a process writes until it matches a pattern."""
    seen, end = b"", time.monotonic() + seconds
    while not re.search(pattern, seen):
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], f"{pattern!r} not in {seen!r}"
        part = os.read(stream.fileno(), 4096)
        assert part, f"{pattern!r} not in {seen!r}"
        seen += part
    return seen


# Small models and engines


def small_tensors() -> dict[str, np.ndarray]:
    """Weights that are large enough for a model to prefer some answers over others."""
    tensors = random_weights(small_config()).tensors()
    return {name: array * np.float32(1 if "LayerNorm" in name else 10) for name, array in tensors.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose tokens are letters, and its engines: padded for 2 and 4, packed for 4, of 64 tokens."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "model").mkdir()
    save_file(small_tensors(), str(folder / "model/model.safetensors"))
    (folder / "model/config.json").write_text(json.dumps(asdict(small_config())))
    write_vocab(folder / "model/vocab.txt")
    backend = "--backend onnxruntime"
    printed = succeeds("builder.py", f"-pt model -o padded.engine -b 2 -b 4 -s 32 -s 64 {backend}", folder)
    assert re.fullmatch(r"Wrote padded\.engine \(\d+\.\d MiB\) and padded\.engine\.json\n", printed)
    printed = succeeds("builder_varseqlen.py", f"-pt model -o packed.engine -b 4 -b 1 -s 64 {backend}", folder)
    assert re.fullmatch(r"Wrote packed\.engine \(\d+\.\d MiB\) and packed\.engine\.json\n", printed)
    (folder / "passage.txt").write_text("the cat sat\non the mat\n")
    (folder / "question.txt").write_text("where\n")
    return folder


@pytest.fixture
def work(small: Path, tmp_path: Path) -> Path:
    """A copy of the small model and its engines, to be spoilt."""
    shutil.copytree(small, tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a padded and a packed engine of the bundled model."""
    folder = tmp_path_factory.mktemp("minilm")
    args = f"-pt {MODEL} -b 8 -s 128 --backend onnxruntime"
    succeeds("builder.py", f"{args} -o padded.engine", folder)
    succeeds("builder_varseqlen.py", f"{args} -o packed.engine", folder)
    return folder


def change(path: Path, *without: str, **values: Any) -> None:
    """Sets members of a JSON file's object, or takes them away."""
    merged = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in merged.items() if key not in without}), encoding="utf-8")


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


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
    Flag("-v --vocab-file", "vocab.txt in the config folder"),
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
        Flag("-j --squad-json", "squad/dev-v1.1.json"),
        Flag("-n --calib-num", "100"),
        Flag("-p --calib-path"),
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
    done = run(script, "-h", ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script} ")
    entries = re.split(r"\n  (?=-)", done.stdout)[1:]
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
    shell = ["bash", "-c", 'exec "$@" 8>&1 >/dev/null', "bash", *command(script, "")]
    done = subprocess.run(shell, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100)
    return sorted(word.strip() for word in done.stdout.split("\n") if word.strip())


@pytest.mark.parametrize(
    "script", sorted(str(path.relative_to(ROOT)) for kind in ("*.py", "scripts/*.py") for path in ROOT.glob(kind))
)
def test_tab_completion(script: str) -> None:
    assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / script).read_bytes()[:1024]  # where the shell looks for it
    assert complete(script, "--verb") == ["--verbose"]


def test_tab_completion_of_choices() -> None:
    assert complete("builder.py", "--backend ") == ["auto", "onnxruntime", "tensorrt"]
    assert complete("scripts/random_checkpoint.py", "-o x l") == ["large"]


@pytest.mark.parametrize("script", ["builder.py", "inference.py", "perf.py"])
def test_unknown_flag(script: str, work: Path) -> None:
    given = "-pt model -o new.engine" if script == "builder.py" else "-e padded.engine"
    refused(script, f"{given} --frobnicate", work, "--frobnicate")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("-t", " -t"),
        ("-j squad.json", " -j"),
        ("-n 10", " -n"),
        ("-p new.cache", " -p "),
        ("--calib-path new.cache", " --calib-path"),
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
        (MemoryError(), 1, "error: MemoryError\n"),
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
        cli.main(command)
    assert (end.value.code, *capsys.readouterr()) == (code, "", says)


def test_a_reader_who_has_seen_enough(small: Path) -> None:
    """As in `inference.py … | head -1`."""
    with start("inference.py", "-e padded.engine -p the cat sat -q where", small) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)


def test_a_clock_runs_on_a_terminal_and_stands_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(InputError), cli.elapsed("building"):
        raise InputError
    assert re.fullmatch(r"\rbuilding: \d+\.\d s\n", capsys.readouterr().err)
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as shown, os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with cli.elapsed("building"):
            read_until(shown, rb"^\rbuilding: \d+\.\d s$")
        read_until(shown, rb"\rbuilding: \d+\.\d s\r\n$")


# Bad input to the builders


class Bad(NamedTuple):
    args: str
    says: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


def write_onnx(path: Path) -> None:
    """An ONNX file with the small model's weights as initializers."""
    initializers = [numpy_helper.from_array(array, name) for name, array in small_tensors().items()]
    graph = onnx.helper.make_graph([], "bert", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), str(path))


def write_bin(path: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in small_tensors().items()}, path)


def both(*parts: Callable[[Path], object]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for part in parts:
            part(folder)

    return prepare


def half_of(write: Callable[[Path], object], name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        write(folder / name)
        cut(folder / name)

    return prepare


BUILD = "-o new.engine -pt model"
BAD_CHECKPOINTS = {
    "missing file": Bad("-o new.engine -s 64 -c model -pt model/absent.bin", ("checkpoint model/absent.bin does not exist",)),
    "missing folder": Bad("-o new.engine -s 64 -c model -pt absent", ("checkpoint absent does not exist",)),
    "empty folder": Bad(
        BUILD + " -s 64",
        ("no model.safetensors or pytorch_model.bin in folder model",),
        lambda folder: (folder / "model/model.safetensors").unlink(),
    ),
    "truncated safetensors": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors is not a whole safetensors file",),
        lambda folder: cut(folder / "model/model.safetensors"),
    ),
    "safetensors that lacks a byte": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors is not a whole safetensors file",),
        lambda folder: cut(folder / "model/model.safetensors", 0.99999),
    ),
    "truncated state dict": Bad(
        "-o new.engine -s 64 -pt model/half.bin",
        ("model/half.bin is not a PyTorch state dict",),
        half_of(write_bin, "model/half.bin"),
    ),
    "missing ONNX": Bad("-o new.engine -s 64 -c model -x model.onnx", ("ONNX file model.onnx does not exist",)),
    "truncated ONNX": Bad(
        "-o new.engine -s 64 -c model -x half.onnx",
        ("half.onnx is not a whole ONNX file",),
        half_of(write_onnx, "half.onnx"),
    ),
    "missing TensorFlow": Bad(
        "-o new.engine -s 64 -c model -m model/model.ckpt",
        ("TensorFlow checkpoint model/model.ckpt not found", "model/model.ckpt.index"),
    ),
    "another size": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors", "bert.encoder.layer.1.intermediate.dense.weight: expected [40, 32], found [48, 32]"),
        lambda folder: change(folder / "model/config.json", intermediate_size=40),
    ),
    "another size in ONNX": Bad(
        "-o new.engine -s 64 -c model -x model.onnx",
        ("model.onnx", "bert.embeddings.position_embeddings.weight: expected [80, 32], found [64, 32]"),
        both(
            lambda folder: write_onnx(folder / "model.onnx"),
            lambda folder: change(folder / "model/config.json", max_position_embeddings=80),
        ),
    ),
    "more layers": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors has 2 encoder layers, its configuration 1",),
        lambda folder: change(folder / "model/config.json", num_hidden_layers=1),
    ),
    "fewer layers": Bad(
        BUILD + " -s 64",
        (
            "lacks 16 of 55 tensors",
            "bert.encoder.layer.2.attention.self.query.weight",
            "bert.encoder.layer.2.output.LayerNorm.bias",
        ),
        lambda folder: change(folder / "model/config.json", num_hidden_layers=3),
    ),
}
BAD_CONFIGS = {
    **{
        f"without {key}": Bad(
            BUILD + " -s 64",
            ("configuration model/config.json lacks " + key,),
            functools.partial(lambda key, folder: change(folder / "model/config.json", key), key),
        )
        for key in ("num_attention_heads", "max_position_embeddings")
    },
    "missing": Bad(
        BUILD + " -s 64",
        ("no bert_config.json or config.json in model",),
        lambda folder: (folder / "model/config.json").unlink(),
    ),
    "missing folder": Bad(BUILD + " -s 64 -c absent", ("configuration folder absent does not exist",)),
    "malformed": Bad(BUILD + " -s 64", ("model/config.json",), lambda folder: cut(folder / "model/config.json")),
    "not a number": Bad(
        BUILD + " -s 64",
        ("model/config.json: hidden_size must be a positive whole number, not '32'",),
        lambda folder: change(folder / "model/config.json", hidden_size="32"),
    ),
}
BAD_VOCABULARIES = {
    "missing": Bad(
        BUILD + " -s 64", ("vocabulary model/vocab.txt cannot be read",), lambda folder: (folder / "model/vocab.txt").unlink()
    ),
    "another": Bad(
        BUILD + " -s 64 -v other.txt",
        ("vocabulary other.txt has 100 tokens but the model's embedding 60 rows",),
        lambda folder: write_vocab(folder / "other.txt", 100),
    ),
    "one token more": Bad(
        BUILD + " -s 64",
        ("vocabulary model/vocab.txt has 61 tokens but the model's embedding 60 rows",),
        lambda folder: write_vocab(folder / "model/vocab.txt", 61),
    ),
    "truncated": Bad(
        BUILD + " -s 64",
        ("vocabulary model/vocab.txt has 40 tokens but the model's embedding 60 rows",),
        lambda folder: write_vocab(folder / "model/vocab.txt", 40),
    ),
    "of something else": Bad(BUILD + " -s 64 -v passage.txt", ("vocabulary passage.txt lacks [PAD], [UNK], [CLS], [SEP]",)),
}


@pytest.mark.parametrize("bad", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_checkpoint(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize("bad", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_config(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize("bad", BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES)
def test_bad_vocabulary(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-s 65", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder_varseqlen.py", "-s 65", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder.py", "", "sequence length 128 is above the model's max_position_embeddings, 64"),
        ("builder.py", "-s 65 -s 32", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder.py", "-s 0", "argument -s/--sequence-length: must be a whole number from 1, not '0'"),
        ("builder_varseqlen.py", "-s 0", "argument -s/--max-sequence-length: must be a whole number from 1, not '0'"),
        ("builder.py", "-s=-5", "argument -s/--sequence-length: must be a whole number from 1, not '-5'"),
        ("builder.py", "-s 64 -b 0", "argument -b/--batch-size: must be a whole number from 1, not '0'"),
        ("builder_varseqlen.py", "-s 64 -b 0", "argument -b/--max-batch-size: must be a whole number from 1, not '0'"),
        ("builder.py", "-s 64 -b 2 -b many", "argument -b/--batch-size: must be a whole number from 1, not 'many'"),
        ("builder.py", "-s 64 -w 2147483648", "workspace-size: must be a whole number from 1 to 2147483647, not '2147483648'"),
        ("builder.py", "-s 64 --backend tensorrt", "TensorRT cannot be imported (none here)"),
        ("builder_varseqlen.py", "-s 64 --backend tensorrt", "TensorRT cannot be imported (none here)"),
        ("builder.py", "-s 64 --backend abacus", "argument --backend: invalid choice: 'abacus'"),
        ("builder.py", "-s 64 -m model/model.ckpt", "give exactly one of --ckpt, --onnx, --pytorch, not 2"),
        ("builder_varseqlen.py", "-s 64 -pkl absent.pkl", "give exactly one of --ckpt, --onnx, --pytorch, --pickle, not 2"),
        ("builder.py", "-s 64 --int8 -j absent.json", "absent.json does not exist"),
        ("builder_varseqlen.py", "-s 64 --int8", "activation ranges that the checkpoint lacks: "),
    ],
)
def test_bad_build(work: Path, script: str, args: str, says: str) -> None:
    refused(script, f"{BUILD} {args}", work, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-pt model -s 64", "the following arguments are required: -o/--output"),
        ("-o new.engine -c model -s 64", "give exactly one of --ckpt, --onnx, --pytorch\n"),
        ("-o new.engine -m model.ckpt -s 64", "the configuration's folder is required: -c, --config-dir"),
        ("-o new.engine -x model.onnx -s 64", "the configuration's folder is required: -c, --config-dir"),
        (f"{BUILD} -s", "argument -s/--sequence-length"),
        (f"{BUILD} -s 64 stray", "stray"),
    ],
)
def test_bad_usage_of_builders(work: Path, args: str, says: str) -> None:
    refused("builder.py", args, work, says)


# None of these checkpoints is there: an output is looked at before a checkpoint is read.
@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-o absent/new.engine", "output folder absent does not exist"),
        ("builder_varseqlen.py", "-o absent/new.engine", "output folder absent does not exist"),
        ("builder.py", "-o passage.txt/new.engine", " passage.txt"),  # a file
        ("builder.py", "-o model", "output model is a folder"),
        ("builder.py", "-o model/vocab.txt", "output model/vocab.txt is read as well"),
        ("builder.py", "-o .", "output . is a folder"),
        ("builder.py", "-o taken", "output taken.json is a folder"),  # no place for the description
        ("builder.py", "-o new.engine -tcf absent/new.cache", "output folder absent does not exist"),
        ("builder.py", "-o new.engine -i -p absent/new.cache", "output folder absent does not exist"),
    ],
)
def test_an_engine_that_cannot_be_written(work: Path, script: str, args: str, says: str) -> None:
    (work / "taken.json").mkdir()
    refused(script, f"-pt absent.bin -c model -s 64 {args}", work, says)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for root")
def test_an_engine_in_a_protected_folder(work: Path) -> None:
    (work / "protected").mkdir(mode=0o500)
    refused("builder.py", "-pt absent.bin -c model -s 64 -o protected/new.engine", work, "protected/new.engine")


def test_a_build_that_fails_leaves_the_older_engine(work: Path) -> None:
    """`refused` sees that engine and description stay, byte for byte."""
    cut(work / "model/model.safetensors")
    refused("builder.py", "-pt model -s 64 -o padded.engine", work, "model/model.safetensors")
    assert succeeds("inference.py", "-e padded.engine -p a b -q c", work)


# Bad input to the inference scripts

ASK = "-e padded.engine -p the cat -q why"


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
        ("-v other.txt -p a -q why", "vocabulary other.txt has 100 tokens but the model's embedding 60 rows"),
        ("-v absent.txt -p a -q why", "vocabulary absent.txt cannot be read"),
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


@pytest.mark.parametrize("script", ["inference.py", "perf.py"])
def test_without_an_engine(work: Path, script: str) -> None:
    refused(script, "", work, "the following arguments are required: -e/--engine")


BAD_ENGINES = {
    "missing": Bad("-e absent.engine", ("engine absent.engine cannot be read: No such file or directory",)),
    "folder": Bad("-e model", ("engine model cannot be read: Is a directory",)),
    "this folder": Bad("-e .", ("engine . cannot be read: Is a directory",)),
    "no name": Bad("-e ''", ("engine",)),
    "empty": Bad("-e empty", ("empty is not an engine",), lambda folder: (folder / "empty").touch()),
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
    "replaced": Bad(
        "-e padded.engine",
        ("engine padded.engine has ", "but padded.engine.json says ", "truncated or was replaced"),
        lambda folder: shutil.copy(folder / "packed.engine", folder / "padded.engine"),
    ),
    "another ONNX model": Bad(
        "-e model.onnx -v model/vocab.txt",
        ("model.onnx is not a whole ONNX engine of this project",),
        lambda folder: write_onnx(folder / "model.onnx"),
    ),
    "plan": Bad(
        "-e new.plan -v model/vocab.txt",
        ("new.plan is a TensorRT engine, but TensorRT cannot be imported (none here)",),
        lambda folder: (folder / "new.plan").write_bytes(b"ftrt" + bytes(100)),
    ),
    "plan for ONNX Runtime": Bad(
        "-e new.plan --backend onnxruntime -v model/vocab.txt",
        ("new.plan is an engine of tensorrt, not of onnxruntime",),
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
        ("padded.engine.json does not describe an engine", "lower_case"),
        lambda folder: change(folder / "padded.engine.json", "lower_case"),
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


def test_a_vocabulary_that_went_away(work: Path) -> None:
    change(work / "padded.engine.json", vocab_file="absent/vocab.txt")
    refused("inference.py", ASK, work, "vocabulary absent/vocab.txt cannot be read", "name it with -v")
    assert re.fullmatch(BLOCK, succeeds("inference.py", f"{ASK} -v model/vocab.txt", work))


# Bad input to SQuAD scoring


def squad_of(*questions: dict[str, Any]) -> dict[str, Any]:
    """A SQuAD file of two articles; the questions are those of the second paragraph of the second one."""
    first = {"context": "a b", "qas": [{"id": "1", "question": "why"}]}
    second = {"context": "the cat sat", "qas": list(questions) or [{"id": "2", "question": "who"}]}
    return {"version": "1.1", "data": [{"paragraphs": [first]}, {"paragraphs": [{**first, "qas": []}, second]}]}


def lacking(*place: Any) -> dict[str, Any]:
    """A SQuAD file without one member."""
    document = squad_of()
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    del parent[place[-1]]
    return document


PARAGRAPH = ("data", 1, "paragraphs", 1)
BAD_SQUAD: dict[str, tuple[Any, str]] = {
    "data": (lacking("data"), "the file must have 'data'"),
    "paragraphs": (lacking("data", 1, "paragraphs"), "article 2 must have 'paragraphs'"),
    "context": (lacking(*PARAGRAPH, "context"), "article 2, paragraph 2 must have 'context'"),
    "qas": (lacking(*PARAGRAPH, "qas"), "article 2, paragraph 2 must have 'qas'"),
    "id": (lacking(*PARAGRAPH, "qas", 0, "id"), "article 2, paragraph 2, question 1 must have 'id'"),
    "question": (lacking(*PARAGRAPH, "qas", 0, "question"), "article 2, paragraph 2, question 1 must have 'question'"),
    "empty question": (
        squad_of({"id": "2", "question": "who"}, {"id": "3", "question": " "}),
        "article 2, paragraph 2, question 2 must have 'question', text that is not empty",
    ),
    "repeated id": (
        squad_of({"id": "1", "question": "who"}),
        "article 2, paragraph 2, question 1 repeats the id '1' of article 1, paragraph 1, question 1",
    ),
    "long question": (squad_of({"id": "2", "question": "x" * 61}), "question 2 has 61 tokens"),
    "no questions": ({"data": []}, "bad.json has no questions"),
    "list": ([], "the file must have 'data'"),
}


@pytest.mark.parametrize(("document", "says"), BAD_SQUAD.values(), ids=BAD_SQUAD)
def test_bad_squad(work: Path, document: Any, says: str) -> None:
    (work / "bad.json").write_text(json.dumps(document))
    refused("inference.py", "-e padded.engine -sq bad.json", work, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"data": [\n{"paragraphs": ]', "bad.json is not JSON: line 2, column 16"),
        (b"", "bad.json is not JSON: line 1, column 1"),
        (b'{"data": "\xff"}', "bad.json is not UTF-8 text (byte 10)"),
        (None, "SQuAD file bad.json cannot be read: No such file or directory"),
    ],
)
def test_malformed_squad(work: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (work / "bad.json").write_bytes(content)
    refused("inference_varseqlen.py", "-e packed.engine -sq bad.json", work, says)


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


# Bad input to the perf scripts


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
        ("-s 64 -d nan", "argument -d/--duration: must be a number from 0, not 'nan'"),
        ("-s 64 -r=-1", "argument -r/--random-seed: must be a whole number from 0, not '-1'"),
        ("-s 64 --json absent/out.json", "output folder absent does not exist"),
        ("-s 64 --json padded.engine", "output padded.engine is read as well, and would be overwritten"),
        ("-s 64 --lengths long.txt --json long.txt", "output long.txt is read as well, and would be overwritten"),
        ("-s 64 --json passage.txt/out.json", "output folder passage.txt "),
        ("-s 64 --lengths absent.txt", "lengths file absent.txt cannot be read: No such file or directory"),
        ("-s 64 --lengths empty.txt", "lengths file empty.txt must hold numbers from 1 to 64 (-s), at least one"),
        ("-s 64 --lengths passage.txt", "lengths file passage.txt must hold whole numbers only"),
        ("-s 64 --lengths bytes.txt", "lengths file bytes.txt must hold whole numbers only"),
        ("-s 64 --lengths zero.txt", "lengths file zero.txt must hold numbers from 1 to 64 (-s), at least one"),
        ("-s 64 --lengths long.txt", "lengths file long.txt must hold numbers from 1 to 64 (-s), at least one"),
        ("-s 64 --lengths bad.json", "SQuAD file bad.json: article 2, paragraph 2 must have 'context'"),
        ("-s 64 --lengths squad", "squad/dev-v1.1.json does not exist: fetch it with scripts/download_squad.sh"),
    ],
)
def test_bad_perf(work: Path, args: str, says: str) -> None:
    (work / "empty.txt").touch()
    (work / "bytes.txt").write_bytes(b"5 \xff")
    (work / "zero.txt").write_text("5 0 6")
    (work / "long.txt").write_text("5 65 6")
    (work / "bad.json").write_text(json.dumps(lacking(*PARAGRAPH, "context")))
    refused("perf.py", f"-e padded.engine {args}", work, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-s 65", "sequence length 65 is above the engine's, 64"),
        ("-s 64 -b 5", "batch size 5 is above the engine's largest, 4"),
        ("-s 64 --lengths long.txt", "lengths file long.txt must hold numbers from 1 to 64 (-s), at least one"),
    ],
)
def test_bad_perf_of_a_packed_engine(work: Path, args: str, says: str) -> None:
    (work / "long.txt").write_text("5 65 6")
    refused("perf_varseqlen.py", f"-e packed.engine {args}", work, says)


def test_perf_looks_at_its_output_before_the_engine(work: Path) -> None:
    refused("perf.py", "-e absent.engine --json absent/out.json", work, "output folder absent does not exist")


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
    passage = f"-e {ENGINES.get(script, 'packed.engine')} -p the cat sat on the mat"
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
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode().split()) == (130, ["interrupted"])
    assert listing(work) == before


def demo_words() -> str:
    """Passage and question of scripts/demo.sh, as it gives them."""
    script = (ROOT / "scripts/demo.sh").read_text(encoding="utf-8").replace("\\\n", "")
    match = re.search(r'-p "([^"]+)"\s+-q "([^"]+)"', script)
    assert match
    return f"-p {shlex.quote(match[1])} -q {shlex.quote(match[2])}"


@pytest.mark.parametrize("script", INFERENCES)
def test_demo(minilm: Path, script: str) -> None:
    engine = ENGINES.get(script, "packed.engine")
    answer, percent = answered(succeeds(script, f"-e {engine} {demo_words()}", minilm))
    assert answer == "high performance deep learning inference platform"
    assert 20 < percent < 35
    narrow, _ = answered(succeeds(script, f"-e {engine} -s 48 -d 16 {demo_words()}", minilm))  # several windows
    assert narrow in demo_words()


def test_every_script_runs_an_engine_of_either_kind(minilm: Path) -> None:
    for script, engine in zip(INFERENCES, ("packed.engine", "padded.engine")):
        answer, _ = answered(succeeds(script, f"-e {engine} {demo_words()}", minilm))
        assert answer == "high performance deep learning inference platform"


def test_an_engine_of_every_kind_of_checkpoint(work: Path) -> None:
    write_onnx(work / "model.onnx")
    expected = succeeds("inference.py", ASK, work).partition("Answer")[2]
    for checkpoint in ("-x model.onnx -c model", "-pt model/model.safetensors"):
        args = f"{checkpoint} -o new.engine -s 64 -b 4 --backend onnxruntime"
        succeeds("builder.py", args, work)
        assert succeeds("inference.py", ASK.replace("padded", "new"), work).partition("Answer")[2] == expected
        assert (work / "new.engine.json").is_file()


def test_float16_on_the_cpu_warns(work: Path) -> None:
    done = run("builder.py", "-pt model -o new.engine -s 64 --fp16 --strict --backend onnxruntime", work)
    warning, progress = done.stderr.split("\n", 1)
    assert (done.returncode, warning.split(":")[0]) == (0, "warning")
    assert "computes in float32: not honoured are --fp16" in warning
    assert re.fullmatch(r"\rBuilding new\.engine for onnxruntime: \d+\.\d s\n", progress)
    assert json.loads((work / "new.engine.json").read_text())["precision"] == "float32"


@pytest.mark.parametrize("engine", ["padded.engine", "packed.engine"])
def test_an_engine_without_its_description(work: Path, engine: str) -> None:
    args = f"-e {engine} -p the cat sat -q why"
    answer, percent = answered(succeeds("inference.py", args, work))
    (work / f"{engine}.json").unlink()
    for flags in ("-v model/vocab.txt", "-v model/vocab.txt -s 64 -b 4"):
        same, chance = answered(succeeds("inference.py", f"{args} {flags}", work))
        assert same == answer
        assert chance == pytest.approx(percent, abs=0.002)
    refused("inference.py", f"{args} -s 64", work, "no description", "vocabulary", "-v")
    write_vocab(work / "other.txt", 40)
    refused("inference.py", f"{args} -v other.txt", work, "other.txt has 40 tokens but the model's embedding 60 rows")


def test_squad_with_an_engine_without_its_description(work: Path) -> None:
    (work / "good.json").write_text(json.dumps(squad_of()))
    succeeds("inference.py", "-e padded.engine -sq good.json", work)
    (work / "padded.engine.json").unlink()
    succeeds("inference.py", "-e padded.engine -sq good.json -v model/vocab.txt -o other.json", work)
    assert read(work / "other.json") == read(work / "predictions.json")


@pytest.mark.parametrize("engine", ["padded.engine", "packed.engine"])
def test_perf_of_an_engine_without_its_description(work: Path, engine: str) -> None:
    """Its embedding is not as large as most are."""
    (work / f"{engine}.json").unlink()
    [row] = timed(succeeds("perf.py", f"-e {engine} -s 64 -i 2 -w 0 -r 2147483647", work))
    assert row[:3] == [2, 1, 64]


# SQuAD


def questions_of(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Id → question and passage."""
    return {
        question["id"]: (question["question"], paragraph["context"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scored(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The predictions for the small SQuAD file in windows of 64 tokens, by layout and batch size."""
    paths = {}
    for script, layout in zip(INFERENCES, ("padded", "packed")):
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


def test_squad_by_default(work: Path) -> None:
    """Predictions go into the current folder, windows are the engine's; a run replaces what an earlier one left."""
    (work / "good.json").write_text(json.dumps(squad_of()))
    (work / "predictions.json").write_text("old")
    before = set(listing(work))
    (work / "predictions.json.partial").write_text("old")
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


@pytest.mark.parametrize("script", INFERENCES)
def test_interrupted_scoring_keeps_what_it_has(minilm: Path, tmp_path: Path, script: str) -> None:
    args = f"-e {minilm / ENGINES.get(script, 'packed.engine')} -sq {{}} -o out.json"
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
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert errors.endswith(b"\ninterrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.json", "out.json.partial"]
    kept = read(tmp_path / "out.json.partial")
    assert output.decode() == f"\n{len(kept)} of {len(asked)} questions answered, kept in out.json.partial\n"
    assert 0 < len(kept) < len(asked) == 1612
    assert set(kept) < set(asked)
    assert kept == {key: whole[key.split("#")[-1]] for key in kept}


# Timing


def timed(printed: str, throughput: bool = False) -> list[list[float]]:
    """The numbers that a perf script prints, a list for each batch size."""
    row = ROW + (THROUGHPUT if throughput else "")
    assert re.fullmatch(f"({row})+", printed), printed
    return [[float(number) for number in match] for match in re.findall(row, printed)]


@pytest.mark.parametrize("script", PERFS)
def test_perf(work: Path, script: str) -> None:
    engine = ENGINES.get(script, "packed.engine")
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


@pytest.mark.parametrize("flag", ["", "--end-to-end"])
def test_perf_for_some_time(work: Path, flag: str) -> None:
    start = time.monotonic()
    [row] = timed(succeeds("perf.py", f"-e padded.engine -s 64 -i 1 -w 0 -d 1 --json out.json {flag}", work))
    seconds = time.monotonic() - start
    assert row[0] > 10  # of well under a millisecond each
    assert 500 < row[3] < 1e3 * seconds  # but for the loop, the second that was asked for
    assert read(work / "out.json")["end_to_end"] == bool(flag)


@pytest.mark.parametrize("script", PERFS)
def test_perf_with_lengths(work: Path, script: str) -> None:
    (work / "lengths.txt").write_text("5 64\n7 9 33 1\n\n64\n")
    args = f"-e {ENGINES.get(script, 'packed.engine')} -s 64 --lengths lengths.txt --json out.json -w 1"
    # Padded, the longest four are one batch and the other three another; packed, none is in a class of its own, and
    # 183 tokens of 7 sequences are more than the four that a batch takes.
    [row] = timed(succeeds(script, f"{args} -i 5", work), throughput=True)
    assert row[:3] == [6, 4, 64]  # whole rounds of two batches
    assert row[8:11] == [7, 183, 2]
    [result] = read(work / "out.json")["results"]
    assert read(work / "out.json")["lengths"] == "lengths.txt"
    assert (result["sequences"], result["tokens"], result["batches"]) == (7, 183, 2)
    assert result["tokens_per_s"] == pytest.approx(183 / result["round_s"], rel=0.2)
    assert result["tokens_per_s"] / result["sequences_per_s"] == pytest.approx(183 / 7, rel=0.01)
    rows = timed(succeeds(script, f"{args} -i 7 -b 1 -b 3", work), throughput=True)
    assert [(r[0], r[1], r[10]) for r in rows] == [(7, 1, 7), (9, 3, 3)]


def test_perf_with_the_windows_of_a_squad_file(work: Path) -> None:
    printed = succeeds("inference.py", f"-e padded.engine -sq {SQUAD} -s 48", work)
    match = re.match(r"Answered 12 questions, (\d+) windows", printed)
    assert match
    for script, engine in zip(PERFS, ("padded.engine", "packed.engine")):
        [row] = timed(succeeds(script, f"-e {engine} --lengths {SQUAD} -s 48 -i 1 -w 0", work), throughput=True)
        assert row[8] == float(match[1])
        assert 24 * row[8] < row[9] <= 48 * row[8]


def test_perf_with_a_squad_file_needs_a_vocabulary(work: Path) -> None:
    """And may not send its user to a flag that it has not."""
    (work / "padded.engine.json").unlink()
    done = run("perf.py", f"-e padded.engine -s 64 --lengths {SQUAD}", work)
    assert re.fullmatch(r"error: [^\n]*no description[^\n]*\n", done.stderr)
    assert (done.returncode, done.stdout) == (2, "")
    flags = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", done.stderr))
    assert flags <= {word for spelling in help_of("perf.py") for word in spelling.split()}
