#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Writes a wider checkpoint that computes the same logits, in a hidden size that int8 plugins take (docs/checkpoints.md)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers import families, tokenization  # noqa: E402
from helpers.bert import bert  # noqa: E402
from helpers.checkpoints import pytorch  # noqa: E402
from helpers.commands import cli  # noqa: E402
from helpers.config import BertConfig  # noqa: E402
from helpers.errors import InputError  # noqa: E402
from helpers.files import check_writable, make_folder  # noqa: E402
from helpers.transforms import widen  # noqa: E402
from helpers.weights import tensor_shapes  # noqa: E402


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="Hugging Face folder")
    parser.add_argument("-k", "--times", type=cli.positive, default=2, help="how many times as wide")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    args = parser.parse_args(argv)

    config = BertConfig.load(args.checkpoint)
    if config.family.network is not bert or config.family.stored is not tensor_shapes:
        raise InputError(f"{args.checkpoint} is of {config.model_type}, which cannot be widened", "take a BERT or a DistilBERT")
    # Which are copied last; a folder whose tokenizer cannot be read is refused before anything is written.
    tokenization.read(args.checkpoint, config.family.tokenizer, families.TOKENIZERS)
    make_folder(args.output)
    for path in args.checkpoint.iterdir():
        check_writable(args.output / path.name, path)
    weights, wide = widen(pytorch.load(args.checkpoint, config), config, args.times)
    pytorch.save(args.output, weights, wide, args.checkpoint)
    print(f"Wrote {args.output}, hidden size {wide.hidden_size}")


if __name__ == "__main__":
    cli.main(main)
