"""Text and JSON from outside: of bounded size, in UTF-8, well-formed, or one line that says what is wrong where."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from helpers.errors import InputError

SMALL, LARGE = 64 << 20, 512 << 20  # bytes: of what a model's folder has beside its weights, and of data sets
CHUNK = 1 << 20


def read_bytes(path: Path, what: str, limit: int = SMALL, text: bool = False, hint: str = "") -> bytes:
    """A file's content. It may be a device or a pipe, which may have no end.

    Args:
        what: the file is, for messages; "" where the path alone says it.
        limit: bytes that are read at most.
        text: a NUL byte is refused as soon as it is met.
        hint: what to do where the file cannot be read.

    Raises:
        InputError: the file cannot be read, or is larger.
    """
    named = f"{what} {path}".strip()
    data = bytearray()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                data += chunk
                if text and b"\0" in chunk:
                    raise InputError(f"{named} is not text: it has a NUL byte", hint)
                if len(data) > limit:
                    raise InputError(f"{named} is larger than {limit >> 20} MiB", hint)
    except OSError as e:
        raise InputError(f"{named} cannot be read: {e.strerror}", hint) from e
    return bytes(data)


def read_text(path: Path, what: str, limit: int = SMALL, hint: str = "") -> str:
    """A text in UTF-8, with or without a byte order mark, which is left out. Lines end in a line feed.

    Raises:
        InputError: as `read_bytes`, or the file is not UTF-8.
    """
    data = read_bytes(path, what, limit, text=True, hint=hint)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        raise InputError(f"{f'{what} {path}'.strip()} is not UTF-8 text (byte {e.start})") from e


def parse_json(text: str | bytes, source: str) -> Any:
    """A JSON value.

    Raises:
        InputError: `source` is not JSON, or an object in it has a key twice, of which nobody knows which is meant.
    """
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as e:
        raise InputError(f"{source} is not JSON: line {e.lineno}, column {e.colno}: {e.msg}") from e
    except RecursionError as e:
        raise InputError(f"{source} is not JSON that can be read: it is nested too deeply") from e
    except ValueError as e:  # a key twice; a number of thousands of digits, which Python refuses to read
        raise InputError(f"{source} is not JSON that can be read: {str(e).split(';')[0]}") from e


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has {name!r:.60} twice in one object")
    return values


def read_json(path: Path, what: str, limit: int = SMALL, hint: str = "") -> Any:
    """The JSON value in a file. Raises InputError as `read_text` and `parse_json`."""
    return parse_json(read_text(path, what, limit, hint), f"{what} {path}".strip())


def read_object(path: Path, what: str, limit: int = SMALL, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises InputError as `read_json`, or where the file holds another value."""
    values = read_json(path, what, limit, hint)
    if not isinstance(values, dict):
        raise InputError(f"{f'{what} {path}'.strip()} must hold one JSON object, but holds a {type(values).__name__}")
    return values
