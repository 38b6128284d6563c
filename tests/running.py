"""The scripts as their users run them: the exit status, what is printed, and what is left behind."""

from __future__ import annotations

import os
import re
import runpy
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO, Union
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/minilm-l6-squad"
PATIENCE = 600  # seconds, for what takes one or two where nothing else runs

# Bytes that are not UTF-8 become lone surrogates where they are typed, as they do in the C locale.
STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "strict"), ("stderr", "w", "backslashreplace"))

Args = Union[str, Sequence[str]]  # as they are typed, or word by word


def words(args: Args) -> list[str]:
    return shlex.split(args) if isinstance(args, str) else [*args]


# In this process


@contextmanager
def redirected(file: IO[bytes], descriptor: int) -> Iterator[None]:
    """Puts a file in the place of a descriptor, which libraries that are not Python's write to as well."""
    before = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Warnings as Python prints them where no test looks for them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def run(script: str, args: Args, folder: Path, typed: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder, with what is typed at its prompts: as a process would, but without the start of one.

    What a process has to itself is put back afterwards: arguments, folder, environment, streams, paths and warnings.
    """
    path = ROOT / script
    argv = [str(path), *words(args)]
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in STREAMS]
        files[0].write(typed)
        files[0].seek(0)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(folder)
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        stack.enter_context(mock.patch.dict(os.environ))
        for descriptor, (file, (name, mode, errors)) in enumerate(zip(files, STREAMS)):
            stack.enter_context(redirected(file, descriptor))
            stream = stack.enter_context(open(descriptor, mode, 1, encoding="utf-8", errors=errors, closefd=False))
            patch.setattr(sys, name, stream)
        stack.enter_context(printed_warnings())
        code: Any = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as e:
            code = e.code or 0
        if not sys.stdout.closed:
            sys.stdout.flush()
        for file in files:
            file.seek(0)
        assert isinstance(code, int)
        return subprocess.CompletedProcess(argv, code, *(file.read().decode() for file in files[1:]))


def succeeds(script: str, args: Args, folder: Path, typed: bytes = b"") -> str:
    """Runs a script that must succeed; returns what it printed."""
    done = run(script, args, folder, typed)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(script: str, args: Args, folder: Path, *says: str) -> str:
    """Runs a script that must refuse: exit 2, one line that names the thing at fault, and not a file changed."""
    before = listing(folder)
    done = run(script, args, folder)
    assert_refusal(done, *says)
    assert listing(folder) == before
    return done.stderr


def assert_refusal(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    for text in says:
        assert text in done.stderr


# In a process of its own


def command(script: str, args: Args = "") -> list[str]:
    return [sys.executable, str(ROOT / script), *words(args)]


def shell(script: str, args: Args, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder as a shell does."""
    return subprocess.run(command(script, args), cwd=folder, capture_output=True, encoding="utf-8", timeout=PATIENCE)


def start(script: str, args: Args, folder: Path) -> subprocess.Popen[bytes]:
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


def read_until(stream: Any, pattern: bytes) -> bytes:
    """What a process writes until it matches a pattern."""
    seen, end = b"", time.monotonic() + PATIENCE
    while not re.search(pattern, seen):
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], f"{pattern!r} not in {seen!r}"
        part = os.read(stream.fileno(), 4096)
        assert part, f"{pattern!r} not in {seen!r}"
        seen += part
    return seen


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    """Waits until a process has written a file."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.02)


@contextmanager
def when_read(pipe: Path, process: subprocess.Popen[Any]) -> Iterator[None]:
    """Waits until a process reads a named pipe, and lets it wait there meanwhile."""
    end, writer = time.monotonic() + PATIENCE, None
    while writer is None:
        assert process.poll() is None and time.monotonic() < end, pipe
        time.sleep(0.02)
        with suppress(OSError):  # nobody reads it yet
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(writer)
