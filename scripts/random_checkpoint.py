#!/usr/bin/env python3
"""Writes a BERT checkpoint of random weights: a shape to time where no trained checkpoint can be had."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers import cli  # noqa: E402
from helpers.checkpoints import pytorch  # noqa: E402
from helpers.config import BertConfig  # noqa: E402
from helpers.weights import random_weights  # noqa: E402

SIZES = {
    "base": BertConfig(30522, 768, 12, 12, 3072, 512),
    "large": BertConfig(30522, 1024, 24, 16, 4096, 512),
}


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("model", choices=SIZES, help="Devlin et al., 2018, table 1")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("-r", "--random-seed", type=int, default=12345, help="seed of the weights")
    args = parser.parse_args(argv)
    config = SIZES[args.model]
    vocab = ROOT / "models/minilm-l6-squad/vocab.txt"
    pytorch.save(args.output, random_weights(config, args.random_seed), config, vocab)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    cli.main(main)
