"""Engine files: the blob that a backend made, and beside it its description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from helpers.errors import InputError
from helpers.files import write_bytes, write_json


@dataclass(frozen=True)
class Description:
    """What stands beside an engine, in `<engine>.json`.

    Those of engines from before a field was there have its default.
    """

    backend: str
    version: str  # of the backend, as far as its engines depend on it
    gpu: str | None
    compute_capability: str | None
    precision: str
    packed: bool
    profiles: list[list[int]]  # (batch size, sequence length) each
    checkpoint: str
    vocab_size: int  # rows of the word embedding
    sparse_layers: int = 0  # layers that run a 2:4 sparse kernel
    size: int = 0  # of the engine file, bytes
    model_type: str = "bert"
    activation: str = "tanh"  # the form that is computed, whatever the checkpoint's is
    task: str = "question-answering"
    labels: list[str] = field(default_factory=list)  # of the outputs
    scoring: str = "softmax"  # what makes scores of a sequence's outputs
    template: list[Any] = field(default_factory=list)  # of a window: tokenization.Template
    request: Mapping[str, Any] = field(default_factory=dict)  # all of BuildRequest
    tokenizer: str = ""  # all of it, so that an engine needs nothing of its checkpoint: Tokenizer.to_json


class Built(NamedTuple):
    """An engine, just built."""

    blob: bytes | bytearray
    description: Description


FORMER = ("vocab_file", "lower_case", "gelu")  # fields of older builders


def description_path(engine: Path) -> Path:
    return Path(f"{engine}.json")


def save(engine: Path, built: Built) -> None:
    """Writes an engine and its description, each whole or not at all; an older description never meets a newer engine."""
    description_path(engine).unlink(missing_ok=True)
    write_bytes(engine, built.blob)
    write_json(description_path(engine), asdict(replace(built.description, size=len(built.blob))))


def read_description(engine: Path) -> Description | None:
    """The description beside an engine, or None where there is none.

    Raises:
        InputError: the description is malformed, or the engine is not the file that it describes.
    """
    path = description_path(engine)
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        description = Description(**{name: value for name, value in values.items() if name not in FORMER})
        kinds = (description.vocab_size, int), (description.tokenizer, str), (description.task, str), (description.labels, list)
        if any(type(value) is not kind for value, kind in kinds):
            raise ValueError("vocab_size, tokenizer, task or labels is of the wrong kind")
        if not description.profiles or any(size < 1 or length < 1 for size, length in description.profiles):
            raise ValueError("its profiles must be pairs of positive numbers")
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path} does not describe an engine ({e})",
            "remove it and give {sequence_length}, {vocab_file} and {batch_size} yourself",
        ) from e
    if engine.is_file() and engine.stat().st_size != description.size:
        raise InputError(
            f"engine {engine} has {engine.stat().st_size} bytes, but {path.name} says {description.size}: "
            "it is truncated or was replaced; build it again"
        )
    return description


def read_head(engine: Path) -> bytes:
    """The first bytes of an engine file, which tell its backend. Raises InputError where it cannot be read."""
    try:
        with open(engine, "rb") as file:
            return file.read(16)
    except OSError as e:
        raise InputError(f"engine {engine} cannot be read: {e.strerror}", "build one with builder.py") from e
