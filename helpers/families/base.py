"""What a model family is: its configuration's keys, its tensors' names, its tokenizer and its windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

import numpy as np

from helpers.tokenization import Tokenizer


class Template(NamedTuple):
    """A window: `before`, the question, `between`, a part of the passage, `after`. Special tokens go by name."""

    before: tuple[str, ...] = ("[CLS]",)
    between: tuple[str, ...] = ("[SEP]",)
    after: tuple[str, ...] = ("[SEP]",)
    passage_segment: int = 1  # segment id of the passage and of what comes after it; all before it has 0


BERT_TEMPLATE = Template()


@dataclass(frozen=True)
class Family:
    """What is particular to the checkpoints of one model_type.

    Args:
        keys: BertConfig's fields that the configuration calls otherwise.
        fixed: BertConfig's fields that the family's own code fixes.
        tensor_name: the checkpoint's name of a tensor, given BERT's (weights.tensor_shapes).
        constants: tensors that checkpoints lack by design, under BERT's names, given every tensor's shape.
        tokenizer: (token → id, whether text is lower-cased) → Tokenizer.
    """

    model_type: str
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    tensor_name: Callable[[str], str] = str
    constants: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, np.ndarray]] = lambda shapes: {}
    template: Template = BERT_TEMPLATE
    tokenizer: Callable[[dict[str, int], bool], Tokenizer] = Tokenizer
