#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Writes a BERT checkpoint of random weights: a shape to time where no trained checkpoint can be had.

It has the activation ranges that int8 needs, found by running it in float32 on random tokens.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers.checkpoints import megatron, pytorch  # noqa: E402
from helpers.commands import cli  # noqa: E402
from helpers.commands.perf import random_batch  # noqa: E402
from helpers.config import BertConfig  # noqa: E402
from helpers.files import make_folder  # noqa: E402
from helpers.quantization import calibration, ranges, sparsity  # noqa: E402
from helpers.sites import bert_sites  # noqa: E402
from helpers.weights import random_weights  # noqa: E402

SIZES = {
    "base": BertConfig(30522, 768, 12, 12, 3072, 512),
    "large": BertConfig(30522, 1024, 24, 16, 4096, 512),
    "mini": BertConfig(30522, 384, 6, 12, 1536, 512),
}
LENGTH = 64  # tokens of the sequence that ranges are found with


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("model", choices=SIZES, help="of Devlin et al., 2018, table 1; mini is as large as the bundled model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("-r", "--random-seed", type=cli.not_negative, default=12345, help="seed of the weights")
    parser.add_argument(
        "--megatron", action="store_true", help="Megatron residuals and 2:4 sparse matrices, for --pickle: megatron.pkl"
    )
    args = parser.parse_args(argv)

    config, vocab = SIZES[args.model], ROOT / "models/minilm-l6-squad/vocab.txt"
    make_folder(args.output)
    weights = random_weights(config, args.random_seed)
    if args.megatron:
        weights = sparsity.prune(weights)
    sites = bert_sites(config.num_hidden_layers, args.megatron)
    windows = [random_batch([LENGTH], config.vocab_size, args.random_seed)]
    weights = replace(weights, ranges=ranges.to_checkpoint(calibration.calibrate(weights, config, sites, windows), sites))
    if args.megatron:
        megatron.save(args.output / "megatron.pkl", weights)
        pytorch.save_config(args.output, config, vocab)
    else:
        pytorch.save(args.output, weights, config, vocab)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    cli.main(main)
