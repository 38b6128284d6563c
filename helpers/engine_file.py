"""Engine files: the blob that a backend made, and beside it its description."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from helpers.errors import InputError
from helpers.files import json_bytes, write
from helpers.reading import read_object
from helpers.tasks.scores import SCORINGS


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
    digest: str = ""  # of its content
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


FORMER, RENAMED = ("vocab_file", "lower_case"), {"gelu": "activation"}  # fields of older builders


def description_path(engine: Path) -> Path:
    return Path(f"{engine}.json")


def save(engine: Path, built: Built) -> None:
    """Writes an engine and its description, both whole or neither."""
    described = replace(built.description, size=len(built.blob), digest=digest(built.blob))
    write({description_path(engine): [json_bytes(asdict(described))], engine: [built.blob]})


def digest(blob: bytes | bytearray | mmap.mmap) -> str:
    """XXH3, 128 bits (https://github.com/Cyan4973/xxHash): 28 GB/s, against accidents, not against forgers."""
    import xxhash

    return "xxh3_128:" + xxhash.xxh3_128(blob).hexdigest()


def read_description(engine: Path) -> Description | None:
    """The description beside an engine, or None where there is none.

    Raises:
        InputError: the description is malformed.
    """
    path = description_path(engine)
    if not path.exists():
        return None
    try:
        values = read_object(path, "description")
        known = {RENAMED.get(name, name): value for name, value in values.items() if name not in FORMER}
        description = Description(**known)
        check(description)
    except (InputError, ValueError, TypeError) as e:
        raise InputError(
            f"{path} does not describe an engine ({e})",
            "remove it and give {sequence_length}, {vocab_file} and {batch_size} yourself",
        ) from e
    return description


def check_content(engine: Path, description: Description) -> None:
    """Raises InputError where an engine is not the file that was built with its description."""
    size, name = engine.stat().st_size, description_path(engine).name
    if size != description.size:
        raise InputError(
            f"engine {engine} has {size} bytes, but {name} says {description.size}: "
            "it is truncated or was replaced; build it again"
        )
    if not description.digest:  # an older builder's
        return
    try:
        with open(engine, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            found = digest(blob)
    except (OSError, ValueError) as e:
        raise InputError(f"engine {engine} cannot be read: {e}") from e
    if found != description.digest:
        raise InputError(f"engine {engine} is not the one that {name} describes: it is damaged or was replaced; build it again")


KINDS = {
    "size": int,
    "digest": str,
    "vocab_size": int,
    "model_type": str,
    "task": str,
    "labels": list,
    "scoring": str,
    "template": list,
    "tokenizer": str,
}


def check(description: Description) -> None:
    """Raises ValueError, or another error, where what is relied upon is of the wrong kind."""
    wrong = [name for name, kind in KINDS.items() if type(getattr(description, name)) is not kind]
    if wrong:
        raise ValueError(f"of the wrong kind: {', '.join(wrong)}")
    if not description.profiles or any(size < 1 or length < 1 for size, length in description.profiles):
        raise ValueError("its profiles must be pairs of positive numbers")
    if description.scoring not in SCORINGS:
        raise ValueError(f"its scoring must be one of {', '.join(SCORINGS)}")
    *texts, segment = description.template or [[], [], [], 0]
    named = len(texts) == 3 and all(isinstance(tokens, list) for tokens in texts) and type(segment) is int and segment in (0, 1)
    if not named or not all(is_name(name) for names in (description.labels, *texts) for name in names):
        raise ValueError("its labels or its template must be names")


def is_name(value: Any) -> bool:
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value  # no half of a surrogate pair


def read_head(engine: Path) -> bytes:
    """The first bytes of an engine file, which tell its backend. Raises InputError where it cannot be read."""
    try:
        with open(engine, "rb") as file:
            return file.read(16)
    except OSError as e:
        raise InputError(f"engine {engine} cannot be read: {e.strerror}", "build one with builder.py") from e
