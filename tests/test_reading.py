"""Text and JSON from outside: read in bounded memory, or refused in one line that says what is wrong where."""

from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import reading
from helpers.errors import InputError

READERS: dict[str, Callable[[Path, str], Any]] = {
    "bytes": reading.read_bytes,
    "text": reading.read_text,
    "JSON": reading.read_json,
    "object": reading.read_object,
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
KEYS = st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(KEYS, values, max_size=4),
    max_leaves=10,
)


def refused(read: Callable[..., Any], *args: Any, **named: Any) -> str:
    """What reading must refuse; it fits one line of a terminal."""
    with pytest.raises(InputError) as error:
        read(*args, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is read


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "with a byte order mark"])
@given(VALUES, st.sampled_from((None, 2)))
def test_json(mark: bytes, value: Any, indent: int | None) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(mark + json.dumps(value, ensure_ascii=bool(indent), indent=indent).encode())
        file.flush()
        assert reading.read_json(Path(file.name), "x") == value
        assert reading.read_json(Path(file.name), "x") is None or type(reading.read_json(Path(file.name), "x")) is type(value)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for written, read in (
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        (b"\xef\xbb\xbf\xef\xbb\xbfa", "\ufeffa"),
        (b"a\xef\xbb\xbfb", "a\ufeffb"),
        (b"a\r\nb\rc\n\r\n", "a\nb\nc\n\n"),
        ("é中😀\u2028\x85".encode(), "é中😀\u2028\x85"),
        (b"\x1b[31m", "\x1b[31m"),
    ):
        path.write_bytes(written)
        assert (reading.read_text(path, "x"), reading.read_bytes(path, "x")) == (read, written)


def test_a_text_is_what_python_reads(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("é\r\n中\r\r\n😀".encode() * 100_000)  # beyond a chunk, at whose end a character may be cut
    assert reading.read_text(path, "x") == path.read_text(encoding="utf-8")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(b'{"a": 1}'))
    writer.start()
    assert reading.read_object(tmp_path / "fifo", "x") == {"a": 1}
    writer.join()


# What is refused


@readers
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "No such file or directory"),
        ("folder", "Is a directory"),
        ("file/below", "Not a directory"),
        ("a" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_what_is_not_there(tmp_path: Path, read: Any, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    path = tmp_path / name
    assert refused(read, path, "kind of file") == f"kind of file {path} cannot be read: {reason}"
    assert refused(read, path, "", hint="look") == f"{path} cannot be read: {reason}; look"


@readers
def test_what_has_no_end(read: Any) -> None:
    said = refused(read, Path("/dev/zero"), "x", 5 << 20)
    assert said == (
        "x /dev/zero is larger than 5 MiB" if read is reading.read_bytes else "x /dev/zero is not text: it has a NUL byte"
    )


@readers
def test_what_is_larger(tmp_path: Path, read: Any) -> None:
    path, limit = tmp_path / "large", 3 << 20
    path.write_bytes(b'{"a": "'.ljust(limit - 2, b" ") + b'"}')
    assert read(path, "x", limit)
    path.write_bytes(b'{"a": "'.ljust(limit - 1, b" ") + b'"}')
    assert refused(read, path, "x", limit, hint="take less") == f"x {path} is larger than 3 MiB: take less"
    os.truncate(path, 1 << 40)  # which no machine's memory holds
    assert "larger than 3 MiB" in refused(reading.read_bytes, path, "x", limit)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfea\0", "is not text: it has a NUL byte"),  # UTF-16
        (b"a" * 3_000_000 + b"\0", "is not text: it has a NUL byte"),
        (b"abc\xe9d", "is not UTF-8 text (byte 3)"),
        (b"\xc3\xa9\xc3", "is not UTF-8 text (byte 2)"),
        (b"\xed\xa0\x80", "is not UTF-8 text (byte 0)"),  # half a surrogate pair
        (b"\xc0\xaf", "is not UTF-8 text (byte 0)"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    for read in (reading.read_text, reading.read_json, reading.read_object):
        assert refused(read, tmp_path / "file", "x") == f"x {tmp_path / 'file'} {says}"


DEEP = 100_000
NOT_JSON = {
    "": "is not JSON: line 1, column 1: Expecting value",
    "<html>": "is not JSON: line 1, column 1: Expecting value",
    '{"a": 1,\n "b": }': "is not JSON: line 2, column 7: Expecting value",
    '{"a": 1} {}': "is not JSON: line 1, column 10: Extra data",
    '{"a": "\t"}': "is not JSON: line 1, column 8: Invalid control character at",
    "[" * DEEP: "is not JSON that can be read: it is nested too deeply",
    '{"a":' * DEEP: "is not JSON that can be read: it is nested too deeply",
    '{"a": 1, "a": 1}': "is not JSON that can be read: it has 'a' twice in one object",
    '[{"b": 1, "a": {"c": 1, "a": 2, "c": 3}}]': "is not JSON that can be read: it has 'c' twice in one object",
    '{"a": 1, "\\u0061": 2}': "is not JSON that can be read: it has 'a' twice in one object",
    '{"\\u001b[31m": 1, "\\u001b[31m": 2}': "is not JSON that can be read: it has '\\x1b[31m' twice in one object",
    f'{{"{"a" * 100}": 1, "{"a" * 100}": 2}}': f"is not JSON that can be read: it has '{'a' * 59} twice in one object",
    "9" * 5000: "is not JSON that can be read: Exceeds the limit (4300",  # the rest differs between versions of Python
}


@pytest.mark.parametrize(("text", "says"), NOT_JSON.items(), ids=[text[:12] for text in NOT_JSON])
def test_what_is_not_json(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "file").write_text(text)
    for read in (reading.read_json, reading.read_object):
        assert refused(read, tmp_path / "file", "x").startswith(f"x {tmp_path / 'file'} {says}")
    assert refused(reading.parse_json, text, "the line").startswith(f"the line {says}")


@pytest.mark.parametrize(
    ("text", "kind"), [("[]", "list"), ("null", "NoneType"), ('"a"', "str"), ("1", "int"), ("NaN", "float"), ("true", "bool")]
)
def test_what_is_no_object(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "file").write_text(text)
    reading.read_json(tmp_path / "file", "x")
    said = refused(reading.read_object, tmp_path / "file", "")
    assert said == f"{tmp_path / 'file'} must hold one JSON object, but holds a {kind}"


@given(st.binary() | st.text('{}[]",:\\u0123456789.eE-+ \n').map(str.encode) | st.text().map(str.encode))
def test_whatever_a_file_holds(content: bytes) -> None:
    """It is read as Python's own reader reads it, or refused."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            found = reading.read_json(Path(file.name), "x")
        except InputError as e:
            assert re.search("is not (UTF-8 text|JSON)|is not text", str(e))
        else:
            assert repr(found) == repr(json.loads(content.decode("utf-8-sig")))
