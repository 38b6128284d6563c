"""WordPiece tokenization (Wu et al., 2016, arXiv:1609.08144) with the character offsets of every token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from helpers.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST_WORD = 100  # characters; a longer word becomes [UNK], as in BERT's own tokenizer


class Tokens(NamedTuple):
    """A text's tokens: ids [n], and [n, 2] offsets of each token's first and past-last character in the text; int32."""

    ids: np.ndarray
    offsets: np.ndarray


class Tokenizer:
    """Turns texts into tokens. Special tokens that are spelled out in a text are text."""

    def __init__(self, vocab: dict[str, int], lower_case: bool) -> None:
        self._vocab = vocab
        self._pipeline = Pipeline(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
        self._pipeline.normalizer = BertNormalizer(lowercase=lower_case)
        self._pipeline.pre_tokenizer = BertPreTokenizer()

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of special tokens, by name."""
        return [self._vocab[token] for token in tokens]

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenizes texts in parallel, without adding special tokens."""
        return [
            Tokens(
                np.array(encoding.ids, dtype=np.int32),
                np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2),
            )
            for encoding in self._pipeline.encode_batch(list(texts))
        ]


def read_vocab(path: Path) -> dict[str, int]:
    """Token → id from a file with one token a line.

    Raises:
        InputError: the file is missing, not UTF-8, repeats a token, or lacks one of [PAD], [UNK], [CLS], [SEP].
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as e:
        raise InputError(f"vocabulary {path} cannot be read: {e.strerror}", "name it with {vocab_file}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"vocabulary {path} is not UTF-8 text (byte {e.start})") from e
    if lines[-1] == "":
        lines.pop()
    vocab: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.rstrip("\r")
        if vocab.setdefault(token, number) != number:
            raise InputError(f"vocabulary {path} repeats {token!r} in line {number + 1}, first in line {vocab[token] + 1}")
    missing = [token for token in SPECIAL if token not in vocab]
    if missing:
        raise InputError(f"vocabulary {path} lacks {', '.join(missing)}", "is it the model's WordPiece vocabulary?")
    return vocab


def check_vocab_size(vocab: dict[str, int], vocab_size: int, path: Path) -> None:
    """Raises InputError where a vocabulary is not the embedding's.

    An embedding may have more rows than the vocabulary has tokens only as far as rounding up to a multiple of 8, 64
    or 128 explains, which training on tensor cores asks for.
    """
    rounded = {-(-len(vocab) // multiple) * multiple for multiple in (1, 8, 64, 128)}
    if vocab_size not in rounded:
        raise InputError(
            f"vocabulary {path} has {len(vocab)} tokens but the model's embedding {vocab_size} rows",
            "give the vocabulary that the model was trained with ({vocab_file})",
        )


def is_lower_case(vocab: dict[str, int], folder: Path) -> bool:
    """Whether a model reads lower-cased text: tokenizer_config.json in its folder says so, else the vocabulary shows it."""
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("do_lower_case")
    except (OSError, ValueError, AttributeError):
        told = None
    if isinstance(told, bool):
        return told
    return not any(token != token.lower() for token in vocab if not token.startswith("["))
