"""Tensors of every family's checkpoints: which are read, by which names, and what is said where some are missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import checkpoints
from helpers.commands.flags import FLAGS
from helpers.config import (
    FEATURE_EXTRACTION,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TASKS,
    TOKEN_CLASSIFICATION,
    BertConfig,
)
from helpers.errors import InputError
from tests.inputs import change
from tests.models import arrays_of
from tests.variants import PLAIN, VARIANTS, save

# Of an encoder, the pooler is for pretraining, unless a sequence is classified.
UNREAD = re.compile(r"(^|\.)pooler(\.dense)?\.(weight|bias)$")


def message_of(path: Path, config: BertConfig) -> str:
    """What is said of a checkpoint that is refused, in one line."""
    with pytest.raises(InputError) as error:
        checkpoints.load("pytorch", path, config)
    message = error.value.told(FLAGS)
    assert message.isprintable()
    assert message.startswith(f"{path}/model.safetensors ")
    return message


@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_is_read(name: str) -> None:
    """Under the name and in the shape that it has in Hugging Face's model, and none but poolers is left."""
    for task in TASKS:
        model = VARIANTS[name].model(task)
        config = BertConfig.from_dict(model.config.to_dict(), Path("config.json"), task)
        family = config.family
        found = {family.tensor_name(each, config): tuple(shape) for each, shape in family.stored(config).items()}
        assert len(found) == len(family.stored(config))
        prefix = f"{family.prefix}." if task == FEATURE_EXTRACTION else ""
        theirs = {f"{prefix}{each}": array.shape for each, array in arrays_of(model).items()}
        unread = {each: shape for each, shape in theirs.items() if each not in found}
        assert {**found, **unread} == theirs
        assert all(UNREAD.search(each) for each in unread), unread
        assert not unread or task == FEATURE_EXTRACTION or name.startswith(("ernie", "squeezebert", "albert"))


# Refused

HEADS = {  # the name of what a checkpoint of another task lacks, if not this
    SEQUENCE_CLASSIFICATION: {
        **dict.fromkeys(("roberta", "camembert", "xlm-roberta", "electra", "mpnet"), "classifier.dense.weight"),
        **{"bert": "bert.pooler.dense.weight", "ernie": "ernie.pooler.dense.weight", "distilbert": "pre_classifier.weight"},
        **{"deberta": "pooler.dense.weight", "deberta-v2": "pooler.dense.weight", "modernbert": "head.dense.weight"},
        **{"squeezebert": "transformer.pooler.dense.weight", "albert": "albert.pooler.weight"},
    },
    TOKEN_CLASSIFICATION: {"modernbert": "head.dense.weight", "": "classifier.weight"},
    QUESTION_ANSWERING: {"modernbert": "head.dense.weight", "": "qa_outputs.weight"},
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_checkpoint_without_the_head(name: str, tmp_path: Path) -> None:
    """Of another task, or of the encoder alone."""
    save(PLAIN[name].model(FEATURE_EXTRACTION), tmp_path)
    for task, lacking in HEADS.items():
        message = message_of(tmp_path, BertConfig.load(tmp_path, task))
        assert message.endswith(f"; it has no head for --task {task}")
        assert re.search(
            rf"lacks \d of \d+ tensors: (\S+, )*{re.escape(lacking.get(name, lacking.get('', '')))}[,;]", message
        ) or (
            task == SEQUENCE_CLASSIFICATION and "pooler" in lacking[name]  # which the encoder's has
        ), message


def test_a_head_of_another_task(tmp_path: Path) -> None:
    save(PLAIN["distilbert"].model(TOKEN_CLASSIFICATION), tmp_path)
    with pytest.raises(InputError, match="DistilBertForTokenClassification has no head for question-answering"):
        BertConfig.load(tmp_path, QUESTION_ANSWERING)
    change(tmp_path / "config.json", "architectures")  # without which the tensors tell
    message = message_of(tmp_path, BertConfig.load(tmp_path, QUESTION_ANSWERING))
    assert message.endswith(
        " lacks 2 of 54 tensors: qa_outputs.weight, qa_outputs.bias; it has no head for --task question-answering"
    )
    message = message_of(tmp_path, BertConfig.load(tmp_path, SEQUENCE_CLASSIFICATION))
    assert message.endswith(
        " lacks 2 of 56 tensors: pre_classifier.weight, pre_classifier.bias; it has no head for --task sequence-classification"
    )


def test_a_head_is_not_all_that_is_missing(tmp_path: Path) -> None:
    save(PLAIN["bert"].model(FEATURE_EXTRACTION), tmp_path)
    config = replace(BertConfig.load(tmp_path, QUESTION_ANSWERING), num_hidden_layers=4)
    message = message_of(tmp_path, config)
    assert "lacks 18 of 71 tensors" in message
    assert "it has no head" not in message


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("task", [QUESTION_ANSWERING, FEATURE_EXTRACTION])
def test_more_layers_than_the_configuration_has(name: str, task: str, tmp_path: Path) -> None:
    """Or, where layers share their weights, more groups. A file of the encoder alone is held against it as well."""
    save(VARIANTS["albert-in-groups" if name == "albert" else name].model(task), tmp_path)
    config = BertConfig.load(tmp_path, task)
    changes: dict[str, Any] = {"num_hidden_layers": 2}
    if name == "albert":
        changes = {"extra": {**config.extra, "num_hidden_groups": 1}}
    if name == "modernbert":
        changes["extra"] = {**config.extra, "layer_types": config.extra["layer_types"][:2]}
    had, wanted = (2, 1) if name == "albert" else (3, 2)
    message = message_of(tmp_path, replace(config, **changes))
    assert message.endswith(f"model.safetensors has {had} encoder layers, its configuration {wanted}")


def test_a_size_that_is_not_the_file_s(tmp_path: Path) -> None:
    """Named as the checkpoint names the tensor."""
    save(PLAIN["roberta"].model(QUESTION_ANSWERING), tmp_path)
    config = replace(BertConfig.load(tmp_path), max_position_embeddings=510)
    assert message_of(tmp_path, config).endswith(
        "roberta.embeddings.position_embeddings.weight: expected [512, 32], found [66, 32]"
    )
