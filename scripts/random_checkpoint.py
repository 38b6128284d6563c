#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Writes a BERT checkpoint of random weights: a shape to time where no trained checkpoint can be had.

It has the activation ranges that int8 needs, found by running it in float32 on random tokens.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = {  # vocabulary, hidden size, layers, heads, feed-forward, positions
    "base": (30522, 768, 12, 12, 3072, 512),
    "large": (30522, 1024, 24, 16, 4096, 512),
    "mini": (30522, 384, 6, 12, 1536, 512),
}
LENGTH = 64  # tokens of the sequence that ranges are found with


def main(argv: list[str]) -> None:
    from dataclasses import replace

    from helpers import files
    from helpers.checkpoints import megatron, pytorch, writing
    from helpers.checkpoints.folder import FOLDER_FILES
    from helpers.commands import cli
    from helpers.commands.perf import random_batch
    from helpers.config import BertConfig
    from helpers.quantization import calibration, ranges, sparsity
    from helpers.sites import bert_sites
    from helpers.weights import random_weights

    parser = cli.Parser(__doc__)
    parser.add_argument("model", choices=SIZES, help="of Devlin et al., 2018, table 1; mini is as large as the bundled model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("-r", "--random-seed", type=cli.not_negative, default=12345, help="seed of the weights")
    parser.add_argument(
        "--megatron", action="store_true", help="Megatron residuals and 2:4 sparse matrices, for --pickle: megatron.pkl"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another model in that folder")
    args = parser.parse_args(argv)

    config, vocab = BertConfig(*SIZES[args.model]), ROOT / "models/minilm-l6-squad/vocab.txt"
    name = "megatron.pkl" if args.megatron else FOLDER_FILES[0]
    writing.check_folder(args.output, writing.contents({name: []}, config, vocab), [vocab], args.overwrite)
    weights = random_weights(config, args.random_seed)
    if args.megatron:
        weights = sparsity.prune(weights)
    sites = bert_sites(config.num_hidden_layers, args.megatron)
    windows = [random_batch([LENGTH], config.vocab_size, args.random_seed)]
    weights = replace(weights, ranges=ranges.to_checkpoint(calibration.calibrate(weights, config, sites, windows), sites))
    data = megatron.dumps(weights) if args.megatron else pytorch.dumps(weights, config)
    files.write_folder(args.output, writing.contents({name: [data]}, config, vocab))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    process.main(main)
