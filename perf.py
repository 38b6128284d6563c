#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Times an engine on random tokens: the network alone, without copies, or from end to end."""

from __future__ import annotations

from helpers.commands import process


def main(argv: list[str]) -> None:
    from helpers.commands import cli, perf

    parser = cli.Parser(__doc__)
    perf.add_arguments(parser)
    perf.run(perf.request(parser, parser.parse_args(argv)))


if __name__ == "__main__":
    process.main(main)
