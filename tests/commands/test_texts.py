"""inference.py with engines for other tasks: what it prints and writes is what Reader gives, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.reader import Reader
from tests.pipelines import TAGS, model_of, save
from tests.running import refused, run, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

TASKS = {"classify": "sequence-classification", "tag": "token-classification", "embed": "feature-extraction"}
TEXTS = ["the cat sat on a mat", "who? why", "a  b\tc"]
LONG = " ".join("abcdefgh" * 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine for each task, and texts."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, task in TASKS.items():
        save(model_of(task, TAGS), folder / f"{name}-model")
        succeeds("builder.py", f"-pt {name}-model -o {name}.engine --task {task} -s 32 -b 4 --backend onnxruntime", folder)
    (folder / "texts.txt").write_bytes(f"{TEXTS[0]}\n\n \n{TEXTS[1]}\r\n{TEXTS[2]}".encode())
    (folder / "long.txt").write_text(f"{LONG}\na b\n")
    (folder / "question.txt").write_text("who sat")
    return folder


def blocks(printed: str) -> dict[str, list[str]]:
    """Text → the lines about it."""
    parts = re.findall(r"^(?!  )(.*)\n((?:  .*\n)+)", printed, re.MULTILINE)
    assert "".join(map("".join, parts)).replace("\n", "") == printed.replace("\n", "")  # nothing else is printed
    return {text: [line[2:] for line in lines.splitlines()] for text, lines in parts}


def written(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# On the screen


@pytest.mark.parametrize("question", ["", "-q who sat", "-qf question.txt"])
def test_labels(folder: Path, question: str) -> None:
    found = blocks(succeeds("inference.py", f"-e classify.engine -pf texts.txt {question} --n-best-size 3", folder))
    assert list(found) == [" ".join(text.split()) for text in TEXTS]
    with Reader.open(folder / "classify.engine") as reader:
        pairs = reader.classify(["who sat"] * 3, TEXTS) if question else reader.classify(TEXTS)
    for lines, labels in zip(found.values(), pairs):
        assert lines == [f"{label.score:9.6f}  {label.label}" for label in labels[:3]]
    assert len({tuple(lines) for lines in found.values()}) == 3


def test_entities(folder: Path) -> None:
    found = blocks(succeeds("inference.py", f"-e tag.engine -p {LONG}", folder))
    with Reader.open(folder / "tag.engine") as reader:
        entities = reader.entities(LONG)
    [(text, lines)] = found.items()
    assert text == LONG[:79] + "…"
    assert lines == [f"{e.score:9.6f}  {e.label}  {e.start}-{e.end}  {e.text!r}" for e in entities]
    assert len(lines) > 3
    assert blocks(succeeds("inference.py", f"-e tag.engine -p {LONG} -s 20 -d 3", folder))[text] != lines  # other windows


def test_a_text_without_entities(folder: Path) -> None:
    assert succeeds("inference.py", "-e tag.engine -p \u200b", folder).endswith("\n  no entities\n")


@pytest.mark.parametrize("pooling", ["", "--pooling mean", "--pooling cls"])
def test_vector(folder: Path, pooling: str) -> None:
    printed = succeeds("inference.py", f"-e embed.engine -p the cat sat {pooling}", folder)
    match = re.fullmatch(r"the cat sat\n  \[(.+), …\]  32 numbers\n", printed)
    assert match, printed
    with Reader.open(folder / "embed.engine") as reader:
        vector = reader.embed("the cat sat", pooling.split()[1] if pooling else "mean")
    assert [float(number) for number in match[1].split(", ")] == pytest.approx(vector[:8].tolist(), abs=1e-6)


# In a file


@pytest.mark.parametrize("batch_size", [1, 4])
def test_written_labels(folder: Path, tmp_path: Path, batch_size: int) -> None:
    args = f"-e {folder}/classify.engine -pf {folder}/texts.txt -q 'who é' -o out.jsonl -b {batch_size}"
    printed = succeeds("inference.py", args, tmp_path)
    says = r"Read 3 texts, 3 windows, in \d+\.\d s \(\d+\.\d Sentences/Sec\) on .+; results in out\.jsonl\n"
    assert re.fullmatch(says, printed), printed
    with Reader.open(folder / "classify.engine") as reader:
        expected = reader.classify(["who é"] * 3, TEXTS)
    for row, text, labels in zip(written(tmp_path / "out.jsonl"), TEXTS, expected):
        assert (list(row), row["question"], row["text"]) == (["question", "text", "labels"], "who é", text)
        assert [each["label"] for each in row["labels"]] == [label for label, _ in labels]
        assert [each["score"] for each in row["labels"]] == pytest.approx([score for _, score in labels], abs=1e-5)


def test_written_entities(folder: Path, tmp_path: Path) -> None:
    succeeds("inference.py", f"-e {folder}/tag.engine -pf {folder}/long.txt -o out.jsonl", tmp_path)
    with Reader.open(folder / "tag.engine") as reader:
        expected = reader.entities([LONG, "a b"])
    for row, text, entities in zip(written(tmp_path / "out.jsonl"), (LONG, "a b"), expected):
        assert row["text"] == text
        assert row["entities"] == [{**e._asdict(), "score": pytest.approx(e.score, abs=1e-5)} for e in entities]


def test_written_vectors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    succeeds("inference.py", f"-e {folder}/embed.engine -pf {folder}/texts.txt -o out.jsonl", tmp_path)
    with Reader.open(folder / "embed.engine") as reader:
        expected = reader.embed(TEXTS)
    rows = written(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["classify", "embed"])
def test_texts_that_are_longer_than_the_engine_takes(folder: Path, engine: str) -> None:
    done = run("inference.py", f"-e {engine}.engine -pf long.txt", folder)
    assert done.stderr == "warning: 1 of 2 texts do not fit a window of 32 tokens: only their beginning is read\n"
    assert done.returncode == 0
    assert "warning" not in run("inference.py", "-e tag.engine -pf long.txt", folder).stderr


# Refused


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-e tag.engine", "a passage is required: --passage or --passage-file"),
        ("-e tag.engine -p a -q who", "--question is for question-answering and sequence-classification, but engine tag.engine"),
        ("-e embed.engine -p a -qf question.txt", "but engine embed.engine is for feature-extraction: leave it out"),
        ("-e tag.engine -p a --pooling cls", "--pooling is for feature-extraction, but engine tag.engine is for token-class"),
        ("-e embed.engine -p a --pooling max", "argument --pooling: invalid choice: 'max'"),
        ("-e classify.engine -p a -s 33", "sequence length 33 is above the engine's, 32: lower -s"),
        ("-e classify.engine -p a -b 5", "batch size 5 is above the engine's, 4: lower -b"),
        ("-e classify.engine -p a -s 2", "a window of 2 tokens holds nothing beside its 2 separators: raise -s"),
        ("-e classify.engine -pf question.txt -o question.txt", "output question.txt is read as well"),
        ("-e classify.engine -pf texts.txt -qf question.txt -o question.txt", "output question.txt is read as well"),
        ("-e classify.engine -p a -o classify.engine", "output classify.engine is read as well"),
        ("-e classify.engine -p a -o absent/out", "output folder absent does not exist"),
        ("-e classify.engine -p 'a \udcff'", "text 1 is not valid Unicode"),
    ],
)
def test_refused(folder: Path, args: str, says: str) -> None:
    refused("inference.py", args, folder, says)


def test_squad(folder: Path, tmp_path: Path) -> None:
    from tests.inputs import SQUAD

    says = f"--squad-json is for question-answering, but engine {folder}/tag.engine is for token-classification: leave it out"
    refused("inference.py", f"-e {folder}/tag.engine -sq {SQUAD}", tmp_path, says)
