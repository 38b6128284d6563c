"""What the tests of TensorRT share: engines that are built quickly, and once for each of their files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.backends.tensorrt import build
from tests.backends.tensorrt.building import NVCC, cmake
from tests.running import MODEL, succeeds
from tests.tensorrt_engines import Engines


@pytest.fixture(scope="module", autouse=True)
def quick_builds() -> Iterator[None]:
    """The first kernel that works, not the fastest: these tests ask what engines compute, not how fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "OPTIMIZATION_LEVEL", 0)
        yield


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return Engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 engine of the bundled model, for 4 windows of 128 tokens."""
    path = tmp_path_factory.mktemp("bundled") / "qa.engine"
    succeeds("builder.py", ["-pt", str(MODEL), "-o", str(path), "-s", "128", "-b", "4", "--fp16"], path.parent)
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension and perf, built as the README says."""
    if not os.environ.get("TENSORRT_ROOT"):
        pytest.skip("TENSORRT_ROOT does not name a TensorRT with headers and libraries")
    if shutil.which("cmake") is None or not NVCC:
        pytest.skip("CMake and the CUDA toolkit are needed to build the extension")
    folder = tmp_path_factory.mktemp("build")
    done = cmake(folder, f"TensorRT_ROOT={os.environ['TENSORRT_ROOT']}")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["make", "-j2"], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return folder
