"""SIGINT, SIGTERM and SIGHUP at any moment: a quick end, one line, nothing half done left, nothing that is done lost."""

from __future__ import annotations

import itertools
import json
import os
import pty
import random
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from tests.commands.test_process import SIGNALS, SOON, program
from tests.inputs import questions_of, read, write_squad
from tests.running import MODEL, PATIENCE, ROOT, command, listing, read_until, start, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

# Questions of one window each, and copies of them: more than can be answered before a signal comes.
PASSAGES = (
    ("The lighthouse of Arkona is forty-two metres tall and was lit in 1902.", ("How tall is it?", "When was it lit?")),
    (
        "A ferry leaves the harbour at noon; it carries tea from Krak\u00f3w.",
        ("What does the ferry carry?", "When does it leave?"),
    ),
)
COPIES = 1000


@pytest.fixture(scope="module")
def busy(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with work that takes long: many questions, many texts, and an engine whose every run is long."""
    folder = tmp_path_factory.mktemp("busy")
    for name in ("padded.engine", "packed.engine"):
        for file in (name, f"{name}.json"):
            os.link(minilm / file, folder / file)
    document = read(write_squad(folder / "few.json", *PASSAGES))
    articles = json.dumps(document["data"])
    document["data"] = [each for copy in range(COPIES) for each in json.loads(articles.replace('"id": "', f'"id": "{copy}#'))]
    (folder / "many.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "texts.txt").write_text("the cat sat on the mat\n" * 20_000)
    model = shlex.quote(str(MODEL))
    flags = f"-pt {model} --backend onnxruntime"
    succeeds("builder.py", f"{flags} -o long.engine -b 128 -s 384", folder)
    succeeds("builder.py", f"{flags} -o vectors.engine --task feature-extraction", folder)
    (folder / "model").symlink_to(MODEL)
    return folder


# What is going on when the signal comes


def says(pattern: bytes) -> Callable[[subprocess.Popen[bytes], Path], None]:
    def wait(process: subprocess.Popen[bytes], folder: Path) -> None:
        read_until(process.stderr, pattern)

    return wait


def until(reached: Callable[[int, Path], bool]) -> Callable[[subprocess.Popen[bytes], Path], None]:
    def wait(process: subprocess.Popen[bytes], folder: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not reached(process.pid, folder):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.002)

    return wait


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Work(NamedTuple):
    """A command line, and what waits until its work is under way."""

    script: str
    args: str
    wait: Callable[[subprocess.Popen[bytes], Path], None]


SCORING = Work("inference.py", "-e padded.engine -sq many.json -o out.json -b 1", says(rb"[1-9]\d*/4000 "))
# A batch of 128 takes some seconds, and a GiB, of which nothing is taken before it is run.
LONG = Work("perf.py", "-e long.engine -b 128 -s 384 -w 0 -i 100", until(lambda pid, _: resident(pid) > 700 << 20))
UNDER_WAY = {
    "scoring": SCORING,
    "scoring packed": Work("inference_varseqlen.py", SCORING.args.replace("padded", "packed"), SCORING.wait),
    "reading texts": Work("inference.py", "-e vectors.engine -pf texts.txt -o out.json", says(rb"[1-9]\d*/20000 ")),
    "starting a build": Work(
        "builder.py",
        "-pt model -o out.engine --backend onnxruntime",
        until(lambda pid, _: "model.safetensors" in Path(f"/proc/{pid}/maps").read_text()),
    ),
    "writing an engine": Work(
        "builder_varseqlen.py",
        "-pt model -o out.engine --backend onnxruntime",
        until(lambda _, folder: any(folder.glob(".*.part"))),
    ),
    "calibrating": Work(
        "builder.py",
        "-pt model -o out.engine -i -j many.json -p out.cache -n 300 -s 128 --backend onnxruntime",
        says(rb"Calibrating: +\d+%.* [1-9]\d*/300 "),
    ),
    "a long run": LONG,
}


# Every signal where most is at stake, and where the main thread is out of reach; elsewhere one of them.
EVERY = [(name, number) for name in ("scoring", "a long run") for number in SIGNALS]
ONE = list(zip([name for name in UNDER_WAY if (name, signal.SIGINT) not in EVERY], itertools.cycle(SIGNALS)))


@pytest.mark.parametrize(("name", "number"), EVERY + ONE)
def test_a_signal(busy: Path, tmp_path: Path, name: str, number: signal.Signals) -> None:
    work = UNDER_WAY[name]
    for file in busy.iterdir():
        (tmp_path / file.name).symlink_to(file)
    before = listing(tmp_path)
    with start(work.script, work.args, tmp_path) as process:
        work.wait(process, tmp_path)
        begin = time.monotonic()
        process.send_signal(number)
        code = process.wait(PATIENCE)
        assert time.monotonic() - begin < SOON
        assert process.stderr
        errors = process.stderr.read().decode()
    assert "Traceback" not in errors
    after = listing(tmp_path)
    partial = after.pop("out.json.partial", None)
    if name == "writing an engine" and code == 0:  # it was whole in that moment
        assert {*after} - {*before} == {"out.engine", "out.engine.json"}
        return
    assert code == 128 + number
    assert after == before
    *_, last = errors.replace("\r", "\n").splitlines()
    assert last == SIGNALS[number]
    assert (partial is not None) == ("out.json" in work.args)
    if partial is not None:
        count = int(re.findall(r"\n(\d+) of \d+ \w+ done, kept in out\.json\.partial\n", errors)[-1])
        check_kept(busy, partial, count)


def check_kept(busy: Path, partial: bytes, count: int) -> None:
    """What is kept is what a whole run would have written."""
    lines = partial.decode().splitlines()
    if lines[0] != "{":  # an object a text
        rows = [json.loads(line) for line in lines]
        assert len(rows) == count and all(row["text"] == "the cat sat on the mat" for row in rows)
        assert all(row["vector"] == rows[0]["vector"] for row in rows)
        return
    kept = json.loads(partial)
    assert 0 < len(kept) == count < COPIES * 4
    whole = busy / "whole.json"
    if not whole.exists():
        succeeds("inference.py", "-e padded.engine -sq few.json -o whole.json -b 1", busy)
    answers = read(whole)
    assert kept == {key: answers[key.split("#")[1]] for key in kept}
    asked = list(questions_of(read(busy / "many.json")))
    assert list(kept) == sorted(kept, key=asked.index)


def test_the_parent_ignores_ctrl_c(busy: Path, tmp_path: Path) -> None:
    """As a shell does for what it starts in its background."""
    with subprocess.Popen(
        command("inference.py", f"-e {busy / 'padded.engine'} -sq {busy / 'many.json'} -o out.json -b 1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        read_until(process.stderr, rb"[1-9]\d*/4000 ")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.partial"]


# On a terminal


class Session(NamedTuple):
    """A process on a terminal of its own, and our end of it."""

    process: subprocess.Popen[bytes]
    terminal: int

    def see(self, pattern: bytes) -> bytes:
        seen, end = b"", time.monotonic() + PATIENCE
        while not re.search(pattern, seen):
            assert select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))[0], seen
            seen += os.read(self.terminal, 4096)
        return seen

    def rest(self) -> str:
        """What it says until its end."""
        seen = b""
        while select.select([self.terminal], [], [], 0.2)[0]:
            seen += os.read(self.terminal, 4096)
        return seen.decode()


@contextmanager
def on_a_terminal(arguments: list[str], folder: Path) -> Iterator[Session]:
    ours, theirs = pty.openpty()
    begin = (
        f"import os, sys; os.setsid(); os.close(os.open({os.ttyname(theirs)!r}, os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    pipes: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", begin, *arguments], cwd=folder, env=environment, **pipes)
    try:
        yield Session(process, ours)  # with their end open, so that its settings outlast the process
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("number", SIGNALS)
def test_at_the_prompt(work: Path, number: signal.Signals) -> None:
    before = listing(work)
    with on_a_terminal(command("inference.py", "-e padded.engine -p the cat sat"), work) as session:
        settings = termios.tcgetattr(session.terminal)
        session.see(rb"quit\)\? ")
        os.write(session.terminal, b"where is it")
        session.see(b"where is it")
        begin = time.monotonic()
        if number == signal.SIGINT:
            os.write(session.terminal, b"\x03")
        else:
            session.process.send_signal(number)
        assert session.process.wait(PATIENCE) == 128 + number
        assert time.monotonic() - begin < SOON
        assert session.rest().replace("^C", "").split("\r\n") == ["", SIGNALS[number], ""]
        assert termios.tcgetattr(session.terminal) == settings
    assert listing(work) == before


def test_the_settings_of_the_terminal_are_put_back(tmp_path: Path) -> None:
    with on_a_terminal(program("import tty\ntty.setraw(0)\nprint('raw', flush=True)\ntime.sleep(1000)"), tmp_path) as session:
        settings = termios.tcgetattr(session.terminal)
        session.see(b"raw")
        assert termios.tcgetattr(session.terminal) != settings
        session.process.send_signal(signal.SIGTERM)
        assert session.process.wait(PATIENCE) == 143
        assert termios.tcgetattr(session.terminal) == settings


# In the beginning

SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "scripts", ROOT / "squad")
    for path in folder.glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
MOMENTS = (1, 2, 3, 5, 8, 12, 20, 30, 45, 70, 100, 150, 220, 320, 450)  # imports of a script, by their number
AT_AN_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
left = None
def hook(event, arguments):
    global left
    if event == "cpython.run_file":
        left = int(os.environ["INTERRUPTED_AT"])
    elif event == "import" and left is not None and arguments[0] not in ("__future__", "helpers", "helpers.commands"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_starts(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """At some of its imports, the first ones among them.

    Before that it is Python that starts, for some 20 ms, and says what it likes; so are the two modules found by which
    a script begins, the second of which sees to it that there is no traceback from there on.
    """
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    for moment in random.Random(script).sample(MOMENTS[:6], 2) + random.Random(script).sample(MOMENTS[6:], 1):
        monkeypatch.setenv("INTERRUPTED_AT", str(moment))
        done = subprocess.run(
            command(script, "-e padded.engine -p the cat -q why" if script.startswith("inference") else "--help"),
            cwd=small,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        assert "Traceback" not in done.stderr, (moment, done.stderr)
        assert done.returncode == 130 or moment > 12  # some have no more imports
