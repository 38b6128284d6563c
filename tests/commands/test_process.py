"""A command as a process: its exit status, its streams, and its end by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import process
from tests.running import PATIENCE, ROOT, read_until

SOON = 3.0  # seconds; an end takes 1 at most, and starting it longer where much else runs


def program(body: str) -> list[str]:
    """A script whose command is this."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    head = "import ctypes, os, signal, sys, threading, time\nfrom helpers.commands import process\n"
    names = "from helpers import files\nfrom helpers.errors import InputError\n"
    return [sys.executable, "-c", f"{head}{names}def main(argv):\n{lines}process.main(main)"]


def start(body: str, *args: str, **named: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **named.pop("env", {})}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **named}
    return subprocess.Popen([*program(body), *args], env=environment, **pipes)


def run(body: str, *args: str, **named: Any) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of such a script."""
    with start(body, *args, **named) as done:
        output, errors = done.communicate(timeout=PATIENCE)
    return done.returncode, (output or b"").decode(), (errors or b"").decode()


# Status


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, ""),
        ("raise InputError('a file is absent')", 2, "error: a file is absent\n"),
        ("raise InputError('it is absent', 'name it with {vocab_file}')", 2, "error: it is absent: name it with -v\n"),
        ("raise InputError('a\\nb\\x1b[31m \\x9b1m\\tc')", 2, "error: a b\\x1b[31m \\x9b1m c\n"),
        ("raise InputError('\\udcff 中')", 2, "error: \\udcff 中\n"),
        ("raise RuntimeError('it broke')", 1, "error: RuntimeError: it broke\n"),
        ("raise KeyError", 1, "error: KeyError\n"),
        ("raise MemoryError", 1, "error: out of memory\n"),
        ("def deep(): deep()\ndeep()", 1, "error: RecursionError: maximum recursion depth exceeded\n"),
        ("open('/absent/file')", 1, "error: FileNotFoundError: [Errno 2] No such file or directory: '/absent/file'\n"),
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, ""),
    ],
)
def test_status(body: str, code: int, says: str) -> None:
    found, output, errors = run(body, env={"PYTHONIOENCODING": "utf-8"})
    assert (found, output) == (code, "")
    # Some versions of Python add to what a recursion says.
    assert re.fullmatch(re.escape(says).replace(r"exceeded\n", r"exceeded.*\n"), errors), errors


def test_verbose() -> None:
    code, _, errors = run("raise InputError('a file is absent')", "--verbose")
    assert (code, errors.splitlines()[-1]) == (2, "error: a file is absent")
    assert errors.startswith("Traceback") and ", in main\n" in errors


# Streams


CLOSED = {name: lambda number=number: os.close(number) for number, name in enumerate(("stdin", "stdout", "stderr"))}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_stream_leads_nowhere(tmp_path: Path, name: str) -> None:
    """Above all not into the next file that is opened, which gets the lowest descriptor that is free."""
    body = (
        "file = open(argv[0], 'wb')\nprint('out', flush=True)\nprint('err', file=sys.stderr)\n"
        "assert sys.stdin.read() == ''\nfile.write(b'x')\nraise InputError('wrong')"
    )
    code, output, errors = run(body, str(tmp_path / "file"), preexec_fn=CLOSED[name])
    assert (code, (tmp_path / "file").read_bytes()) == (2, b"x")
    assert output == ("" if name == "stdout" else "out\n")
    assert errors == ("" if name == "stderr" else "err\nerror: wrong\n")


def test_all_streams_closed(tmp_path: Path) -> None:
    body = "open(argv[0], 'w').write('x')\nprint('out')\nraise InputError('wrong')"
    code, *_ = run(body, str(tmp_path / "file"), preexec_fn=lambda: os.closerange(0, 3))
    assert (code, (tmp_path / "file").read_text()) == (2, "x")


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)", "print('x', flush=True)", "sys.stdout.write('x')"])
def test_a_full_disk_is_told_once(body: str) -> None:
    """With status 120 and a traceback Python would end by itself."""
    with open("/dev/full", "wb") as full:
        done = run(body, stdout=full)
    assert done == (1, "", "error: standard output cannot be written: No space left on device\n")


def test_nothing_is_said_where_standard_error_is_full() -> None:
    with open("/dev/full", "wb") as full:
        assert run("print('x')\nraise InputError('wrong')", stderr=full)[:2] == (2, "x\n")


@pytest.mark.parametrize(
    "body", ["print('x' * 10**6)", "for i in range(10**6): print(i, flush=True)", "print('x')\ntime.sleep(.3)"]
)
def test_a_reader_that_has_seen_enough(body: str) -> None:
    reader, writer = os.pipe()
    with start(body, stdout=writer) as done:
        os.close(writer)
        os.close(reader)
        _, errors = done.communicate(timeout=PATIENCE)
    assert (done.returncode, errors) == (1, b"")


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_characters_that_an_encoding_lacks_are_escaped(env: dict[str, str]) -> None:
    code, output, errors = run("print('\\xe9 \\u4e2d \\ud800')\nraise InputError('\\xe9')", env=env)
    assert (code, output, errors) == (2, "\\xe9 \\u4e2d \\ud800\n", "error: \\xe9\n")


# Signals


SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "interrupted by SIGTERM", signal.SIGHUP: "interrupted by SIGHUP"}
READY = "print(flush=True)\n"
WAITS = {
    "between steps": "while True: pass",
    "asleep": "time.sleep(1000)",
    "in a library": "ctypes.CDLL(None).sleep(1000)",
    "waiting for a lock": "lock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "where all is caught": "while True:\n    try: time.sleep(1000)\n    except BaseException: pass",
    "writing what nobody reads": "while True: os.write(1, bytes(65536))",
    "printing what nobody reads": "while True: print('x' * 65536)",
}


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, str]:
    """Sends a signal that must end a process soon; its status, and what it said."""
    assert process.stderr
    start = time.monotonic()
    process.send_signal(number)
    code = process.wait(PATIENCE)
    assert time.monotonic() - start < SOON
    return code, process.stderr.read().decode()


@pytest.mark.parametrize(
    ("wait", "number"), [*((wait, signal.SIGTERM) for wait in WAITS), *(("in a library", number) for number in SIGNALS)]
)
def test_a_signal_ends_a_process_soon(wait: str, number: signal.Signals) -> None:
    with start(READY + WAITS[wait]) as done:
        read_until(done.stdout, b"\n")
        code, errors = ended(done, number)
    assert code == 128 + number
    assert errors == f"\n{SIGNALS[number]}\n"


def ignoring(number: signal.Signals) -> Any:
    return lambda: signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_parent_ignores_ends_it_all_the_same(number: signal.Signals) -> None:
    """As a shell ignores Ctrl-C for what it starts in its background."""
    with start(READY + "time.sleep(1000)", preexec_fn=ignoring(number)) as done:
        read_until(done.stdout, b"\n")
        assert ended(done, number) == (128 + number, f"\n{SIGNALS[number]}\n")


def test_nohup() -> None:
    with start(READY + "time.sleep(0.3)\nprint('done')", preexec_fn=ignoring(signal.SIGHUP)) as done:
        read_until(done.stdout, b"\n")
        done.send_signal(signal.SIGHUP)
        output, errors = done.communicate(timeout=PATIENCE)
    assert (done.returncode, output, errors) == (0, b"done\n", b"")


KEEP = """
def keep():
    open(argv[0], 'w').write('kept')
    return 'it is kept'
def fail():
    raise RuntimeError('wrong')
with process.at_end(fail), process.at_end(lambda: ''), process.at_end(keep):
    pass
with process.at_end(fail), process.at_end(lambda: ''), process.at_end(keep):
    print(flush=True)
    time.sleep(1000)
"""


def test_what_is_done_at_the_end(tmp_path: Path) -> None:
    with start(KEEP, str(tmp_path / "file")) as done:
        read_until(done.stdout, b"\n")
        assert ended(done, signal.SIGINT) == (130, "\nit is kept\ninterrupted\n")
    assert (tmp_path / "file").read_text() == "kept"


def test_nothing_is_done_where_no_signal_comes(tmp_path: Path) -> None:
    assert run(KEEP.replace("1000", "0"), str(tmp_path / "file")) == (0, "\n", "")
    assert not (tmp_path / "file").exists()


def test_what_takes_too_long_at_the_end() -> None:
    with start("with process.at_end(lambda: time.sleep(1000)):\n    print(flush=True)\n    time.sleep(1000)") as done:
        read_until(done.stdout, b"\n")
        assert ended(done, signal.SIGTERM) == (143, "")


def test_several_signals() -> None:
    """As from whoever presses Ctrl-C again and again; the first one counts."""
    body = f"with process.at_end(lambda: print(flush=True) or time.sleep(0.2)):\n    {READY}    time.sleep(1000)"
    with start(body) as done:
        read_until(done.stdout, b"\n")
        done.send_signal(signal.SIGINT)
        read_until(done.stdout, b"\n")
        for _ in range(10):
            done.send_signal(signal.SIGINT)
        assert ended(done, signal.SIGTERM) == (130, "\ninterrupted\n")


ENDLESS = """
from pathlib import Path
class Parts(list):
    def __iter__(self):
        yield b'half'
        print(flush=True)
        time.sleep(1000)
"""


def test_what_is_half_written_is_removed(tmp_path: Path) -> None:
    body = f"{ENDLESS}files.write({{Path(argv[0]): Parts()}})"
    with start(body, str(tmp_path / "file")) as done:
        read_until(done.stdout, b"\n")
        assert len(os.listdir(tmp_path)) == 1
        assert ended(done, signal.SIGTERM) == (143, "\ninterrupted by SIGTERM\n")
    assert os.listdir(tmp_path) == []


def test_in_python_all_is_put_back() -> None:
    """A notebook or a test that runs a script has its own handlers before and after."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with process.ended_by_signals():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
