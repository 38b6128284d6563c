#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Compares the medians in JSON files of perf.py, perf_varseqlen.py, build/perf and inference_benchmark.py, cell by cell."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
import math
from pathlib import Path

from helpers.commands import report
from helpers.errors import InputError, printable


def main(argv: list[str]) -> None:
    from helpers.commands import cli

    parser = cli.Parser(__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON files; ratios are to the first one")
    parser.add_argument(
        "--max-slowdown",
        type=cli.at_least(1),
        metavar="RATIO",
        help="exit 1 where a cell takes more than RATIO times as long, say 1.05",
    )
    args = parser.parse_args(argv)
    if len(args.files) < 2 or len(set(args.files)) < len(args.files):
        parser.error("give two or more different files")

    names = [str(path) for path in args.files]
    first, *others = files = report.aligned({path: report.read(path) for path in args.files})
    cells = report.unique(cell for file in files for cell in file)
    shared = [cell for cell in cells if cell in first and any(cell in other for other in others)]
    if not shared:
        raise InputError(
            f"no cell of {names[0]} is in another file: equal must be precision, padded or packed, end to end or not, "
            "sequence length and batch size, and the model where all files name one"
        )
    slower, lines = [], []
    for cell in shared:
        line = [report.in_words(cell), f"{first[cell]:.3f}"]
        for name, other in zip(names[1:], others):
            slowdown = other[cell] / first[cell] if cell in other else math.nan
            too_slow = args.max_slowdown is not None and slowdown > args.max_slowdown
            if too_slow:
                slower.append(f"{report.in_words(cell)} in {name} takes {slowdown:.3f} times as long")
            line += [f"{other[cell]:.3f}", f"{slowdown:.3f}{' !' * too_slow}"] if cell in other else ["–", "–"]
        lines.append(line)
    header = ["median (ms)", names[0], *(text for name in names[1:] for text in (name, "ratio"))]
    print(printable(report.table(header, lines, numbers_from=1)), end="")
    for name, file in zip(names, files):
        alone = [report.in_words(cell) for cell in file if sum(cell in each for each in files) == 1]
        if alone:
            print(printable(f"Only in {name}: {', '.join(alone)}"))
    if slower:
        sys.stdout.flush()
        process.complain("error", f"slower than --max-slowdown {args.max_slowdown:g}: {'; '.join(slower)}")
        raise SystemExit(1)


if __name__ == "__main__":
    process.main(main)
