"""What inference.ipynb shows: the answer in its passage, the n-best list, the logits, and a form to type questions in."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import time
import warnings
from collections.abc import Sequence
from html import escape
from typing import Callable, NamedTuple

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from helpers.errors import InputError
from helpers.qa.spans import Candidate, best_context, collect
from helpers.qa.windows import Options
from helpers.reader import Reader

SHOWN = 600  # characters of a passage shown on either side of an answer
LABELS = 110  # tokens that a plot can name side by side
COLORS = "#1f5fa8", "#e8590c"  # start, end
MARK = "#ffe08a"

warnings.filterwarnings("ignore", "Glyph .* missing from")  # the plot's font lacks a script: the boxes show it


class Asked(NamedTuple):
    """A question, its candidates, best first, and the window that the best one stands in.

    The window shows n tokens of the passage, which are the characters `offsets` [n, 2] and have `logits` [n, 2], start
    and end. The best candidate is tokens `first` to `last` of these n, both inclusive.
    """

    passage: str
    question: str
    candidates: list[Candidate]
    window: int
    windows: int
    offsets: np.ndarray
    logits: np.ndarray
    first: int
    last: int
    milliseconds: dict[str, float]  # by stage


def ask(reader: Reader, passage: str, question: str) -> Asked:
    """Asks one question and keeps what can be shown of it.

    Raises:
        InputError: the passage or the question is empty, or a text that `Reader.encode` refuses.
    """
    for what, text in (("passage", passage), ("question", question)):
        if not text.strip():
            raise InputError(f"the {what} is empty: type one")
    options = reader.options(Options())
    clock = [time.perf_counter()]
    encoded = reader.encode([passage], [question], [0], options)
    clock.append(time.perf_counter())
    results = list(reader.run(encoded))
    clock.append(time.perf_counter())
    [(_, found)] = collect(encoded, results, options)
    clock.append(time.perf_counter())
    stages = dict(zip(("tokens and windows", "network", "spans"), (np.diff(clock) * 1e3).tolist()))

    best, offsets = found.candidates[0], encoded.passages[0].offsets
    first, last = int(np.argmax(offsets[:, 0] == best.start)), int(np.flatnonzero(offsets[:, 1] == best.end)[-1])
    # An answer starts only in the window where its first token has its best context.
    owners = zip(encoded.windows, best_context(encoded.windows))
    index = next(i for i, (w, own) in enumerate(owners) if 0 <= first - w.offset < w.shown and own[first - w.offset])
    window = encoded.windows[index]
    indexes, batch = next((indexes, batch) for indexes, batch in results if index in indexes)
    begin = sum(encoded.windows[i].length for i in itertools.takewhile(lambda i: i != index, indexes))
    logits = batch[begin : begin + window.length]
    return Asked(
        passage=passage,
        question=question,
        candidates=found.candidates,
        window=index,
        windows=len(encoded.windows),
        offsets=offsets[window.offset : window.offset + window.shown],
        logits=logits[window.first : window.first + window.shown],
        first=first - window.offset,
        last=last - window.offset,
        milliseconds={**stages, "total": sum(stages.values())},
    )


def highlight(asked: Asked) -> str:
    """The passage as HTML, the best answer marked; of a long passage the surroundings of the answer."""
    text, (_, start, end, *_) = asked.passage, asked.candidates[0]
    left, right = max(0, start - SHOWN), end + SHOWN
    before = "… " * (left > 0) + escape(text[left:start])
    after = escape(text[end:right]) + " …" * (right < len(text))
    marked = f'<mark style="background: {MARK}; color: black">{escape(text[start:end])}</mark>'
    return f'<div style="white-space: pre-wrap; max-width: 60em; line-height: 1.5">{before}{marked}{after}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """An HTML table; the first `texts` columns are aligned to the left, those of numbers to the right."""
    sides = ["left" if i < texts else "right" for i in range(len(header))]

    def line(kind: str, row: Sequence[str]) -> str:
        cells = (f'<{kind} style="text-align: {side}">{escape(text)}</{kind}>' for side, text in zip(sides, row))
        return f"<tr>{''.join(cells)}</tr>"

    return f"<table><thead>{line('th', header)}</thead><tbody>{''.join(line('td', row) for row in rows)}</tbody></table>"


def nbest_table(asked: Asked, rows: int = 10) -> str:
    """The best candidates as an HTML table."""
    return table(
        ("answer", "probability", "score", "characters"),
        [(c.text, f"{c.probability:.1%}", f"{c.score:.2f}", f"{c.start}–{c.end}") for c in asked.candidates[:rows]],
    )


def timings_table(asked: Asked) -> str:
    """Milliseconds by stage as an HTML table."""
    return table(("stage", "ms"), [(stage, f"{value:.2f}") for stage, value in asked.milliseconds.items()])


def logit_plot(asked: Asked) -> Figure:
    """The start and end logit of each token that the best window shows, the answer shaded."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(asked.first - 0.5, asked.last + 0.5, color=MARK, label="answer")
    for column, name in enumerate(("start", "end")):
        axes.plot(asked.logits[:, column], drawstyle="steps-mid", marker=".", markersize=3, color=COLORS[column], label=name)
    # Where there is no room to name every token, the likeliest are named.
    apart = -(-len(asked.logits) // LABELS)
    named: list[int] = []
    for i in np.argsort(-asked.logits.max(1)).tolist():
        if all(abs(i - j) >= apart for j in named):
            named.append(i)
    tokens = [asked.passage[a:b] for a, b in asked.offsets[named].tolist()]
    axes.set_xticks(named, tokens, rotation=90, fontsize=8)
    axes.set_xlim(-1, len(asked.logits))
    axes.grid(axis="y", alpha=0.4)
    axes.set_ylabel("logit")
    axes.set_title(f"Window {asked.window + 1} of {asked.windows}, {len(asked.logits)} tokens of the passage", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def report(asked: Asked) -> str:
    """All that is shown of a question, as HTML."""
    image = io.BytesIO()
    logit_plot(asked).savefig(image, format="png", dpi=120)
    source = base64.b64encode(image.getvalue()).decode()
    plot = f'<img alt="start and end logits" style="max-width: 100%" src="data:image/png;base64,{source}">'
    return highlight(asked) + nbest_table(asked, 5) + plot + timings_table(asked)


def form(ask: Callable[[str, str], Asked], passage: str) -> widgets.VBox:
    """A widget: passage, question and a button, and below them the report of the question last asked.

    Must be called in a cell, whose thread answers the questions too.
    """
    wide = {"width": "95%"}
    passage_box = widgets.Textarea(passage, rows=6, layout=wide, continuous_update=False)
    # Without continuous updates the value changes when Enter is pressed or the box is left, not at every letter.
    question_box = widgets.Text(placeholder="Type a question and press Enter", layout=wide, continuous_update=False)
    button = widgets.Button(description="Ask", button_style="primary")
    result = widgets.HTML()
    loop = asyncio.get_running_loop()

    def show() -> None:
        try:
            result.value = report(ask(passage_box.value, question_box.value))
        except InputError as e:
            result.value = f"<b>error:</b> {escape(str(e))}"
        except Exception as e:  # nobody else would show it
            result.value = f"<b>error:</b> {escape(f'{type(e).__name__}: {e}')}"

    def submit(_: object) -> None:
        # JupyterLab has ipykernel 7.0 and 7.1 call this in a thread of its own. A session belongs to the thread that
        # opened it: CUDA's context is current there alone, and one question runs at a time.
        loop.call_soon_threadsafe(show)

    question_box.observe(submit, "value")
    button.on_click(submit)
    return widgets.VBox([passage_box, question_box, button, result])
