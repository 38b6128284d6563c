"""A WordPiece tokenizer of few tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

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


def write_tokenizer(folder: Path) -> None:
    """The same as a tokenizer.json, whose special tokens are told beside it: any family's checkpoint may have it."""
    pipeline = Pipeline(WordPiece({token: i for i, token in enumerate(VOCAB)}, unk_token="[UNK]"))
    pipeline.normalizer, pipeline.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    pipeline.save(str(folder / "tokenizer.json"))
    named = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
