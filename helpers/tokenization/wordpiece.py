"""WordPiece (Wu et al., 2016, arXiv:1609.08144), from a vocabulary with one token a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from helpers.errors import InputError
from helpers.reading import read_text
from helpers.tokenization.folder import Kind

LONGEST_WORD = 100  # characters; a longer word becomes the unknown token, as in BERT's own tokenizer


def build(files: Sequence[Path], settings: Mapping[str, Any], special: Mapping[str, str]) -> Pipeline:
    [path] = files
    vocab = read_vocab(path, [special[role] for role in ("pad", "unk", "cls", "sep")])
    lower_case, chinese = settings.get("do_lower_case"), settings.get("tokenize_chinese_chars")
    pipeline = Pipeline(WordPiece(vocab, unk_token=special["unk"], max_input_chars_per_word=LONGEST_WORD))
    pipeline.normalizer = BertNormalizer(
        lowercase=is_lower_case(vocab) if lower_case is None else lower_case,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=True if chinese is None else chinese,
    )
    pipeline.pre_tokenizer = BertPreTokenizer()
    return pipeline


def read_vocab(path: Path, special: Sequence[str]) -> dict[str, int]:
    """Token → id from a file with one token a line.

    Raises:
        InputError: the file is missing, not UTF-8, repeats a token, or lacks a special one.
    """
    lines = read_text(path, "vocabulary", hint="name it with {vocab_file}").split("\n")
    if lines[-1] == "":
        lines.pop()
    vocab: dict[str, int] = {}
    for number, token in enumerate(lines):
        if vocab.setdefault(token, number) != number:
            raise InputError(f"vocabulary {path} repeats {token!r:.60} in line {number + 1}, first in line {vocab[token] + 1}")
    missing = [token for token in special if token not in vocab]
    if missing:
        raise InputError(f"vocabulary {path} lacks {', '.join(missing):.200}", "is it the model's WordPiece vocabulary?")
    return vocab


def is_lower_case(vocab: Iterable[str]) -> bool:
    """Whether a vocabulary is of lower-cased text: none of its pieces that are letters alone has a capital."""
    pieces = (token[2:] if token.startswith("##") else token for token in vocab)
    return not any(piece != piece.lower() for piece in pieces if piece.isalpha())


SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
BERT = Kind("BertTokenizer", ("vocab.txt",), build, SPECIAL)
MPNET = Kind(
    "MPNetTokenizer",
    ("vocab.txt",),
    build,
    {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "[UNK]", "mask": "<mask>", "bos": "<s>", "eos": "</s>"},
    separators=2,
    passage_segment=0,
)
