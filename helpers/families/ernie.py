"""ERNIE (Sun et al., 2020, arXiv:1907.12412): BERT, with an embedding of the training task where that is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.families.base import Arrays, Family, Shapes, renamer
from helpers.tokenization import wordpiece
from helpers.weights import tensor_shapes

if TYPE_CHECKING:
    from helpers.config import BertConfig

TASKS = "ernie.embeddings.task_type_embeddings.weight"
SEGMENTS = "bert.embeddings.token_type_embeddings.weight"


def stored(config: BertConfig) -> Shapes:
    tasks = {TASKS: (config.extra["task_type_vocab_size"], config.hidden_size)} if config.extra["use_task_id"] else {}
    return {**tensor_shapes(config), **tasks}


def complete(arrays: Arrays, config: BertConfig) -> Arrays:
    """Every token has the first task: its embedding is added to the segments'."""
    tasks = arrays.get(TASKS)
    rest = {name: array for name, array in arrays.items() if name != TASKS}
    return rest if tasks is None else {**rest, SEGMENTS: rest[SEGMENTS] + tasks[0]}


FAMILIES = (
    Family(
        "ernie",
        "Ernie",
        "ernie",
        wordpiece.BERT,
        extra={"use_task_id": False, "task_type_vocab_size": 3},
        tensor_name=renamer("ernie"),
        stored=stored,
        complete=complete,
    ),
)
