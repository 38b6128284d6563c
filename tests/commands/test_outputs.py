"""What commands write: never over what they read or what is not theirs, never in the place of a device, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.inputs import change, read, squad_of
from tests.models import small_config, small_tensors, write_model, write_onnx, write_vocab
from tests.running import PATIENCE, ROOT, assert_refusal, command, listing, refused, run, succeeds
from tests.test_files import full_disk

pytestmark = pytest.mark.usefixtures("no_tensorrt")


@pytest.fixture(scope="module")
def stocked(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small model and its engines, and one of each other file that commands read."""
    folder = tmp_path_factory.mktemp("stocked") / "work"
    shutil.copytree(small, folder)
    succeeds("builder.py", "-pt model -o vectors.engine -s 64 --task feature-extraction --backend onnxruntime", folder)
    # As those are that were built where they stand: a description names its checkpoint by its whole path.
    for engine in folder.glob("*.engine"):
        described = read(folder / f"{engine.name}.json")
        change(folder / f"{engine.name}.json", request={**described["request"], "checkpoint": str(folder / "model")})
    write_model(folder / "trained", small_config(), small_tensors(num_hidden_layers=2))
    shutil.copytree(folder / "model", folder / "other")
    (folder / "squad.json").write_text(json.dumps(squad_of()))
    (folder / "squad").mkdir()
    shutil.copy(folder / "squad.json", folder / "squad/dev-v1.1.json")
    shutil.copy(folder / "squad.json", folder / "nbest_out.json")
    (folder / "predictions.json").write_text('{"1": "a", "2": "cat"}')
    (folder / "odds.json").write_text('{"1": 0.5, "2": 0.5}')
    (folder / "lengths.txt").write_text("3 4")
    write_vocab(folder / "vocab.txt")
    write_onnx(folder / "model.onnx", small_tensors())
    for name in ("model.onnx_data", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.pkl", "notes"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def work(stocked: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    shutil.copytree(stocked, tmp_path / "work")
    for engine in (tmp_path / "work").glob("*.engine"):
        described = read(tmp_path / "work" / f"{engine.name}.json")
        request = {**described["request"], "checkpoint": str(tmp_path / "work/model")}
        change(tmp_path / "work" / f"{engine.name}.json", request=request)
    return tmp_path / "work"


# Over what is read


class Lost(NamedTuple):
    """A command line with an output in braces, and files that would be lost if the output were one of them."""

    script: str
    args: str
    files: tuple[str, ...]


MODEL = ("model/model.safetensors", "model/config.json", "model/vocab.txt")
ENGINE = ("padded.engine", "padded.engine.json", *MODEL)
LOST = (
    Lost("builder.py", "-pt model -s 64 -o {}", MODEL),
    Lost("builder.py", "-pt model/model.safetensors -s 64 -o {}", MODEL),
    Lost("builder.py", "-pt model -c other -v vocab.txt -s 64 -o {}", ("other/config.json", "vocab.txt", *MODEL)),
    Lost("builder.py", "-x model.onnx -c other -s 64 -o {}", ("model.onnx", "model.onnx_data", "other/config.json")),
    Lost("builder.py", "-m model.ckpt -c other -s 64 -o {}", ("model.ckpt.index", "model.ckpt.data-00000-of-00001")),
    Lost("builder.py", "-pt model -s 64 -i -j squad.json -o {}", ("squad.json",)),
    Lost("builder.py", "-pt model -s 64 -i -j squad.json -o new -p {}", (*MODEL, "squad.json")),
    Lost("builder.py", "-pt model -s 64 -o new -tcf {}", MODEL),
    Lost("builder_varseqlen.py", "-pt model -s 64 -o {}", MODEL),
    Lost("builder_varseqlen.py", "--pickle model.pkl -c other -s 64 -o {}", ("model.pkl", "other/vocab.txt")),
    Lost("inference.py", "-e padded.engine -sq squad.json -o {}", ("squad.json", *ENGINE)),
    Lost("inference.py", "-e padded.engine -sq squad.json -v vocab.txt -o {}", ("vocab.txt",)),
    Lost(
        "inference.py",
        "-e vectors.engine -pf passage.txt -o {}",
        ("passage.txt", "vectors.engine", "vectors.engine.json", *MODEL),
    ),
    Lost("inference_varseqlen.py", "-e packed.engine -sq squad.json -o {}", ("squad.json", "packed.engine", *MODEL)),
    Lost("perf.py", "-e padded.engine -s 32 --json {}", ENGINE),
    Lost("perf.py", "-e padded.engine -s 32 --lengths lengths.txt --json {}", ("lengths.txt",)),
    Lost("perf.py", "-e padded.engine -s 32 --lengths squad --json {}", ("squad/dev-v1.1.json",)),
    Lost("perf_varseqlen.py", "-e packed.engine -s 32 --json {}", ("packed.engine", "packed.engine.json", *MODEL)),
    Lost(
        "squad/evaluate-v2.0.py",
        "squad.json predictions.json -n odds.json -o {}",
        ("squad.json", "predictions.json", "odds.json"),
    ),
    Lost("scripts/compare_runtimes.py", "-pt model -j squad.json --json {}", ("squad.json",)),
    Lost("scripts/soak.py", "-e padded.engine --json {}", ("padded.engine", "padded.engine.json")),
)
CASES = [(row.script, row.args, file) for row in LOST for file in row.files]


def spellings(work: Path, file: str) -> Iterator[str]:
    """Names of one file: its own, its whole path, a hard link, a link, and by way of a link to its folder."""
    os.link(work / file, work / "hard")
    (work / "soft").symlink_to(file)
    (work / "twin").symlink_to((work / file).parent)
    yield from (file, f"./{file}", str(work / file), "hard", "soft", f"twin/{Path(file).name}")


@pytest.mark.parametrize(("script", "args", "file"), CASES, ids=[f"{script} {args} {file}" for script, args, file in CASES])
def test_no_output_is_written_over_what_is_read(work: Path, script: str, args: str, file: str) -> None:
    for name in spellings(work, file):
        refused(script, args.format(name), work, "is read as well, and would be overwritten: name another file")


# Names that a command makes of the one that it is given.
@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-pt model -s 64 -o model/config", "output model/config.json is read as well"),
        ("inference.py", "-e padded.engine -sq nbest_out.json -o out.json", "output nbest_out.json is read as well"),
        ("builder.py", "-pt model -s 64 -o x -i -p x", "outputs x and x are one file"),
        ("builder.py", "-pt model -s 64 -o x -i -p x.json", "outputs x.json and x.json are one file"),
        ("builder.py", "-pt model -s 64 -o x -i -p ./x", "outputs x and x are one file"),
        ("builder.py", "-pt model -s 64 -o x -tcf x", "outputs x and x are one file"),
        ("builder.py", "-pt model -s 64 -o new -i -p one -tcf one", "outputs one and one are one file"),
        ("builder.py", "-pt model -s 64 -o x.json -tcf twin/x.json.json", "are one file"),
    ],
)
def test_names_beside_the_output(work: Path, script: str, args: str, says: str) -> None:
    (work / "twin").symlink_to(".")
    refused(script, args, work, says)


# What is no output of this command's, though nothing reads it.
@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-pt model -s 64 -o new -i -j squad.json -p notes", "notes is not a calibration cache"),
        ("builder.py", "-pt model -s 64 -o new -i -j squad.json -p other/config.json", "other/config.json"),
        ("inference.py", "-e padded.engine -sq squad.json -o kept.json", "kept.json.partial is needed for what is done"),
        ("inference.py", "-e vectors.engine -pf passage.txt -o kept.json", "kept.json.partial is needed for what is done"),
        ("scripts/widen_checkpoint.py", "model -o trained", "--overwrite"),
        ("scripts/random_checkpoint.py", "mini -o trained", "--overwrite"),
        ("scripts/random_checkpoint.py", "mini --megatron -o trained", "--overwrite"),
    ],
)
def test_what_another_made_is_not_replaced(work: Path, script: str, args: str, says: str) -> None:
    shutil.copy(work / "squad.json", work / "kept.json.partial")
    refused(script, args, work, says)


# Devices and pipes


@pytest.mark.parametrize(
    ("script", "args"),
    [("builder.py", "-pt model -s 64 -o {}"), ("builder.py", "-pt model -s 64 -i -j squad.json -o new -p {}")],
)
def test_an_engine_is_no_stream(work: Path, script: str, args: str) -> None:
    os.mkfifo(work / "fifo")
    for stream in ("/dev/null", "/dev/stdout", "fifo"):
        assert_refusal(run(script, args.format(stream), work), f"output {stream} is a device or a pipe: name a file")


STREAMED = [
    ("perf.py", "-e padded.engine -s 32 -i 1 -w 0 --json {}", "results"),
    ("inference.py", "-e padded.engine -sq squad.json -o {}", "1"),
    ("inference.py", "-e vectors.engine -pf passage.txt -o {}", "text"),
    ("squad/evaluate-v2.0.py", "squad.json predictions.json -o {}", "exact"),
]


@pytest.mark.parametrize(("script", "args", "key"), STREAMED)
def test_results_into_a_device_or_a_pipe(work: Path, script: str, args: str, key: str) -> None:
    if "evaluate" in script:
        change(
            work / "squad.json", data=[{"paragraphs": [{"context": "a", "qas": [{"id": "1", "question": "b", "answers": []}]}]}]
        )
    before = listing(work)
    null = os.stat("/dev/null")
    succeeds(script, args.format("/dev/null"), work)
    assert os.path.samestat(null, os.stat("/dev/null"))

    printed = succeeds(script, args.format("/dev/stdout"), work)
    found = printed[printed.index("{") : printed.rindex("}") + 1].split("\n{")[0]
    assert key in json.loads(found)
    assert listing(work) == before

    os.mkfifo(work / "fifo")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((work / "fifo").read_text(encoding="utf-8")))
    reader.start()
    succeeds(script, args.format("fifo"), work)
    reader.join(PATIENCE)
    assert key in json.loads(got[0].splitlines()[0] if "vectors" in args else got[0])
    assert (work / "fifo").is_fifo()


# Streams that are closed, full or narrow


def shell(
    script: str, args: Any, work: Path, env: dict[str, str] | None = None, **named: Any
) -> subprocess.CompletedProcess[bytes]:
    """Runs a script in a process of its own, with such streams."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **named}
    done = subprocess.run(command(script, args), cwd=work, env={**os.environ, **(env or {})}, timeout=PATIENCE, **pipes)
    assert b"Traceback" not in (done.stderr or b"")
    return done


ASK = ("inference.py", "-e padded.engine -p the cat -q why")
CLOSED = {"all": (0, 1, 2), "stdin": (0,), "stdout": (1,), "stderr": (2,)}


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams(work: Path, closed: str) -> None:
    """What is opened next gets their numbers: nothing that is printed may end up in an engine."""

    def close() -> None:
        for number in CLOSED[closed]:
            os.close(number)

    whole = (work / "padded.engine").read_bytes()
    build = "-pt model -o padded.engine -b 2 -b 4 -s 32 -s 64 --backend onnxruntime"
    done = shell("builder.py", build, work, preexec_fn=close)
    assert (done.returncode, (work / "padded.engine").read_bytes()) == (0, whole)
    assert (b"Wrote" in done.stdout) == (1 not in CLOSED[closed])
    assert shell(*ASK, work, preexec_fn=close).returncode == 0
    assert shell("inference.py", "-e absent", work, preexec_fn=close).returncode == 2


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ASK,
        ("builder.py", "-pt model -o new -s 64 --backend onnxruntime"),
        ("perf.py", "-e padded.engine -s 32 -i 1 -w 0"),
        ("perf.py", "-e padded.engine -s 32 -i 1 -w 0 --json /dev/stdout"),
        ("inference.py", "--help"),
        ("inference.py", "--version"),
        ("squad/evaluate-v1.1.py", "squad.json predictions.json"),
        ("squad/evaluate-v2.0.py", "--help"),
    ],
)
def test_a_full_disk_under_standard_output(work: Path, script: str, args: str) -> None:
    if "evaluate" in script:
        write = {"id": "1", "question": "b", "answers": [{"text": "a", "answer_start": 0}]}
        change(work / "squad.json", data=[{"paragraphs": [{"context": "a", "qas": [write]}]}])
    with open("/dev/full", "wb") as full:
        done = shell(script, args, work, stdout=full)
    *_, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert "No space left on device" in last and last.startswith("error: ")


NARROW = {"ascii": {"PYTHONIOENCODING": "ascii"}, "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}}
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "scripts", ROOT / "squad")
    for path in folder.glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_where_only_ascii_can_be_printed(work: Path, script: str) -> None:
    done = shell(script, "--help", work, NARROW["ascii"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize("env", NARROW.values(), ids=NARROW)
def test_answers_where_only_ascii_can_be_printed(work: Path, env: dict[str, str]) -> None:
    (work / "passage.txt").write_text("caf\xe9 \u4e2d \U0001f600", encoding="utf-8")
    done = shell("inference.py", "-e padded.engine -pf passage.txt -q why", work, env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Answer: '" in done.stdout and b"caf\xc3" not in done.stdout
    done = shell("inference.py", ["-e", "\u4e2d", "-p", "a", "-q", "b"], work, env)
    assert (done.returncode, done.stdout, done.stderr[:6]) == (2, b"", b"error:")
    succeeds("inference.py", "-e padded.engine -sq squad.json -o out.json", work)


# Places


def test_a_folder_whose_name_is_not_utf8(work: Path) -> None:
    folder = Path(os.fsdecode(bytes(work) + b"/\xff"))
    (work / "model").rename(work / "moved")
    folder.mkdir()
    (work / "moved").rename(folder / "model")
    shutil.copy(work / "squad.json", folder)
    here = os.fsdecode(b"../\xff/")
    backend = ["--backend", "onnxruntime"]
    succeeds("builder.py", ["-pt", f"{here}model", "-o", f"{here}new.engine", "-s", "64", *backend], folder)
    assert "'" in succeeds("inference.py", ["-e", f"{here}new.engine", "-p", "the cat", "-q", "why"], folder)
    succeeds("inference.py", ["-e", f"{here}new.engine", "-sq", f"{here}squad.json", "-o", f"{here}out.json"], folder)
    succeeds("perf.py", ["-e", f"{here}new.engine", "-s", "32", "-i", "1", "-w", "0", "--json", f"{here}perf.json"], folder)
    assert list(read(folder / "out.json")) == ["1", "2"]
    assert len(read(folder / "perf.json")["results"]) == 1
    refused("inference.py", ["-e", f"{here}new.engine", "-sq", f"{here}squad.json", "-o", f"{here}model/vocab.txt"], folder)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("builder.py", "-pt model -o new.engine -s 64 --backend onnxruntime"),
        ("builder.py", "-pt model -o padded.engine -s 64 --backend onnxruntime"),
        ("inference.py", "-e vectors.engine -pf long.txt -o out.json"),
        ("inference.py", "-e padded.engine -sq long.json -o out.json"),
        ("scripts/widen_checkpoint.py", "model -o wide"),
        ("scripts/random_checkpoint.py", "mini -o random/new"),
        ("scripts/random_checkpoint.py", "mini --megatron -o random"),
    ],
)
def test_a_full_disk(work: Path, script: str, args: str) -> None:
    (work / "long.txt").write_text("a cat\n" * 500)
    asked = [{"id": str(i), "question": "who"} for i in range(2, 2000)]
    (work / "long.json").write_text(json.dumps(squad_of(*asked)))
    before = listing(work)
    with full_disk(1 << 15):
        done = run(script, args, work)
    assert done.returncode == 2
    last = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: cannot write ") and last.endswith(": File too large")
    assert listing(work) == before
