#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Answers questions with a TensorRT engine, or scores it on SQuAD, through the C++ extension."""

from __future__ import annotations

from helpers.commands import process


def main(argv: list[str]) -> None:
    from helpers.commands import ask, cli

    parser = cli.Parser(__doc__)
    ask.add_arguments(parser)
    parser.add_argument("--enable-graph", action="store_true", help="replay a captured CUDA graph")
    args = parser.parse_args(argv)
    ask.run(ask.request(parser, args, runtime="extension", enable_graph=args.enable_graph))


if __name__ == "__main__":
    process.main(main)
