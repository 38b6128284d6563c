"""Hugging Face's pipelines over small random models, to hold our results against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.models import VOCAB, write_vocab
from tests.variants import PLAIN

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")


def model_of(task: str, labels: Sequence[str], seed: int = 3, **changes: Any) -> Any:
    """Hugging Face's small BERT for a task, all of whose words are spelled letter by letter."""
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return PLAIN["bert"].model(task, seed, vocab_size=len(VOCAB), **{**named, **changes})


def save(model: Any, folder: Path) -> Path:
    """A folder as models are published in, with a vocabulary."""
    model.save_pretrained(folder)
    write_vocab(folder / "vocab.txt", model.config.vocab_size)
    return folder


def pipeline(task: str, folder: Path) -> Any:
    """Hugging Face's pipeline of a folder."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, do_lower_case=True, clean_up_tokenization_spaces=False)
    auto: dict[str, Any] = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "feature-extraction": transformers.AutoModel,
    }
    made: Any = transformers.pipeline
    return made(task, model=auto[task].from_pretrained(folder), tokenizer=tokenizer)
