"""Files are written whole or not at all, never over what is read, and what cannot be written is told before the work starts."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import files
from helpers.errors import InputError
from tests.running import PATIENCE, ROOT, listing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# One file


def test_write_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    files.write_bytes(path, b"one", b"", b"two")
    assert path.read_bytes() == b"onetwo"
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    files.write_bytes(path)
    assert (path.read_bytes(), names(tmp_path)) == (b"", ["out"])


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    """Whoever reads the old file reads it to its end."""
    path = tmp_path / "out"
    path.write_bytes(b"as it was")
    with open(path, "rb") as reader:
        files.write_bytes(path, b"new")
        assert reader.read() == b"as it was"
    assert path.read_bytes() == b"new"


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/out").write_bytes(b"x")
    (tmp_path / "folder/out").chmod(0o640)
    (tmp_path / "link").symlink_to("folder/out")
    (tmp_path / "dangling").symlink_to("folder/absent")
    for name, target in (("link", "folder/out"), ("dangling", "folder/absent")):
        files.write_bytes(tmp_path / name, b"new")
        assert ((tmp_path / name).is_symlink(), (tmp_path / target).read_bytes()) == (True, b"new")
    assert stat.S_IMODE((tmp_path / "folder/out").stat().st_mode) == 0o640
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "folder/absent").stat().st_mode) == 0o666 & ~mask
    assert (names(tmp_path), names(tmp_path / "folder")) == (["dangling", "folder", "link"], ["absent", "out"])


def test_write_json(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None], "b": "中", "half a pair": "\ud83d"}
    files.write_json(tmp_path / "out", value)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "é" in text and "中" in text and text.endswith("}\n")
    files.write_json(tmp_path / "out", value, indent=None)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert (json.loads(text), text.index("\n")) == (value, len(text) - 1)


@given(st.recursive(st.none() | st.integers() | st.text(st.characters()), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_all_that_json_can_say_is_read_again(value: Any) -> None:
    assert json.loads(files.json_bytes(value)) == json.loads(files.json_bytes(value, None)) == json.loads(json.dumps(value))


# Several


def test_files_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one, which vouches for the others, is never there beside another one of another time."""
    paths = [tmp_path / name for name in "abc"]
    seen = []
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        seen.append([path.read_bytes() if path.exists() else None for path in paths])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    for content in (b"1", b"2"):
        files.write({path: [content] for path in paths})
    none = (None, None, None)
    assert seen == [[*none], [b"1", None, None], [b"1", b"1", None], [b"1", b"1", None], [b"2", b"1", None], [b"2", b"2", None]]
    assert listing(tmp_path) == dict.fromkeys("abc", b"2")


WRITE_ALIKE = """
import sys
from pathlib import Path
from helpers import files
folder, content = Path(sys.argv[1]), sys.argv[2].encode()
print(flush=True)
sys.stdin.read()
for _ in range(30):
    files.write({folder / "description": [content], folder / "engine": [content, content]})
    files.write_bytes(folder / "alone", content * 1000)
"""


def python(program: str, *args: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *map(str, args)], env=environment, **pipes)  # type: ignore[call-overload]


def test_of_two_processes_that_write_the_same_files_one_wins_whole(tmp_path: Path) -> None:
    processes = [python(WRITE_ALIKE, tmp_path, content) for content in "ab"]
    for process in processes:
        assert process.stdout and process.stdout.readline() == b"\n"  # what takes time is imported
    for process in processes:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    for process in processes:
        assert (process.communicate(timeout=PATIENCE), process.returncode) == ((b"", b""), 0)
    found = listing(tmp_path)
    assert sorted(found) == ["alone", "description", "engine"]
    assert found["description"] in (b"a", b"b") and found["engine"] == found["description"] * 2
    assert found["alone"] in (b"a" * 1000, b"b" * 1000)


def test_temporary_names_are_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two containers both processes are the first one; what another left or has under way stays."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    found = {files.temporary_name(tmp_path / "out") for _ in range(1000)}
    assert len(found) == 1000
    taken = tmp_path / ".taken.part"
    taken.write_bytes(b"another's")
    monkeypatch.setattr(files, "temporary_name", lambda target: taken)
    with pytest.raises(InputError, match=r"cannot write .*out: File exists"):
        files.write_bytes(tmp_path / "out", b"x")


# Folders


def test_make_folder(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a/b")
        assert (names(tmp_path), names(tmp_path / "a"), names(tmp_path / "a/b")) == (["a"], ["b"], [])
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file/below", "Not a directory")):
        with pytest.raises(InputError) as error:
            files.make_folder(path)
        assert str(error.value) == f"output folder {path} cannot be made: {reason}"


def test_write_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    files.write_folder(folder, {"one": [b"1"], "two": [b"2", b"2"]})
    assert listing(tmp_path) == {"a": None, "a/b": None, "a/b/one": b"1", "a/b/two": b"22"}
    (folder / "other").write_bytes(b"kept")
    files.write_folder(folder, {"two": [b"3"]})
    assert listing(folder) == {"one": b"1", "two": b"3", "other": b"kept"}


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rename = os.rename

    def watched(source: Any, target: Any) -> None:
        seen.append((sorted(os.listdir(source)), os.path.exists(target)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    files.write_folder(tmp_path / "new", {"one": [b"1"], "two": [b"2"]})
    assert seen == [(["one", "two"], False)]


# What goes wrong


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


MUCH = bytes(1 << 17)
WRITES = {
    "a file": (lambda folder: files.write_bytes(folder / "out", b"new", MUCH), "cannot write {}/out"),
    "the first": (lambda folder: files.write({folder / "out": [MUCH], folder / "z": [b"x"]}), "cannot write {0}/out, {0}/z"),
    "the last": (lambda folder: files.write({folder / "a": [b"x"], folder / "out": [MUCH]}), "cannot write {0}/a, {0}/out"),
    "a folder": (lambda folder: files.write_folder(folder / "new", {"a": [b"x"], "out": [MUCH]}), "cannot write {}/new"),
    "into a folder": (lambda folder: files.write_folder(folder, {"a": [b"x"], "out": [MUCH]}), "cannot write {0}/a, {0}/out"),
}


@pytest.mark.parametrize(("write", "says"), WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("before", [{}, {"a": b"as it was", "out": b"it too"}], ids=["new", "old"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path: Path, before: Mapping[str, bytes], write: Any, says: str) -> None:
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with full_disk(1 << 16), pytest.raises(InputError) as error:
        write(tmp_path)
    assert str(error.value) == f"{says.format(tmp_path)}: {os.strerror(errno.EFBIG)}"
    assert listing(tmp_path) == before


def test_a_bug_leaves_all_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_bytes(tmp_path / "out", b"new", "no bytes")  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    for together in ({"out": [b"x"]}, {"a": [b"x"], "out": [b"x"]}, {"out": [b"x"], "z": [b"x"]}):
        with pytest.raises(InputError, match=r"cannot write .*out.*: Is a directory"):
            files.write({tmp_path / name: parts for name, parts in together.items()})
        assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["kept"])


def no_folder(folder: Path) -> Path:
    return folder / "none" / "out"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def too_long(folder: Path) -> Path:
    return folder / ("a" * 300)


def linked_to_itself(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


@pytest.mark.parametrize("place", [no_folder, below_a_file, too_long, linked_to_itself])
def test_what_cannot_be_written(tmp_path: Path, place: Any) -> None:
    path = place(tmp_path)
    before = names(tmp_path)
    with pytest.raises(InputError, match=r"cannot write .*: "):
        files.write_bytes(path, b"x")
    with pytest.raises(InputError):
        files.check_outputs([path])
    assert names(tmp_path) == before


def test_a_file_may_have_the_longest_name_that_its_folder_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    files.check_outputs([path])
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    files.write_folder(folder, {os.fsdecode(b"\xfe"): [b"x"]})
    files.check_outputs([folder / "out"])
    assert os.listdir(bytes(folder)) == [b"\xfe"]
    with pytest.raises(InputError) as error:
        files.check_outputs([folder])
    assert str(error.value) == f"output {folder} is a folder: name a file"


# What may be written


def test_check_outputs(tmp_path: Path) -> None:
    files.check_outputs([tmp_path / "new"])
    assert names(tmp_path) == []
    (tmp_path / "old").write_bytes(b"x")
    files.check_outputs([tmp_path / "old"], [None, tmp_path / "absent", tmp_path])
    assert (tmp_path / "old").read_bytes() == b"x"
    with pytest.raises(InputError, match=f"^output {tmp_path} is a folder: name a file$"):
        files.check_outputs([tmp_path])
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'none'} does not exist: create it first$"):
        files.check_outputs([tmp_path / "none" / "out"])
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'old'} is not a folder$"):
        files.check_outputs([tmp_path / "old" / "out"])


# `twin` is a link to the folder `sub`; `base` is a file, and nothing stands at `new`.
LINKED = ("a", "b", "sub/a")
NAMES = (*LINKED, "twin/a", "base", "new", "sub/new", "twin/new")
KINDS = st.tuples(*[st.sampled_from(("absent", "file", "hard link", "link to base", "link to new")) for _ in LINKED])
CHOSEN = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)


@settings(max_examples=200)
@given(KINDS, CHOSEN, CHOSEN)
def test_no_output_is_an_input_or_another_output_by_whichever_name(
    kinds: Sequence[str], outputs: list[str], inputs: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sub").mkdir()
        (folder / "twin").symlink_to("sub")
        (folder / "base").touch()
        for name, kind in zip(LINKED, kinds):
            if kind == "file":
                (folder / name).touch()
            elif kind == "hard link":
                os.link(folder / "base", folder / name)
            elif kind != "absent":
                (folder / name).symlink_to(folder / kind[len("link to ") :])

        def one(first: str, second: str) -> bool:
            """Whether writing the first would change what is read under the second."""
            with files_kept(folder):
                (folder / first).write_bytes(b"")
                (folder / first).write_bytes(b"written")
                return (folder / second).is_file() and (folder / second).read_bytes() == b"written"

        read = [name for name in inputs if (folder / name).is_file()]
        over_input = any(one(output, name) for output in outputs for name in read)
        over_output = any(one(first, second) for first, second in itertools.combinations(outputs, 2))
        refused = ""
        try:
            files.check_outputs([folder / name for name in outputs], [folder / name for name in inputs])
        except InputError as e:
            refused = str(e)
        assert bool(refused) == (over_input or over_output)
        assert re.search("is read as well" if over_input and not over_output else "", refused)
        assert re.search("are one file" if over_output and not over_input else "", refused)


@contextmanager
def files_kept(folder: Path) -> Iterator[None]:
    """Empties what is written meanwhile, and removes what was not there."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    yield
    for path in folder.rglob("*"):
        if path.is_file() and path not in before and not path.is_symlink():
            path.unlink()
    for path in before:
        path.write_bytes(b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_outputs_by_permission(tmp_path: Path) -> None:
    (tmp_path / "old").touch(0o444)
    with pytest.raises(InputError, match="old exists and is not writable"):
        files.check_outputs([tmp_path / "old"])
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            files.check_outputs([tmp_path / "new"])
    finally:
        tmp_path.chmod(0o755)


# Devices and pipes


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_device_or_a_pipe_is_written_to_and_never_replaced(fifo: Path) -> None:
    before = os.stat("/dev/null")
    files.write_bytes(Path("/dev/null"), b"x")
    assert os.path.samestat(before, os.stat("/dev/null"))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    files.write({fifo: [b"a", b"b"], fifo.with_name("beside"): [b"c"]})
    reader.join(PATIENCE)
    assert (got, fifo.is_fifo(), fifo.with_name("beside").read_bytes()) == ([b"ab"], True, b"c")
    assert names(fifo.parent) == ["beside", "fifo"]


def test_devices_and_pipes_as_outputs(fifo: Path) -> None:
    for path in (fifo, Path("/dev/null")):
        files.check_outputs([path, path], [path], streams=True)
        with pytest.raises(InputError, match=f"^output {path} is a device or a pipe: name a file$"):
            files.check_outputs([path])


def test_standard_output_is_no_file_to_be_replaced(tmp_path: Path) -> None:
    """Where it goes to one, what is written to /dev/stdout comes after what was printed."""
    program = (
        "import sys; from pathlib import Path; from helpers import files; print('before', flush=True);"
        "files.write_bytes(Path('/dev/stdout'), b'x\\n'); files.write_bytes(Path(sys.argv[1]), b'y\\n'); print('after')"
    )
    with open(tmp_path / "out", "wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(tmp_path / "out")]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environment, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert listing(tmp_path) == {"out": b"before\nx\ny\nafter\n"}


# An end in the middle


WRITE_AND_WAIT = """
import sys, threading
from pathlib import Path
from helpers import files
folder = Path(sys.argv[1])

class Parts(list):
    def __iter__(self):
        yield b"half"
        print(flush=True)
        sys.stdin.readline()
        yield b"whole"

thread = threading.Thread(target=lambda: files.write({folder / "new/out": Parts()}), daemon=True)
thread.start()
sys.argv[2] == "abandon" and (sys.stdin.readline(), files.abandon(), print("abandoned", flush=True))
thread.join(0.3)
"""


def test_what_is_under_way_is_removed_and_cannot_be_finished(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.0123456789abcdef.part").write_bytes(b"another's")
    process = python(WRITE_AND_WAIT, tmp_path, "abandon")
    assert process.stdout and process.stdin
    process.stdout.readline()
    assert len(names(tmp_path / "new")) == 2
    output, errors = process.communicate(b"\n\n", timeout=PATIENCE)
    assert (output.splitlines()[-1:], errors, process.returncode) == ([b"abandoned"], b"", 0)
    assert listing(tmp_path / "new") == {".0123456789abcdef.part": b"another's"}


def test_what_is_killed_leaves_its_own_temporary_file_alone(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    process = python(WRITE_AND_WAIT, tmp_path, "kill")
    assert process.stdout and process.stdin
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    [left] = names(tmp_path / "new")
    assert re.fullmatch(r"\.[0-9a-f]{16}\.part", left)
    files.write_bytes(tmp_path / "new/out", b"whole")
    assert (tmp_path / "new/out").read_bytes() == b"whole"
