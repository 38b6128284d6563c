"""The shell scripts, run in a project of nothing but them, with the few programs on the PATH that a test gives them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE


def add_tool(tools: Path, name: str, text: str | None = None) -> None:
    """Adds a program: the system's own, or a script of the given text."""
    if text is None:
        (tools / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is not installed"))
    else:
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)


def run(
    project: Path, script: str, *arguments: str, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script of the project, with PATH that folder alone where one is given."""
    environment = {**os.environ, "no_proxy": "127.0.0.1", **variables}
    if path:
        environment["PATH"] = str(path)
    command = [shutil.which("bash") or "bash", f"scripts/{script}.sh", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def refused(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    """The script failed with this code, and its last word is this error."""
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, f"error: {says}")


# Processes that a script starts


def child_of(process: subprocess.Popen[Any]) -> str:
    """The number of a process that a script's main thread has started, once there is one."""
    end, listed = time.monotonic() + PATIENCE, Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := listed.read_text().split()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return found[0]


def is_alive(pid: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def wait_for_end(*pids: str) -> None:
    """Of processes that were killed, which take a moment."""
    end = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)
