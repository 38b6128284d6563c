"""The message of an InputError: problem and hint, on a command line and in Python."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

from helpers import backends
from helpers.commands.flags import FLAGS
from helpers.errors import InputError, listed, spelled
from tests.running import ROOT


@pytest.mark.parametrize(
    ("problem", "hint", "python", "command"),
    [
        ("too long", "", "too long", "too long"),
        ("too long", "lower {sequence_length}", "too long: lower sequence_length", "too long: lower -s"),
        ("cannot read x: gone", "use {fp16}", "cannot read x: gone; use fp16", "cannot read x: gone; use --fp16"),
        ("a:b", "name another", "a:b: name another", "a:b: name another"),
        ("bad", "add {int8} {fp16}, or {other}", "bad: add int8 fp16, or other", "bad: add -i --fp16, or other"),
        ("{int8} in {x}", "not {int8}", "{int8} in {x}: not int8", "{int8} in {x}: not -i"),  # a problem is told as it is
        ("bad", "{}, { int8 } and {int-8}", "bad: {}, { int8 } and {int-8}", "bad: {}, { int8 } and {int-8}"),
    ],
)
def test_messages(problem: str, hint: str, python: str, command: str) -> None:
    error = InputError(problem, hint)
    assert (error.problem, error.hint) == (problem, hint)
    assert str(error) == python
    assert error.told({"sequence_length": "-s", "fp16": "--fp16", "int8": "-i"}) == command
    assert str(pickle.loads(pickle.dumps(error))) == python


def test_a_hint_may_be_left_out() -> None:
    assert (InputError("bad").hint, str(InputError("bad"))) == ("", "bad")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("nothing", "nothing"),
        ("{fp16}", "--fp16"),
        ("{fp16}{fp16} {int8_attention}", "--fp16--fp16 int8_attention"),
        ("{{fp16}}", "{--fp16}"),
    ],
)
def test_spelled(text: str, expected: str) -> None:
    assert spelled(text, {"fp16": "--fp16"}) == expected


def texts_of(path: Path) -> list[str]:
    """Every text in a source file that is not documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_every_field_in_a_hint_or_warning_has_a_flag() -> None:
    sources = [*ROOT.glob("*.py"), *ROOT.glob("helpers/**/*.py")]
    assert len(sources) > 40
    found = {name for path in sources for text in texts_of(path) for name in re.findall(r"\{([a-z]\w*)\}", text)}
    assert found > {"sequence_length", "vocab_file", "int8_attention", "sparse", "pickle"}
    assert found <= set(FLAGS)
    assert {name for backend in backends.NAMES for name in backends.find(backend).ignores} <= set(FLAGS)


@pytest.mark.parametrize(
    ("count", "told"), [(0, ""), (1, "0"), (2, "0, 1"), (3, "0, 1, 2"), (4, "0, 1, 2, and 1 more"), (100, "0, 1, 2, and 97 more")]
)
def test_listed(count: int, told: str) -> None:
    assert listed([str(i) for i in range(count)]) == told
    assert listed([str(i) for i in range(count)], "; ") == told.replace(", ", "; ")
