"""Files that the scripts read: good ones, and ways to spoil them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from tests.running import ROOT

SQUAD = ROOT / "tests/data/squad-mini.json"


class Bad(NamedTuple):
    """A command line that is refused, what it says, and what makes it so."""

    args: str
    says: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, *without: str, **values: Any) -> None:
    """Sets members of a JSON file's object, or takes them away."""
    merged = {**read(path), **values}
    path.write_text(json.dumps({key: value for key, value in merged.items() if key not in without}), encoding="utf-8")


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def half_of(write: Callable[[Path], object], name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        write(folder / name)
        cut(folder / name)

    return prepare


# SQuAD


def questions_of(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Id → question and passage."""
    return {
        question["id"]: (question["question"], paragraph["context"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


def squad_of(*questions: dict[str, Any]) -> dict[str, Any]:
    """A SQuAD file of two articles; the questions are those of the second paragraph of the second one."""
    first = {"context": "a b", "qas": [{"id": "1", "question": "why"}]}
    second = {"context": "the cat sat", "qas": list(questions) or [{"id": "2", "question": "who"}]}
    return {"version": "1.1", "data": [{"paragraphs": [first]}, {"paragraphs": [{**first, "qas": []}, second]}]}


def write_squad(path: Path, *asked: tuple[str, Sequence[str]]) -> Path:
    """A SQuAD file of passages, each with its questions."""
    paragraphs = [
        {"context": text, "qas": [{"id": f"{p} {q}", "question": question} for q, question in enumerate(questions)]}
        for p, (text, questions) in enumerate(asked)
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return path


PARAGRAPH = ("data", 1, "paragraphs", 1)  # that second paragraph


def lacking(*place: Any) -> dict[str, Any]:
    """A SQuAD file without one member."""
    document = squad_of()
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    del parent[place[-1]]
    return document
