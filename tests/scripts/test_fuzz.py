"""scripts/fuzz.py: some cases of every target, and that it tells of whatever may not happen."""

from __future__ import annotations

import importlib.util
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.running import ROOT, refused, run, shell

SCRIPT = "scripts/fuzz.py"
CASES = 30  # of each target


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = re.findall(r'^    "(\w+)": Target\(', (ROOT / SCRIPT).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_target_is_among_these(fuzz: ModuleType) -> None:
    assert list(fuzz.TARGETS) == TARGETS


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "timing"])
def test_some_cases(fuzz: ModuleType, tmp_path: Path, name: str) -> None:
    """Most of what is spoilt is refused; nothing is kept."""
    (tmp_path / "files").mkdir()
    said: list[str] = []
    worker = fuzz.Worker(name, tmp_path / "files", tmp_path / "kept", said.append)
    worker.mutate(1, CASES)
    kept = {path.name: path.read_text() for path in (tmp_path / "kept").glob("*.txt")}
    assert (said, kept) == ([""] * CASES, {})
    assert len(worker.seen) > 1  # that is, it was read, and refused


@pytest.mark.gpu
def test_some_timing_caches(fuzz: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    test_some_cases(fuzz, tmp_path, "timing")


def test_nothing_found(tmp_path: Path) -> None:
    done = shell(SCRIPT, "squad --seconds 0.5 --seed 3", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"squad: [1-9]\d* cases, 0 kept\n", done.stdout)
    assert list(tmp_path.iterdir()) == []


BUGS = {
    "raise KeyError('an error of another kind')": "KeyError: 'an error of another kind'",
    "bytearray(2 << 30)": "MemoryError",
    "while True: pass": "it was still at it after 1 s",
    "os.abort()": "it died with status -6",
}
PLANTED = """
import os
from helpers.errors import InputError
from helpers.qa import squad

calls, read = [], squad.read
def spoilt(path):
    calls.append(path)
    if len(calls) == 3:
        {bug}
    return read(path)
squad.read = spoilt
"""


@pytest.mark.parametrize(("bug", "says"), BUGS.items(), ids=BUGS)
def test_what_is_found(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], bug: str, says: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PLANTED.format(bug=bug))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 1.0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        fuzz.main(["squad", "--seconds", "1", "-o", "kept"])
    output, errors = capfd.readouterr()
    assert end.value.code == 1
    kept = sorted((tmp_path / "kept").glob("*.json"))  # a worker that died is followed by another, which may find it again
    assert re.fullmatch(rf"squad: \d+ cases, {len(kept)} kept\n", output)
    named = ", ".join(f"kept/{case.name}" for case in kept)
    said = errors.replace("\r", "\n").splitlines()[-1].strip()
    assert said == f"error: {len(kept)} cases end otherwise than in one line: {named}"
    for case in kept:
        assert re.fullmatch(r"squad-[0-9a-f]{12}-squad\.json", case.name)
        assert says in case.with_name(f"{case.name}.txt").read_text()


def test_a_case_again(tmp_path: Path) -> None:
    for name, content, code in (("squad-1-squad.json", "[]", 2), ("squad-2-squad.json", "[" * 10**5, 2)):
        (tmp_path / name).write_text(content)
        done = run(SCRIPT, f"squad --case {name}", tmp_path)
        assert (done.returncode, done.stderr.count("\n"), done.stderr[:6]) == (code, 1, "error:")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("squat", "there is no target 'squat': choose of safetensors, index, "),
        ("--case x", "--case is of one target: name it"),
        ("--seconds -1", "argument --seconds"),
    ],
)
def test_refused(tmp_path: Path, args: str, says: str) -> None:
    refused(SCRIPT, args, tmp_path, says)


def test_what_is_spoilt_is_told_by_the_seed(fuzz: ModuleType) -> None:
    content = b'{"a": [1, {"b": "c"}]}'
    made = [[spoil(content) for _ in range(200)] for spoil in (fuzz.Spoiler(random.Random(seed)) for seed in (1, 1, 2))]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 150
