#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Builds an engine of a BERT-like model whose sequences lie end to end: nothing is computed for padding."""

from __future__ import annotations

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from helpers.request import BuildRequest


def read(argv: list[str]) -> tuple[argparse.Namespace, BuildRequest]:
    """The command line, and what it asks for."""
    from helpers.commands import build, cli
    from helpers.layouts import Profile

    parser = cli.Parser(__doc__)
    build.add_arguments(parser)
    add = parser.add_argument
    add(
        "-b",
        "--max-batch-size",
        type=cli.positive,
        action="append",
        help="with -s, gives the most tokens of a batch, batch size × sequence length; may be repeated (default: 1)",
    )
    add("-s", "--max-sequence-length", type=cli.positive, default=128, help="tokens of the longest sequence")
    add("-pkl", "--pickle", type=Path, help="Megatron state dict")
    add("--megatron", action="store_true", help="Megatron residuals; with --pickle, --int8 and --interleaved")
    add("-il", "--interleaved", action="store_true", help="int8: the 32-channel interleaved layout")
    args = parser.parse_args(argv)

    profiles = [Profile(size, args.max_sequence_length) for size in sorted(set(args.max_batch_size or [1]))]
    return args, build.request(
        parser, args, profiles=tuple(profiles), packed=True, interleaved=args.interleaved, megatron=args.megatron
    )


def main(argv: list[str]) -> None:
    from helpers.commands import build

    args, request = read(argv)
    build.run(request, args.backend, args.output)


if __name__ == "__main__":
    process.main(main)
