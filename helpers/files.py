"""Files that are written whole or not at all, and never over what is read.

What is under way lies beside its place under a name that nobody else has. What belongs together, as an engine and its
description, takes its places under a lock of the folder: of two processes that write the same names one wins whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Union

from helpers.errors import InputError

Content = Sequence[Union[bytes, bytearray]]  # of a file, part by part

PIECE = 64 << 20  # bytes on their way to the disk at once: a process that waits for that cannot end
_under_way: set[Path] = set()  # temporary files and folders of this process
_lock = threading.Lock()  # whoever has it names or moves one of them


# What may be written


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None] = (), streams: bool = False) -> None:
    """Finds out before the work starts whether files can be written, and are neither read nor one another.

    Args:
        inputs: the files that are read, or that what is read was made of; None for one that was not named. Files are the
            same that have the same device and inode, by whichever name.
        streams: whether a device or a pipe will do.

    Raises:
        InputError: an output is an input, or another output; or it cannot be written.
    """
    read = {identity(path) for path in inputs if path and path.is_file()}
    taken: dict[Any, Path] = {}
    for path in outputs:
        if is_stream(path):
            if not streams:
                raise InputError(f"output {path} is a device or a pipe: name a file")
            continue
        check_writable(path)
        key = identity(path)
        if key in read:
            raise InputError(f"output {path} is read as well, and would be overwritten: name another file")
        if key in taken:
            raise InputError(f"outputs {taken[key]} and {path} are one file: name another for one of them")
        taken[key] = path


def identity(path: Path) -> tuple[Any, ...]:
    """What two names of one file have in common, also where it is not there yet."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:
        return (os.path.realpath(path),)


def is_stream(path: Path) -> bool:
    """Whether there is a device or a pipe; a file that standard output goes to counts as one."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or standard(found) is not None


def standard(found: os.stat_result) -> int | None:
    """The descriptor, standard output or error, that leads to a file."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def check_writable(path: Path) -> None:
    """Raises InputError where a file cannot be written."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)  # a link that leads in a circle, a name that is too long
        if path.is_dir():
            raise InputError(f"output {path} is a folder: name a file")
        folder = Path(os.path.realpath(path)).parent
        if not folder.is_dir():
            missing = "is not a folder" if folder.exists() else "does not exist: create it first"
            raise InputError(f"output folder {path.parent} {missing}")
        trial = temporary_name(folder / path.name)
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        trial.unlink()
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


# Writing


def write_bytes(path: Path, *parts: bytes | bytearray) -> None:
    """Writes a file whole or not at all; into a device or a pipe as it comes.

    Raises:
        InputError: the disk is full or the folder not writable; nothing is left behind.
    """
    write({path: parts})


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes JSON as `write_bytes`; without an indent it is written several times as fast."""
    write_bytes(path, json_bytes(value, indent))


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which UTF-8 cannot hold, is escaped, so that it can be read again."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write(contents: Mapping[Path, Content]) -> None:
    """Writes files of one folder that belong together, each whole or none.

    The last one vouches for the others: it is away while they are replaced.

    Raises:
        InputError: as `write_bytes`; all files are as they were.
    """
    try:
        place(contents)
    except OSError as e:
        raise InputError(f"cannot write {', '.join(map(str, contents))}: {e.strerror}") from e


def place(contents: Mapping[Path, Content]) -> None:
    """What `write` does; raises OSError."""
    with staged(contents) as places, _lock, locked({target.parent for target in places.values()}):
        for target in places.values():
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for last in list(places.values())[1:][-1:]:
            last.unlink(missing_ok=True)
        for temporary, target in places.items():
            os.replace(temporary, target)
            _under_way.discard(temporary)


def write_folder(folder: Path, contents: Mapping[str, Content]) -> None:
    """Writes files into a folder as `write` does; a new folder is there whole or not at all."""
    if folder.exists():
        write({folder / name: parts for name, parts in contents.items()})
        return
    missing = [parent for parent in folder.parents if not parent.exists()]
    make_folder(folder.parent)
    with _lock:
        temporary = temporary_name(folder)
        _under_way.add(temporary)
    try:
        temporary.mkdir()
        place({temporary / name: parts for name, parts in contents.items()})
        with _lock:
            os.rename(temporary, folder)
            _under_way.discard(temporary)
    except OSError as e:
        raise InputError(f"cannot write {folder}: {e.strerror}") from e
    finally:
        discard(temporary)
        if not folder.exists():
            for parent in missing:
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def staged(contents: Mapping[Path, Content]) -> Iterator[dict[Path, Path]]:
    """Writes each file beside its place: temporary name → place, links followed. Streams are written right away."""
    places: dict[Path, Path] = {}
    try:
        for path, parts in contents.items():
            if is_stream(path):
                write_stream(path, parts)
                continue
            target = Path(os.path.realpath(path))
            with _lock:
                temporary = temporary_name(target)
                _under_way.add(temporary)
            places[temporary] = target
            # O_EXCL: the name is ours alone, whoever else shares the folder.
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                with suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                for part in parts:
                    for start in range(0, len(part), PIECE):
                        file.write(memoryview(part)[start : start + PIECE])
                        file.flush()
                        os.fdatasync(file.fileno())
                os.fsync(file.fileno())
        yield places
    finally:
        for temporary in places:
            discard(temporary)


def write_stream(path: Path, parts: Content) -> None:
    descriptor = standard(os.stat(path))
    with open(path if descriptor is None else os.dup(descriptor), "wb") as file:
        for part in parts:
            file.write(part)


def temporary_name(target: Path) -> Path:
    return target.with_name(f".{os.urandom(8).hex()}.part")


@contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Keeps other processes from moving files in these folders meanwhile, where the file system can."""
    descriptors = []
    try:
        for folder in sorted(folders):
            descriptors.append(os.open(folder, os.O_RDONLY))
            with suppress(OSError):  # some network file systems lock files alone
                fcntl.flock(descriptors[-1], fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def discard(temporary: Path) -> None:
    """Removes what was under way, where it still is."""
    if temporary in _under_way:
        _under_way.discard(temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()


def abandon() -> None:
    """Removes all that is under way, for good: the process ends, and what other threads want to write they do not get to."""
    _lock.acquire()
    for temporary in list(_under_way):
        discard(temporary)
