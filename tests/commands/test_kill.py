"""What `kill -9` leaves at any moment, and what two processes leave that write the same files: all of an output, or none.

KILLS=200 kills that many times instead of a few.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

from helpers import engine_file
from helpers.reader import Reader
from tests.inputs import read, write_squad
from tests.models import small_config, small_tensors, write_model
from tests.running import PATIENCE, command, listing, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

KILLS = int(os.environ.get("KILLS", 2))  # of each command
QUESTIONS = [(f"the cat sat on mat {i}", ("who sat", "where", "what is it")) for i in "abcdefghij"]
IDS = [f"{p} {q}" for p in range(len(QUESTIONS)) for q in range(3)]


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A small model, an engine of it, questions, and files that are nobody's business."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copytree(small / "model", folder / "model")
    for name in ("padded.engine", "padded.engine.json"):
        shutil.copy(small / name, folder)
    write_squad(folder / "squad.json", *QUESTIONS)
    for name in (".0123456789abcdef.part", ".1.part", "notes.json", "out.engine.part", "out.json~"):
        (folder / name).write_text(name)
    return folder


# What is whole


def check_build(folder: Path) -> None:
    """An engine is that of its description, and answers; a calibration cache has all ranges."""
    for engine in folder.glob("*.engine"):
        with Reader.open(engine) as reader:
            assert reader.answer("who sat", "the cat").text in "the cat"
    for cache in folder.glob("*.cache"):
        values = read(cache)
        assert len(values["stamp"]) == 64 and len(values["ranges"]) > 10


def check_answers(folder: Path) -> None:
    """The predictions vouch for the n-best lists."""
    if (folder / "out.json").exists():
        predictions, nbest = read(folder / "out.json"), read(folder / "nbest_out.json")
        assert list(predictions) == list(nbest) == IDS
        assert predictions == {key: candidates[0]["text"] for key, candidates in nbest.items()}
    for path in folder.glob("out.json.partial"):
        assert set(read(path)) <= set(IDS)


class Victim(NamedTuple):
    """A command, the files that it may leave, and what finds out whether they are whole."""

    script: str
    args: str
    outputs: tuple[str, ...]
    check: Callable[[Path], None]


BACKEND = "--backend onnxruntime"
VICTIMS = {
    "build": Victim(
        "builder.py",
        f"-pt model -o out.engine -b 4 -s 64 {BACKEND}",
        ("out.engine", "out.engine.json"),
        check_build,
    ),
    "calibration": Victim(
        "builder.py",
        f"-pt model -o out.engine -b 4 -s 64 -i -j squad.json -n 20 -p out.cache {BACKEND}",
        ("out.engine", "out.engine.json", "out.cache"),
        check_build,
    ),
    "scoring": Victim(
        "inference.py",
        "-e padded.engine -sq squad.json -o out.json",
        ("out.json", "nbest_out.json", "out.json.partial"),
        check_answers,
    ),
}


def begin(script: str, args: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(script, args), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(script: str, args: str, folder: Path, seconds: float) -> float | None:
    """Kills a run after so many seconds; if it ended before, gives how long it took."""
    start = time.monotonic()
    process = begin(script, args, folder)
    with suppress(subprocess.TimeoutExpired):
        assert process.wait(seconds) == 0
        return time.monotonic() - start
    process.kill()
    return None if process.wait(PATIENCE) else time.monotonic() - start


@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS)
def test_killed_at_any_moment(folder: Path, victim: Victim) -> None:
    """Half of the time in its last fifth, in which it writes; its own older outputs are there half of the time."""
    generator, count = random.Random(victim.args), 0
    others = {name: content for name, content in listing(folder).items() if name not in victim.outputs}
    seconds = killed(victim.script, victim.args, folder, PATIENCE) or 0.0
    whole = {name: (folder / name).exists() for name in victim.outputs}
    while count < KILLS:
        if count % 2:
            for name in victim.outputs:
                (folder / name).unlink(missing_ok=True)
        took = killed(victim.script, victim.args, folder, seconds * generator.uniform(0 if count % 4 in (0, 3) else 0.8, 1))
        if took:  # the machine has less to do than before
            seconds = took
        count += not took
        victim.check(folder)
        left = {name: content for name, content in listing(folder).items() if name not in victim.outputs}
        # Nobody is there to remove what was under way; its name tells that it is.
        for name in left.keys() - others.keys():
            assert re.fullmatch(r"\.[0-9a-f]{16}\.part", name) and (folder / name).is_file()
            (folder / name).unlink()
            del left[name]
        assert left == others
    succeeds(victim.script, victim.args, folder)
    victim.check(folder)
    assert {name: (folder / name).exists() for name in victim.outputs} == whole


AT_AN_EVENT = """
import os, signal, sys
left = None
def hook(event, arguments):
    global left
    if event == "cpython.run_file":
        left = int(os.environ["KILLED_AT"])
    elif left is not None and (event in ("os.rename", "os.remove") or event == "open" and ".part" in str(arguments[0])):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


@pytest.mark.parametrize("victim", [VICTIMS["calibration"], VICTIMS["scoring"]], ids=["calibration", "scoring"])
def test_killed_between_two_steps_of_writing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: Victim
) -> None:
    """Before each file that is opened, moved or removed, until a run has no more of these steps."""
    (tmp_path / "sitecustomize.py").write_text(AT_AN_EVENT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    bystanders = {name: content for name, content in listing(folder).items() if name not in victim.outputs}
    for step in range(1, 100):
        monkeypatch.setenv("KILLED_AT", str(step))
        code = begin(victim.script, victim.args, folder).wait(PATIENCE)
        victim.check(folder)
        assert bystanders.items() <= listing(folder).items()
        if not code:
            break
        assert code == -9
    assert step > 4


# Two at once


def test_of_two_builds_one_wins_whole(folder: Path) -> None:
    """Of different models, into one file; alone they give the engines that it must be one of."""
    write_model(folder / "other", small_config(), small_tensors(hidden_act="gelu"))
    (folder / "other/config.json").write_text(json.dumps({**small_config().to_dict(), "hidden_act": "relu"}))
    args = {name: f"-pt {name} -o {{}} -b 4 -s 64 {BACKEND}" for name in ("model", "other")}
    alone = {}
    for name, each in args.items():
        succeeds("builder.py", each.format(f"{name}.engine"), folder)
        alone[name] = (folder / f"{name}.engine").read_bytes(), engine_file.read_description(folder / f"{name}.engine")
    assert alone["model"][0] != alone["other"][0]
    for _ in range(max(2, KILLS // 20)):
        processes = [begin("builder.py", each.format("both.engine"), folder) for each in args.values()]
        assert [process.wait(PATIENCE) for process in processes] == [0, 0]
        found = (folder / "both.engine").read_bytes(), engine_file.read_description(folder / "both.engine")
        assert found in alone.values()
        check_build(folder)
    assert not [path for path in folder.glob(".*.part") if path.name not in (".0123456789abcdef.part", ".1.part")]


def test_of_two_scorings_one_wins_whole(folder: Path) -> None:
    flags = {"long": "--max-answer-length 9", "short": "--max-answer-length 1"}
    alone = {}
    for name, each in flags.items():
        succeeds("inference.py", f"-e padded.engine -sq squad.json -o {name}.json {each}", folder)
        alone[name] = read(folder / f"{name}.json"), read(folder / f"nbest_{name}.json")
    assert alone["long"] != alone["short"]
    for _ in range(max(2, KILLS // 20)):
        processes = [
            begin("inference.py", f"-e padded.engine -sq squad.json -o out.json {each}", folder) for each in flags.values()
        ]
        assert [process.wait(PATIENCE) for process in processes] == [0, 0]
        assert (read(folder / "out.json"), read(folder / "nbest_out.json")) in alone.values()
