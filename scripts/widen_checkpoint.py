#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Writes a wider checkpoint that computes the same logits, in a hidden size that int8 plugins take (docs/checkpoints.md)."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from pathlib import Path


def main(argv: list[str]) -> None:
    from helpers import families, tokenization
    from helpers.bert import bert
    from helpers.checkpoints import pytorch, writing
    from helpers.checkpoints.folder import FOLDER_FILES
    from helpers.commands import cli
    from helpers.config import BertConfig
    from helpers.errors import InputError
    from helpers.request import of_model
    from helpers.transforms import widen
    from helpers.weights import tensor_shapes

    parser = cli.Parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="Hugging Face folder")
    parser.add_argument("-k", "--times", type=cli.positive, default=2, help="how many times as wide")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace another model in that folder")
    args = parser.parse_args(argv)

    config = BertConfig.load(args.checkpoint)
    if config.family.network is not bert or config.family.stored is not tensor_shapes:
        raise InputError(f"{args.checkpoint} is of {config.model_type}, which cannot be widened", "take a BERT or a DistilBERT")
    # Which are copied; a folder whose tokenizer cannot be read is refused before anything is written.
    tokenization.read(args.checkpoint, config.family.tokenizer, families.TOKENIZERS)
    names = writing.contents({FOLDER_FILES[0]: []}, config, args.checkpoint)
    writing.check_folder(args.output, names, of_model(args.checkpoint), args.overwrite)
    weights, wide = widen(pytorch.load(args.checkpoint, config), config, args.times)
    pytorch.save(args.output, weights, wide, args.checkpoint)
    print(f"Wrote {args.output}, hidden size {wide.hidden_size}")


if __name__ == "__main__":
    process.main(main)
