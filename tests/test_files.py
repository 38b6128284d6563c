"""Files are written whole or not at all, and what cannot be written is told before the work starts."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import files
from helpers.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


def test_write_json(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None], "b": "中"}
    files.write_json(tmp_path / "out", value)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "é" in text and text.endswith("}\n")
    files.write_json(tmp_path / "out", value, indent=None)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert (json.loads(text), text.index("\n")) == (value, len(text) - 1)


def test_make_folder(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a/b")
        assert (names(tmp_path), names(tmp_path / "a"), names(tmp_path / "a/b")) == (["a"], ["b"], [])
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file/below", "Not a directory")):
        with pytest.raises(InputError) as error:
            files.make_folder(path)
        assert str(error.value) == f"output folder {path} cannot be made: {reason}"


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "out"
    if before is not None:
        path.write_bytes(before)
    with full_disk(1 << 16), pytest.raises(InputError) as error:
        files.write_bytes(path, b"new", bytes(1 << 17))
    assert str(error.value) == f"cannot write {path}: {os.strerror(errno.EFBIG)}"
    with pytest.raises(TypeError):
        files.write_bytes(path, b"new", "no bytes")  # type: ignore[arg-type]
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["out"])


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with pytest.raises(InputError, match=r"cannot write .*out: "):
        files.write_bytes(tmp_path / "out", b"x")
    assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["kept"])


def no_folder(folder: Path) -> Path:
    return folder / "none" / "out"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def too_long(folder: Path) -> Path:
    return folder / ("a" * 300)


@pytest.mark.parametrize("place", [no_folder, below_a_file, too_long])
def test_what_cannot_be_written(tmp_path: Path, place: Any) -> None:
    path = place(tmp_path)
    before = names(tmp_path)
    with pytest.raises(InputError, match=r"cannot write .*: "):
        files.write_bytes(path, b"x")
    with pytest.raises(InputError):
        files.check_writable(path)
    assert names(tmp_path) == before


def test_a_file_may_have_the_longest_name_that_its_folder_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    files.check_writable(path)
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_check_writable(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new")
    assert names(tmp_path) == []
    (tmp_path / "old").write_bytes(b"x")
    files.check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"x"
    with pytest.raises(InputError, match=f"^output {tmp_path} is a folder: name a file$"):
        files.check_writable(tmp_path)
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'none'} does not exist: create it first$"):
        files.check_writable(tmp_path / "none" / "out")
    with pytest.raises(InputError, match=f"^output folder {tmp_path / 'old'} is not a folder$"):
        files.check_writable(tmp_path / "old" / "out")
    (tmp_path / "link").symlink_to("old")
    files.check_writable(tmp_path / "new", tmp_path / "old", tmp_path / "absent")
    with pytest.raises(InputError, match="old is read as well, and would be overwritten"):
        files.check_writable(tmp_path / "old", tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_check_writable_by_permission(tmp_path: Path) -> None:
    (tmp_path / "old").touch(0o444)
    with pytest.raises(InputError, match="old exists and is not writable"):
        files.check_writable(tmp_path / "old")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            files.check_writable(tmp_path / "new")
    finally:
        tmp_path.chmod(0o755)
