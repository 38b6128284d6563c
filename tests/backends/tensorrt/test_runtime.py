"""What an abort in a library does to the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.running import PATIENCE, ROOT

ABORTS = {
    "with the GIL": "os.abort()",
    "without": "ctypes.CDLL(None).abort()",
    "in a thread": "t = threading.Thread(target=ctypes.CDLL(None).abort); t.start(); t.join()",
}


@pytest.mark.parametrize("abort", ABORTS.values(), ids=ABORTS)
def test_an_abort_is_told_in_a_line(abort: str) -> None:
    code = f"import ctypes, os, threading; from helpers.backends.tensorrt import runtime; runtime.tell_of_aborts(); {abort}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a library of NVIDIA's gave up") and done.stderr.count("\n") == 1


def test_whoever_looks_after_aborts_goes_on_doing_so() -> None:
    code = "import faulthandler, os; faulthandler.enable(); from helpers.backends.tensorrt import runtime; "
    code += "runtime.tell_of_aborts(); os.abort()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert done.returncode == -6
    assert "Fatal Python error: Aborted" in done.stderr
