"""Benchmarks, reported: the figures of many cells as one table and one plot, and the cells that files share.

A row is what perf.py says of one batch size, with the `model`, `precision` and `packed` of its engine.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import reading
from helpers.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
STATISTICS = {"p95_ms": "95 %", "p99_ms": "99 %", "average_ms": "average"}


class Cell(NamedTuple):
    """What must be equal for two timings to be compared."""

    model: str | None
    precision: str | None
    packed: bool
    lengths: str | None  # the file whose sequence lengths were timed, if any
    end_to_end: bool  # copies included
    sequence_length: int
    batch_size: int


def check_available() -> None:
    """Raises InputError where there is no Matplotlib, which plots need, and nothing else."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise InputError(f"plots need Matplotlib: pip install -r requirements-report.txt ({e})") from e


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 0) -> str:
    """A Markdown table; columns from the given one on are aligned as numbers are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.MARKDOWN)
    for i, name in enumerate(header):
        made.add_column(Text(name), justify="right" if i >= numbers_from else "left")
    for row in rows:
        made.add_row(*map(Text, row))
    lines = io.StringIO()
    Console(file=lines, width=10_000).print(made)
    return "".join(f"{line.strip()}\n" for line in lines.getvalue().splitlines() if line.strip())


def markdown(rows: Sequence[Row]) -> str:
    """Sequence length, batch size, then 95th and 99th percentile and average in ms for each precision.

    A model's column comes first where there are several. A cell that a precision lacks is a dash.
    """
    precisions = unique(row["precision"] for row in rows)
    cells = {(row["model"], row["sequence_length"], row["batch_size"], row["precision"]): row for row in rows}
    models = unique(row["model"] for row in rows)
    several = len(models) > 1
    header = ["model"] * several + ["sequence length", "batch size"]
    header += [f"{precision} {name} (ms)" for precision in precisions for name in STATISTICS.values()]
    lines = []
    for model, length, size in sorted({key[:3] for key in cells}, key=lambda key: (models.index(key[0]), *key[1:])):
        line = [model] * several + [str(length), str(size)]
        for precision in precisions:
            row = cells.get((model, length, size, precision), {})
            line += [f"{row[name]:.3f}" if row else "–" for name in STATISTICS]
        lines.append(line)
    return table(header, lines, numbers_from=int(several))


def plot(rows: Sequence[Row], title: str) -> Figure:
    """Median latency and throughput against batch size, a line a precision, a pair of panels a model and sequence length."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panels = unique((row["model"], row["sequence_length"]) for row in rows)
    colours = {precision: f"C{i}" for i, precision in enumerate(unique(row["precision"] for row in rows))}
    figure = Figure(figsize=(11, 0.6 + 4 * len(panels)), dpi=120, layout="constrained")
    figure.suptitle(title)
    for (model, length), pair in zip(panels, figure.subplots(len(panels), 2, squeeze=False)):
        here = [row for row in rows if (row["model"], row["sequence_length"]) == (model, length)]
        for precision in unique(row["precision"] for row in here):
            line = sorted((row["batch_size"], row["median_ms"]) for row in here if row["precision"] == precision)
            sizes, times = zip(*line)
            style = {"color": colours[precision], "marker": "o", "label": precision}
            pair[0].plot(sizes, times, **style)
            pair[1].plot(sizes, [1e3 * size / time for size, time in line], **style)
        for axes, what in zip(pair, ("median latency, ms", "throughput, sequences/s")):
            axes.set(title=f"{model}, sequence length {length}", xlabel="batch size", ylabel=what)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            ticks = sorted({row["batch_size"] for row in here})
            axes.set_xticks(ticks, [str(size) for size in ticks])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
            axes.legend()
    return figure


def images(figure: Figure) -> dict[str, bytes]:
    """A plot as the contents of its files, by extension: png and svg."""
    from matplotlib import rc_context

    files = {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        with rc_context({"svg.fonttype": "none"}):  # words stay words, which can be searched and copied
            figure.savefig(buffer, format=kind)
        files[kind] = buffer.getvalue()
    return files


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of their first appearance."""
    return list(dict.fromkeys(values))


def read(path: Path) -> dict[Cell, float]:
    """The median, in ms, of every cell in a JSON file of a perf script or of inference_benchmark.py.

    Raises:
        InputError: the file cannot be read, holds something else, or the same cell twice.
    """
    content = reading.read_json(path, "")
    try:
        # A perf script says once what a benchmark, which has several engines, says in every row.
        rows = [{**content, **row} for row in content["results"]]
        found = [(cell_of(row), float(row["median_ms"])) for row in rows]
    except KeyError as e:
        raise InputError(f"{path} lacks {e}: give a file that perf.py --json or inference_benchmark.py wrote") from e
    except (ValueError, TypeError, OverflowError) as e:
        raise InputError(f"{path} is not a file that perf.py --json or inference_benchmark.py wrote: {e}") from e
    if not found:
        raise InputError(f"{path} has no results")
    for cell, median in found:
        if not (math.isfinite(median) and median > 0):
            raise InputError(f"{path}: {in_words(cell)}: a time must be above 0 ms, not {median}")
    check_once(path, [cell for cell, _ in found])
    return dict(found)


def cell_of(row: Row) -> Cell:
    sizes = row["sequence_length"], row["batch_size"]
    if any(type(size) is not int for size in sizes):
        raise TypeError(f"sequence_length and batch_size must be whole numbers, not {sizes[0]!r} and {sizes[1]!r}")
    words = row.get("model"), row.get("precision"), row.get("lengths")
    if any(not isinstance(word, (str, type(None))) for word in words):
        raise TypeError("model, precision and lengths must be words")
    return Cell(words[0], words[1], bool(row.get("packed")), words[2], bool(row.get("end_to_end")), *sizes)


def check_once(path: Path, cells: Iterable[Cell]) -> None:
    [(cell, times)] = Counter(cells).most_common(1)
    if times > 1:
        raise InputError(f"{path} has {times} times of one cell: {in_words(cell)}")


def aligned(files: dict[Path, dict[Cell, float]]) -> list[dict[Cell, float]]:
    """The files' cells, with models left out where one file does not name them.

    Raises:
        InputError: a file has several models where another does not say which it is of.
    """
    if all(cell.model for cells in files.values() for cell in cells):
        return list(files.values())
    for path, cells in files.items():
        if len({cell.model for cell in cells}) > 1:
            raise InputError(f"{path} has several models, and another file does not say which one is its own")
    return [{cell._replace(model=None): median for cell, median in cells.items()} for cells in files.values()]


def in_words(cell: Cell) -> str:
    """A cell in words."""
    kind = [cell.model, cell.precision, "packed" if cell.packed else None, cell.lengths and f"lengths of {cell.lengths}"]
    kind.append("end to end" if cell.end_to_end else None)
    return " ".join(filter(None, [*kind, f"S {cell.sequence_length} B {cell.batch_size}"]))
