#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Builds an engine of a BERT-like model whose sequences are padded to one length."""

from __future__ import annotations

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
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
    add("-b", "--batch-size", type=cli.positive, action="append", help="batch size to optimise for; may be repeated (default: 1)")
    add("-s", "--sequence-length", type=cli.positive, action="append", help="sequence length; may be repeated (default: 128)")
    add("-t", "--strict", action="store_true", help="obey the precisions: no TF32 in float32")
    add("-g", "--force-fc2-gemm", action="store_true", help="int8: second feed-forward projection as a GEMM")
    add("-iln", "--force-int8-skipln", action="store_true", help="int8: skip-layernorm with int8 input and output")
    add("-imh", "--force-int8-multihead", action="store_true", help="int8: attention with int8 input and output")
    args = parser.parse_args(argv)

    profiles = [
        Profile(size, length)
        for length in sorted(set(args.sequence_length or [128]))
        for size in sorted(set(args.batch_size or [1]))
    ]
    return args, build.request(
        parser,
        args,
        profiles=tuple(profiles),
        strict=args.strict,
        int8_attention=args.force_int8_multihead,
        int8_skip_layer_norm=args.force_int8_skipln,
        output_gemm=args.force_fc2_gemm,
    )


def main(argv: list[str]) -> None:
    from helpers.commands import build

    args, request = read(argv)
    build.run(request, args.backend, args.output)


if __name__ == "__main__":
    process.main(main)
