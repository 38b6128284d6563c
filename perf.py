#!/usr/bin/env python3
"""Times an engine on random tokens: the network alone, without copies."""

from __future__ import annotations

from helpers import benchmark, cli, engine


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    benchmark.add_arguments(parser)
    benchmark.run(parser.parse_args(argv), engine.open_session)


if __name__ == "__main__":
    cli.main(main)
