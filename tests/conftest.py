"""What the tests share: a machine without TensorRT, small models and their engines, a project to run shell scripts in."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from helpers.backends.tensorrt import runtime
from tests.checkout import hide_tensorrt
from tests.models import small_config, small_tensors, write_model
from tests.running import MODEL, ROOT, succeeds
from tests.shells import add_tool

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

TOOLS = ("basename", "bash", "dirname", "grep", "mkdir", "mv", "rm", "sed", "sleep", "stat", "touch")


# The machine


@pytest.fixture(scope="module")
def no_tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No TensorRT, whatever is installed, in this process and in those it starts; and lines of help that do not wrap."""
    hidden = str(hide_tensorrt(tmp_path_factory.mktemp("hidden")))
    runtime.load.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", hidden)
        patch.setenv("COLUMNS", "300")
        patch.syspath_prepend(hidden)
        patch.delitem(sys.modules, "tensorrt", raising=False)
        yield


# Models and engines


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose tokens are letters, and its engines: padded for 2 and 4, packed for 4, of 64 tokens."""
    folder = tmp_path_factory.mktemp("small")
    write_model(folder / "model", small_config(), small_tensors())
    backend = "--backend onnxruntime"
    printed = succeeds("builder.py", f"-pt model -o padded.engine -b 2 -b 4 -s 32 -s 64 {backend}", folder)
    assert re.fullmatch(r"Wrote padded\.engine \(\d+\.\d MiB\) and padded\.engine\.json\n", printed)
    printed = succeeds("builder_varseqlen.py", f"-pt model -o packed.engine -b 4 -b 1 -s 64 {backend}", folder)
    assert re.fullmatch(r"Wrote packed\.engine \(\d+\.\d MiB\) and packed\.engine\.json\n", printed)
    (folder / "passage.txt").write_text("the cat sat\non the mat\n")
    (folder / "question.txt").write_text("where\n")
    return folder


@pytest.fixture
def work(small: Path, tmp_path: Path) -> Path:
    """A copy of the small model and its engines, to be spoilt."""
    shutil.copytree(small, tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a padded and a packed engine of the bundled model."""
    folder = tmp_path_factory.mktemp("minilm")
    args = f"-pt {shlex.quote(str(MODEL))} -b 8 -s 128 --backend onnxruntime"
    succeeds("builder.py", f"{args} -o padded.engine", folder)
    succeeds("builder_varseqlen.py", f"{args} -o packed.engine", folder)
    return folder


# Shell scripts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing but the scripts and the folders that they fill."""
    folder = tmp_path / "project"
    for name in ("squad", "models"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder to be all of PATH: the tools that every system has, and neither curl, wget, ngc nor docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        add_tool(folder, name)
    for name in ("python", "python3"):
        add_tool(folder, name, f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} "$@"\n')
    return folder
