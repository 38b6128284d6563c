"""The registry of model families: what each must say, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers

from helpers import families
from helpers.config import SIZES, TASKS, BertConfig
from helpers.errors import InputError
from helpers.families.base import Family
from tests.models import small_config
from tests.running import ROOT, refused

HELPERS = ROOT / "helpers"

KNOWN = "supported are " + ", ".join(families.FAMILIES)
# What else a configuration may say, and how it is told
UNKNOWN: list[tuple[Any, str]] = [
    ("gpt2", "'gpt2'"),
    ("roberta-prelayernorm", "'roberta-prelayernorm'"),
    ("Bert", "'Bert'"),
    ("", "''"),
    ("bert\n", r"'bert\n'"),
    (3, "3"),
    (None, "None"),
    (["bert"], "['bert']"),
    ({"bert": 1}, "{'bert': 1}"),
    ("x" * 100, "'" + "x" * 59),
]


@pytest.mark.parametrize(("model_type", "told"), UNKNOWN, ids=[told for _, told in UNKNOWN])
def test_an_unknown_family(model_type: Any, told: str) -> None:
    message = f"model_type {told} is not supported; {KNOWN}"
    values = {**small_config().to_dict(), "model_type": model_type}
    with pytest.raises(InputError) as error:
        BertConfig.from_dict(values, Path("config.json"))
    assert str(error.value) == f"configuration config.json: {message}"
    assert str(error.value).isprintable()
    with pytest.raises(InputError) as error:
        families.find(model_type, "here")
    assert str(error.value) == f"here: {message}"


@pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
def test_a_checkpoint_of_an_unknown_family(work: Path, script: str) -> None:
    path = work / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))
    says = f"configuration model/config.json: model_type 'gpt2' is not supported; {KNOWN}\n"
    refused(script, "-pt model -o new.engine -s 64 --backend onnxruntime", work, says)


def test_no_model_type_means_bert() -> None:
    """As in the configurations that TensorFlow's checkpoints come with."""
    values = small_config().to_dict()
    assert values.pop("model_type") == "bert"
    config = BertConfig.from_dict(values, Path("config.json"))
    assert config == small_config()
    assert config.family is families.FAMILIES["bert"]


def test_what_there_is() -> None:
    first = ("bert", "roberta", "camembert", "xlm-roberta", "distilbert", "electra", "albert", "mpnet", "deberta", "deberta-v2")
    assert tuple(families.FAMILIES) == (*first, "modernbert", "ernie", "squeezebert")


def test_a_family_is_one_file() -> None:
    """Its own; nothing else in the package knows it, but for networks and tokenizers that are of more than BERT's kind."""
    modules = {path.stem for path in (HELPERS / "families").glob("*.py")} - {"__init__", "base"}
    assert modules == {module.__name__.rpartition(".")[2] for module in families.MODULES}
    for name in ("distilbert", "electra", "ernie", "squeezebert"):
        knowing = [path for path in HELPERS.rglob("*.py") if name in path.read_text(encoding="utf-8").lower()]
        assert {str(path.relative_to(HELPERS)) for path in knowing} - {"families/albert.py"} == {
            "families/__init__.py",
            f"families/{name}.py",
        }


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)
def test_what_a_family_says(family: Family) -> None:
    """It speaks of BERT's own fields, and calls no two alike."""
    assert families.find(family.model_type, "here") is family
    known = {field.name for field in fields(BertConfig)}
    assert set(family.keys) | set(family.fixed) | set(family.defaults) <= set(SIZES) <= known
    assert not set(family.keys) & set(family.fixed)
    assert not set(family.extra) & known
    called = [family.keys.get(name, name) for name in known]
    assert len(set(called)) == len(called)


def test_tokenizers_by_the_name_of_their_class() -> None:
    """As tokenizer_config.json names them; ModernBERT's class tells nothing."""
    for family in families.FAMILIES.values():
        named = families.TOKENIZERS.get(family.tokenizer.name)
        assert named == (None if family.model_type == "modernbert" else family.tokenizer)


def test_architectures_are_those_of_hugging_face() -> None:
    for family in families.FAMILIES.values():
        for suffix in TASKS.values():
            assert getattr(transformers, family.architecture + suffix).config_class.model_type == family.model_type
