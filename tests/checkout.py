"""A checkout of the project as a user has it, and surroundings without the settings of whoever runs the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.running import ROOT

# What was built or fetched here, where there is no git to ask: in an unpacked archive, say.
UNTRACKED = (
    ".git",
    ".venv",
    "build",
    "engines",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.engine",
    "*.engine.json",
    "dev-*.json",
)


def copy_checkout(folder: Path) -> Path:
    """A copy of what git tracks or would track: no engine, nothing else that was built here."""
    if not (shutil.which("git") and (ROOT / ".git").exists()):
        return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*UNTRACKED), dirs_exist_ok=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def surroundings(folder: Path, tensorrt: bool) -> dict[str, str]:
    """An environment with none of the user's own settings of Jupyter, and TensorRT only where it is wanted."""
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    return {name: str(folder) for name in names} | ({} if tensorrt else {"PYTHONPATH": str(hide_tensorrt(folder))})


def hide_tensorrt(folder: Path) -> Path:
    """Makes of a folder one that hides TensorRT, whatever is installed, from a Python that looks there first."""
    (folder / "tensorrt.py").write_text("raise ImportError('none here')\n")
    return folder
