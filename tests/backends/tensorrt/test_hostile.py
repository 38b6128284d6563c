"""A GPU whose memory others take: before a command starts, and while it is at work. It says so in a line, and aborts nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.models import write_model
from tests.running import MODEL, PATIENCE, ROOT, command, succeeds
from tests.tensorrt_engines import WIDE, lively

pytestmark = pytest.mark.gpu

FREE = (100, 500, 600, 700, 850, 1050, 1400)  # MiB; a context alone takes some 500
PLENTY = 12000
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "encoding": "utf-8"}
# Runs a script with the extension that was built for these tests.
WITH_EXTENSION = (
    "import pathlib, runpy, sys; from helpers.backends.tensorrt import extension; extension.BUILD = pathlib.Path(sys.argv[1]); "
    "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
DELAYS = (1.0, 2.0, 3.0)  # seconds, through the start of a command


class Hog:
    """A process that holds the GPU's memory."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("hog.py"))
        self.process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, **PIPES)
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self, mib: int) -> int:
        """Takes all but so many MiB; returns how many are left."""
        assert self.process.stdin
        print(mib, file=self.process.stdin, flush=True)
        return int(self._answer())


@contextmanager
def hog() -> Iterator[Hog]:
    one = Hog()
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="module")
def commands(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Every way to the GPU's memory, by name. Builds are of a small model; what runs is of the bundled one, of large batches."""
    folder = tmp_path_factory.mktemp("hostile")
    write_model(folder / "model", WIDE, lively(WIDE).tensors())
    engines = {"padded": "builder.py", "packed": "builder_varseqlen.py"}
    for name, script in engines.items():
        succeeds(script, ["-pt", str(MODEL), "-o", f"{name}.engine", "-s", "384", "-b", "1", "-b", "64", "--fp16"], folder)
    padded, packed = (str(folder / f"{name}.engine") for name in engines)
    asked = ["-p", "Paris is the capital of France.", "-q", "What is the capital of France?"]
    timed = ["-s", "384", "-b", "64", "-i", "3", "-w", "1"]
    new = ["-pt", str(folder / "model"), "-s", "64", "-b", "8", "-o", str(folder / "new.engine"), "--backend", "tensorrt"]
    c_perf = str(built / "perf")

    def extended(script: str, arguments: list[str]) -> list[str]:
        python, *rest = command(script, arguments)
        return [python, "-c", WITH_EXTENSION, str(built), *rest]

    return {
        "builds padded float32": command("builder.py", new),
        "builds packed float16": command("builder_varseqlen.py", [*new, "--fp16"]),
        "asks, pycuda": command("inference.py", ["-e", packed, *asked]),
        "times, pycuda": command("perf.py", ["-e", padded, *timed]),
        "asks, extension": extended("inference_c.py", ["-e", packed, *asked]),
        "times, graphs": extended("perf.py", ["-e", padded, *timed, "--enable-graph", "--end-to-end"]),
        "build/perf": [c_perf, "-e", packed, *timed],
        "build/perf, graphs": [c_perf, "-e", padded, *timed, "--enable_graph", "--threads", "2"],
    }


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with how a command ended, or ""."""
    if done.returncode not in (0, 1, 2):
        return f"exit {done.returncode}: {done.stderr[-300:]}"
    lines = [line for line in re.split("[\r\n]+", done.stderr) if line]
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != (done.returncode != 0):
        return f"exit {done.returncode} with {len(errors)} errors: {done.stderr[-300:]}"
    if errors and lines[-1] != errors[0]:
        return f"more after the error: {done.stderr[-300:]}"
    return "a traceback" if "Traceback" in done.stderr else ""


def tell(what: str, name: str, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    print(f"{what}, {name}: exit {done.returncode} {done.stderr.splitlines()[-1:] if done.returncode else ''}")
    return done


def run(name: str, arguments: list[str], what: str) -> subprocess.CompletedProcess[str]:
    return tell(what, name, subprocess.run(arguments, cwd=ROOT, stderr=subprocess.PIPE, timeout=PATIENCE, **PIPES))


@pytest.mark.parametrize("free", FREE, ids=lambda mib: f"{mib}MiB")
def test_little_memory(commands: dict[str, list[str]], free: int) -> None:
    with hog() as memory:
        left = memory.leave(free)
        results = {name: run(name, arguments, f"{left} MiB") for name, arguments in commands.items()}
    assert {name: said for name, done in results.items() if (said := outcome(done))} == {}
    if free == FREE[0]:
        assert {done.returncode for done in results.values()} <= {1, 2}
        assert [name for name, done in results.items() if "memory" not in done.stderr] == []


def test_enough_memory(commands: dict[str, list[str]]) -> None:
    """Or the others would prove nothing."""
    with hog() as memory:
        left = memory.leave(PLENTY)
        results = {name: run(name, arguments, f"{left} MiB") for name, arguments in commands.items()}
    assert {name: done.stderr for name, done in results.items() if done.returncode} == {}


@pytest.mark.parametrize("delay", DELAYS, ids=lambda seconds: f"{seconds}s")
def test_memory_that_goes_while_it_is_used(commands: dict[str, list[str]], delay: float) -> None:
    wrong = {}
    for name, arguments in commands.items():
        with hog() as memory, subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, **PIPES) as process:
            time.sleep(delay)
            left = memory.leave(0)
            out, err = process.communicate(timeout=PATIENCE)
        done = subprocess.CompletedProcess(arguments, process.returncode, out, err)
        wrong[name] = outcome(tell(f"{left} MiB after {delay} s", name, done))
    assert {name: said for name, said in wrong.items() if said} == {}
