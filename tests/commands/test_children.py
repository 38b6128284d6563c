"""Programs that a script runs: what they print, and that they end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import children
from tests.running import PATIENCE, ROOT, wait_for
from tests.shells import is_alive, wait_for_end

# Starts a shell that starts something else, one of both deaf, and waits for it in a folder of its own.
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from helpers.commands import children, process

def main(argv):
    with children.temporary_folder() as folder:
        (folder / "half").write_text("half")
        children.run(["bash", "-c", argv[0], "", folder])
    children.run(["touch", "went-on"])

process.main(main)
"""


def test_run() -> None:
    done = children.run([sys.executable, "-c", "import sys; print(sys.stdin.read() + 'out'); sys.exit(sys.argv[1])", 7.5])
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "7.5\n")
    assert children.run(["bash", "-c", "kill -9 $$"]).returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        children.run(["absent-program"])
    with children.temporary_folder() as folder:
        (folder / "file").touch()
    assert not folder.exists()


@pytest.mark.parametrize("shell", ["", "trap '' TERM; "])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_them(tmp_path: Path, number: signal.Signals, shell: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    work = f"{shell}sleep 1000 & echo $$ $! $1 >.pids; mv .pids pids; wait"
    with subprocess.Popen([sys.executable, "script.py", work], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "pids", process)
        *pids, folder = (tmp_path / "pids").read_text().split()
        assert all(map(is_alive, pids)) and os.listdir(folder) == ["half"]
        sent = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - sent < 2
    assert process.returncode == 128 + number and stderr.splitlines()[-1].startswith("interrupted")
    assert not os.path.exists(folder) and not (tmp_path / "went-on").exists()
    wait_for_end(*pids)
