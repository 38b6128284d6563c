"""Engine files: saved with their descriptions, and what descriptions are refused."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from helpers import engine_file
from helpers.commands.flags import FLAGS
from helpers.engine_file import Built, Description, description_path, read_description, read_head
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.request import BuildRequest, Calibration

BLOB = bytes(range(256)) * 40
REQUEST = BuildRequest("ckpt", Path("model.ckpt"), (Profile(4, 16),), Path("."), calibration=Calibration(Path("dev.json")))
DESCRIPTION = Description(
    backend="onnxruntime",
    version="opset 20",
    gpu=None,
    compute_capability=None,
    precision="float32",
    packed=False,
    profiles=[[4, 16], [8, 16]],
    checkpoint="/model – ü.ckpt",
    vocab_size=60,
    sparse_layers=3,
    model_type="distilbert",
    activation="erf",
    task="token-classification",
    labels=["O", "B-größer"],
    scoring="sigmoid",
    template=[["[CLS]"], ["[SEP]"], ["[SEP]"], 0],
    request=REQUEST.to_dict(),
    tokenizer='{"control": ["[CLS]"], "pipeline": "{…}"}',
)
REFUSED = r"^\S+small\.engine\.json does not describe an engine \(.+\)[:;] remove it and give sequence_length, vocab_file and "
REQUIRED = [field.name for field in fields(Description) if field.default is field.default_factory is MISSING]
# XXH3 of 128 bits, as `xxhsum -H2` prints it.
DIGEST = "xxh3_128:1cb22534d0d96975c03d2231ab9348f3"
SAVED = replace(DESCRIPTION, size=len(BLOB), digest=DIGEST)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An engine with its description."""
    path = tmp_path / "small.engine"
    engine_file.save(path, Built(BLOB, DESCRIPTION))
    return path


# Saved and described


def test_save_and_describe(saved: Path) -> None:
    assert sorted(path.name for path in saved.parent.iterdir()) == ["small.engine", "small.engine.json"]
    assert saved.read_bytes() == BLOB
    assert read_description(saved) == SAVED
    assert json.loads(description_path(saved).read_text(encoding="utf-8")) == asdict(SAVED)


def test_save_replaces_both(saved: Path) -> None:
    other = replace(DESCRIPTION, labels=[], profiles=[[2, 8]])
    engine_file.save(saved, Built(BLOB + b"\x72\x00", other))
    assert saved.read_bytes() == BLOB + b"\x72\x00"
    found = read_description(saved)
    assert found == replace(other, size=len(BLOB) + 2, digest=found.digest if found else "")
    assert found.digest != DIGEST


def test_a_save_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "small.engine"
    path.mkdir()
    (path / "kept").touch()
    description_path(path).write_text("{}")
    with pytest.raises(InputError, match=r"cannot write .*small.engine: "):
        engine_file.save(path, Built(BLOB, DESCRIPTION))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]
    assert description_path(path).read_text() == "{}"


def test_an_engine_without_a_description(saved: Path) -> None:
    description_path(saved).unlink()
    assert read_description(saved) is None
    assert read_description(saved.with_name("none")) is None


def test_a_description_without_its_engine(saved: Path) -> None:
    saved.unlink()
    assert read_description(saved) == SAVED


def test_a_description_from_before_fields_were_there(saved: Path) -> None:
    """Such an engine was built from a BERT for questions, in the tanh form, and named files that its tokenizer is read from."""
    path = description_path(saved)
    values = json.loads(path.read_text(encoding="utf-8"))
    newer = (
        "digest",
        "sparse_layers",
        "model_type",
        "activation",
        "task",
        "labels",
        "scoring",
        "template",
        "request",
        "tokenizer",
    )
    kept = {name: value for name, value in values.items() if name not in newer}
    path.write_text(json.dumps({**kept, "vocab_file": "/vocab.txt", "lower_case": True}), encoding="utf-8")
    bert: dict[str, Any] = {"model_type": "bert", "activation": "tanh", "task": "question-answering", "scoring": "softmax"}
    expected = replace(DESCRIPTION, size=len(BLOB), sparse_layers=0, labels=[], template=[], request={}, tokenizer="", **bert)
    assert read_description(saved) == expected
    path.write_text(json.dumps({**kept, "vocab_file": "/vocab.txt", "lower_case": True, "gelu": "erf"}), encoding="utf-8")
    assert read_description(saved) == replace(expected, activation="erf")
    saved.write_bytes(BLOB[::-1])
    engine_file.check_content(saved, expected)  # nothing but the size is known of it


# Refused


def test_an_engine_of_another_size(saved: Path) -> None:
    for content in (BLOB[:-1], BLOB + b"\0", b""):
        saved.write_bytes(content)
        with pytest.raises(InputError) as error:
            engine_file.check_content(saved, SAVED)
        assert str(error.value) == (
            f"engine {saved} has {len(content)} bytes, but small.engine.json says {len(BLOB)}: "
            "it is truncated or was replaced; build it again"
        )


def test_an_engine_of_other_content(saved: Path) -> None:
    """Every bit counts."""
    engine_file.check_content(saved, SAVED)
    for bit in range(0, 8 * len(BLOB), max(1, len(BLOB) // 32) | 1):
        flipped = bytearray(BLOB)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(flipped)
        with pytest.raises(InputError) as error:
            engine_file.check_content(saved, SAVED)
        assert str(error.value) == (
            f"engine {saved} is not the one that small.engine.json describes: it is damaged or was replaced; build it again"
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"size": 1}',
        b'{"size": 1, "size": 1}',
        b"[" * 100_000,
        b"9" * 5_000,
    ],
)
def test_a_description_that_is_none(saved: Path, content: bytes) -> None:
    description_path(saved).write_bytes(content)
    with pytest.raises(InputError, match=REFUSED):
        read_description(saved)


def check_malformed(saved: Path, changes: dict[str, Any], without: str = "") -> None:
    path = description_path(saved)
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    values.pop(without, None)
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=REFUSED) as error:
        read_description(saved)
    assert error.value.told(FLAGS).endswith("remove it and give -s, -v and -b yourself")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_description_that_lacks_something(saved: Path, name: str) -> None:
    check_malformed(saved, {}, without=name)


def test_a_description_that_says_more(saved: Path) -> None:
    check_malformed(saved, {"colour": "red"})


@pytest.mark.parametrize("profiles", [[], None, 5, [1, 2], [[1]], [[1, 2, 3]], [["a", 2]], [[None, 2]]])
def test_a_description_with_malformed_profiles(saved: Path, profiles: Any) -> None:
    check_malformed(saved, {"profiles": profiles})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", "60"),
        ("vocab_size", None),
        ("tokenizer", None),
        ("tokenizer", {}),
        ("task", None),
        ("task", ["token-classification"]),
        ("labels", None),
        ("labels", "O"),
        ("labels", [1, 2]),
        ("scoring", None),
        ("scoring", "argmax"),
        ("model_type", 5),
        *(("template", value) for value in (None, "x", [1], [["[CLS]"], ["[SEP]"], ["[SEP]"]], [["[CLS]"], ["[SEP]"], 5, 0])),
        *(("template", [["[CLS]"], ["[SEP]"], ["[SEP]"], value]) for value in ("1", None, -1, 2, True)),
        *(("template", [[value], ["[SEP]"], ["[SEP]"], 1]) for value in (5, None)),
        ("profiles", [[0, 16]]),
        ("profiles", [[4, 0]]),
    ],
)
def test_a_description_with_a_value_of_the_wrong_kind(saved: Path, name: str, value: Any) -> None:
    """These are what scripts rely on."""
    check_malformed(saved, {name: value})


# The head


@pytest.mark.parametrize("size", [0, 1, 16, 17, 5000])
def test_the_head_of_an_engine(tmp_path: Path, size: int) -> None:
    (tmp_path / "engine").write_bytes(BLOB[:size])
    assert read_head(tmp_path / "engine") == BLOB[: min(size, 16)]
