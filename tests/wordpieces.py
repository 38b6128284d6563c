"""A WordPiece tokenizer of few tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers import tokenization
from helpers.tokenization import Tokenizer, wordpiece
from tests.models import VOCAB


def letters(tokens: Sequence[str] = VOCAB) -> Tokenizer:
    """Every lower-case word is spelled letter by letter; ids are places among `tokens`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        tokenizer, _ = tokenization.read(path, wordpiece.BERT, {})
    return tokenizer
