"""The C++ extension and build/perf: built with CMake as the README says, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.running import ROOT

NVCC = shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()


def cmake(folder: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    """Configures a build in a folder, with no TensorRT but the one that a definition names."""
    command = ["cmake", str(ROOT), f"-DPYTHON_EXECUTABLE={sys.executable}", *(f"-D{text}" for text in definitions)]
    # PYTHONHOME is of the Python under test; a CMake from pip is a script for another one.
    environment = {name: value for name, value in os.environ.items() if name not in ("TENSORRT_ROOT", "PYTHONHOME")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")


def perf(built: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(built / "perf"), *map(str, arguments)], capture_output=True, encoding="utf-8")
