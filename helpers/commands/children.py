"""Programs that a script runs, and a folder for what they make: a signal that ends the script ends and removes them too."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers.commands.process import at_end

GRACE = 0.5  # seconds that a program has to end by itself

_starting = threading.Lock()  # whoever has it starts a program, or has ended what runs, for good


def run(command: Sequence[str | Path | int | float], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program, without input, and gives what it prints; `options` are those of subprocess.Popen."""
    words = [str(word) for word in command]
    started: list[subprocess.Popen[str]] = []
    with at_end(lambda: end(started)):
        with _starting:
            # In a session of its own, whose processes are ended together, and where Ctrl-C does not come first.
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                **options,
            )
            started.append(child)
        printed, complained = child.communicate()
        with _starting:  # where it was ended nothing else begins
            return subprocess.CompletedProcess(words, child.returncode, printed, complained)


def end(started: Sequence[subprocess.Popen[str]]) -> str:
    """Ends programs and all that they started. No other is started after that."""
    _starting.acquire()
    for child in started:
        with suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(GRACE)
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    return ""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed in the end, whichever it is."""

    def remove() -> str:
        shutil.rmtree(name, ignore_errors=True)
        return ""

    with tempfile.TemporaryDirectory() as name, at_end(remove):
        yield Path(name)
