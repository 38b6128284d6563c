#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Times an engine on random tokens: the network alone, without copies, or from end to end."""

from __future__ import annotations

from functools import partial

import inference_c
from helpers import benchmark, cli, engine


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    benchmark.add_arguments(parser)
    args = parser.parse_args(argv)
    benchmark.run(args, partial(inference_c.open_session, enable_graph=True) if args.enable_graph else engine.open_session)


if __name__ == "__main__":
    cli.main(main)
