"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.errors import InputError


def check_writable(path: Path, *inputs: Path | None) -> None:
    """Finds out before the work starts whether `path` can be written, and is none of the files read. Raises InputError.

    Args:
        inputs: the files read; None for one that was not named.
    """
    try:
        for source in filter(None, inputs):
            if path.is_file() and source.exists() and path.samefile(source):
                raise InputError(f"output {path} is read as well, and would be overwritten: name another file")
        if path.is_dir():
            raise InputError(f"output {path} is a folder: name a file")
        if not path.parent.is_dir():
            missing = "is not a folder" if path.parent.exists() else "does not exist: create it first"
            raise InputError(f"output folder {path.parent} {missing}")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise InputError(f"output {path} exists and is not writable")
    except OSError as e:
        raise InputError(f"output {path} cannot be written: {e.strerror}") from e


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are missing. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"output folder {path} cannot be made: {e.strerror}") from e


def write_bytes(path: Path, *parts: bytes | bytearray) -> None:
    """Writes a file whole or not at all: into a temporary neighbour first, then in its place.

    Raises:
        InputError: the disk is full or the folder not writable; nothing is left behind.
    """
    temporary = path.with_name(f".{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror}") from e
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes JSON atomically, as `write_bytes`; without an indent it is written several times as fast."""
    write_bytes(path, json.dumps(value, indent=indent, ensure_ascii=False).encode() + b"\n")
