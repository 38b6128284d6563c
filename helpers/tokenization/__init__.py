"""Text to tokens: WordPiece, byte-level BPE and SentencePiece, through the `tokenizers` library, with characters' offsets."""

from __future__ import annotations

from helpers.tokenization.folder import Kind, check_size, read
from helpers.tokenization.tokenizer import Template, Tokenizer, Tokens

__all__ = ["Kind", "Template", "Tokenizer", "Tokens", "check_size", "read"]
