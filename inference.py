#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Answers questions with an engine, or scores it on SQuAD."""

from __future__ import annotations

from helpers import cli, engine, inference


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    inference.add_arguments(parser)
    inference.run(parser, parser.parse_args(argv), engine.open_session)


if __name__ == "__main__":
    cli.main(main)
