"""The registry of model families: what each must say, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import families
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.families.base import Family
from helpers.tokenization import SPECIAL
from helpers.weights import tensor_shapes
from tests.models import small_config
from tests.running import ROOT, refused

HELPERS = ROOT / "helpers"

# What else a configuration may say, and how it is told
UNKNOWN: list[tuple[Any, str]] = [
    ("roberta", "'roberta'"),
    ("deberta-v2", "'deberta-v2'"),
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
    message = f"model_type {told} is not supported; supported are bert, distilbert"
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "roberta"}))
    says = "configuration model/config.json: model_type 'roberta' is not supported; supported are bert, distilbert"
    refused(script, "-pt model -o new.engine -s 64 --backend onnxruntime", work, says)


def test_no_model_type_means_bert() -> None:
    """As in the configurations that TensorFlow's checkpoints come with."""
    values = small_config().to_dict()
    assert values.pop("model_type") == "bert"
    config = BertConfig.from_dict(values, Path("config.json"))
    assert config == small_config()
    assert config.family is families.FAMILIES["bert"]


def test_a_family_is_one_file() -> None:
    """Its own; nothing else in the package knows it."""
    modules = {path.stem for path in (HELPERS / "families").glob("*.py")} - {"__init__", "base"}
    assert modules == set(families.FAMILIES)
    knowing = [path for path in HELPERS.rglob("*.py") if "distilbert" in path.read_text(encoding="utf-8").lower()]
    assert {str(path.relative_to(HELPERS)) for path in knowing} == {"families/__init__.py", "families/distilbert.py"}


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)
def test_what_a_family_says(family: Family) -> None:
    """It speaks of BERT's own fields and tensors, calls no two alike, and has windows of tokens that vocabularies have."""
    assert families.find(family.model_type, "here") is family
    known = {field.name for field in fields(BertConfig)}
    assert set(family.keys) | set(family.fixed) <= known - {"model_type"}
    assert not set(family.keys) & set(family.fixed)
    called = [family.keys.get(name, name) for name in known]
    assert len(set(called)) == len(called)

    shapes = tensor_shapes(small_config(num_hidden_layers=12))
    assert len({family.tensor_name(name) for name in shapes}) == len(shapes)
    for name, array in family.constants(shapes).items():
        assert array.shape == shapes[name]
        assert array.dtype == np.float32

    template = family.template
    assert {*template.before, *template.between, *template.after} <= set(SPECIAL)
    assert template.before and template.passage_segment in (0, 1)
    vocab = {token: i for i, token in enumerate((*SPECIAL, "the", "The"))}
    for lower_case, ids in ((True, [4, 4]), (False, [4, 5])):
        [tokens] = family.tokenizer(vocab, lower_case)(["the The"])
        assert tokens.ids.tolist() == ids
