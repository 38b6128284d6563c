"""Byte-level BPE (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"), from a vocabulary and merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Pipeline
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from helpers.reading import read_object, read_text
from helpers.tokenization.folder import Kind, check_ids
from helpers.tokenization.wordpiece import SPECIAL


def build(files: Sequence[Path], settings: Mapping[str, Any], special: Mapping[str, str]) -> Pipeline:
    vocab = read_object(files[0], "")
    check_ids(vocab.values())
    lines = read_text(files[1], "").split("\n")
    # Of the characters that bytes are written as, none is a space.
    merges: Any = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    pipeline = Pipeline(BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    pipeline.pre_tokenizer = ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    return pipeline


FILES = ("vocab.json", "merges.txt")
FAIRSEQ = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>", "bos": "<s>", "eos": "</s>"}
ROBERTA = Kind("RobertaTokenizer", FILES, build, FAIRSEQ, separators=2, passage_segment=0)
DEBERTA = Kind("DebertaTokenizer", FILES, build, SPECIAL)
GENERIC = Kind("PreTrainedTokenizer", (), build, SPECIAL, passage_segment=0)  # has a tokenizer.json always
