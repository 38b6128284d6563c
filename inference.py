#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Answers questions with an engine, or scores it on SQuAD."""

from __future__ import annotations

from helpers.commands import process


def main(argv: list[str]) -> None:
    from helpers.commands import ask, cli

    parser = cli.Parser(__doc__)
    ask.add_arguments(parser)
    ask.run(ask.request(parser, parser.parse_args(argv)))


if __name__ == "__main__":
    process.main(main)
