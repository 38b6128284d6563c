"""What the inference scripts do with texts: their labels, entities or vectors on the screen, or in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from helpers import files
from helpers.commands import bars, unfinished
from helpers.config import FEATURE_EXTRACTION, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from helpers.errors import printable
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.tasks.classification import Label
from helpers.tasks.entities import Entity

WIDTH = 80  # characters of a text that are shown above its result
SHOWN = 8  # numbers of a vector


class Kind(NamedTuple):
    """What a task makes of a text: its name in a file, its value there, and the lines that the screen shows."""

    name: str
    value: Callable[[Any], Any]
    lines: Callable[[Any], list[str]]


def title(text: str) -> str:
    """A text in one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def label_lines(labels: Sequence[Label]) -> list[str]:
    return [f"{score:9.6f}  {label}" for label, score in labels]


def entity_lines(entities: Sequence[Entity]) -> list[str]:
    return [f"{e.score:9.6f}  {e.label}  {e.start}-{e.end}  {e.text!r}" for e in entities] or ["no entities"]


def vector_lines(vector: np.ndarray) -> list[str]:
    first = ", ".join(f"{value:.6f}" for value in vector[:SHOWN].tolist())
    return [f"[{first}{', …' * (len(vector) > SHOWN)}]  {len(vector)} numbers"]


def objects(found: Sequence[Any]) -> list[dict[str, Any]]:
    """Labels or entities as JSON has them."""
    return [{**each._asdict(), "score": round(each.score, 6)} for each in found]


KINDS = {
    SEQUENCE_CLASSIFICATION: Kind("labels", objects, label_lines),
    TOKEN_CLASSIFICATION: Kind("entities", objects, entity_lines),
    FEATURE_EXTRACTION: Kind("vector", np.ndarray.tolist, vector_lines),
}


def read(
    reader: Reader,
    texts: Sequence[str],
    question: str | None,
    options: Options,
    pooling: str,
    batch_size: int | None,
    output: Path | None,
) -> None:
    """Prints what the engine makes of each text, or writes it to a file, one JSON object a line.

    Args:
        question: stands before each text, as the first of a pair.
        output: None to print.
    """
    pairs = None if question is None else texts
    encoded = reader.encode_texts(texts if question is None else [question] * len(texts), pairs, options)
    results = reader.results(encoded, batch_size, options.top_k, pooling)
    kind, start = KINDS[reader.task], time.perf_counter()
    found: dict[int, Any] = {}
    shared = {} if question is None else {"question": question}

    def done() -> tuple[int, bytes]:
        rows = [{**shared, "text": texts[i], kind.name: kind.value(value)} for i, value in sorted(found.copy().items())]
        return len(rows), b"".join(files.json_bytes(row, None) for row in rows)

    def fits(text: str) -> None:
        for line in text.splitlines():
            json.loads(line)[kind.name]

    if output is None:
        found = dict(bars.through(results, len(texts), " texts", lambda _: 1))
        for i, text in enumerate(texts):
            print(*map(printable, (title(text), *(f"  {line}" for line in kind.lines(found[i])))), sep="\n")
        return
    from tqdm import tqdm

    with unfinished.kept(output, unfinished.Form("texts", len(texts), done, fits)):
        for i, value in tqdm(results, total=len(texts), unit=" texts", smoothing=0):
            found[i] = value
        files.write_bytes(output, done()[1])
    seconds = time.perf_counter() - start
    print(
        f"Read {len(texts)} texts, {len(encoded.windows)} windows, in {seconds:.1f} s "
        f"({len(encoded.windows) / seconds:.1f} Sentences/Sec) on {reader.session.device}; results in {output}"
    )
