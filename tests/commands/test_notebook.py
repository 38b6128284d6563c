"""inference.ipynb as its users run it: top to bottom in a kernel, and in JupyterLab in a real browser."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import notebook as shown
from helpers.errors import InputError
from helpers.reader import Reader
from tests.checkout import copy_checkout, surroundings
from tests.running import PATIENCE, ROOT

NOTEBOOK = "inference.ipynb"
ANSWER = "high performance deep learning inference platform"
IN_BROWSER = [name for name in ("chromium", "chromedriver") if not shutil.which(name)] + [
    name for name in ("jupyterlab", "selenium") if not importlib.util.find_spec(name)
]


class Kernel:
    """The notebook, run top to bottom, and its kernel, which runs more cells."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client, self.folder = client, folder
        for i, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, i)

    def cell(self, text: str) -> Any:
        """The first cell that has a text in its source."""
        return next(cell for cell in self.client.nb.cells if text in cell.source)

    def html(self, text: str) -> str:
        """The HTML that this cell shows."""
        return str(self.cell(text).outputs[0].data["text/html"])

    def printed(self, text: str) -> str:
        """What this cell prints, which may come in parts."""
        return "".join(output.text for output in self.cell(text).outputs if output.get("name") == "stdout")

    def run(self, source: str) -> str:
        """Runs a cell of our own; returns what it prints, or the HTML that it shows."""
        import nbformat.v4

        cells = self.client.nb.cells
        cells.append(nbformat.v4.new_code_cell(source))
        try:
            self.client.execute_cell(cells[-1], len(cells) - 1)
            outputs = cells[-1].outputs
        finally:
            cells.pop()
        return "".join(output.text if output.output_type == "stream" else output.data["text/html"] for output in outputs)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module", params=["onnxruntime", pytest.param("tensorrt", marks=pytest.mark.gpu)])
def kernel(request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    import nbformat
    from nbclient import NotebookClient

    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings(tmp_path_factory.mktemp("home"), request.param == "tensorrt").items():
            patch.setenv(name, value)
        nb = nbformat.read(checkout / NOTEBOOK, 4)
        client = NotebookClient(nb, kernel_name="python3", resources={"metadata": {"path": str(checkout)}})
        client.timeout = client.startup_timeout = client.iopub_timeout = PATIENCE
        with client.setup_kernel():
            kernel = Kernel(client, checkout)
            assert kernel.printed("reader = ").startswith(request.param)
            yield kernel


def marked(html: str) -> str:
    [text] = re.findall(r"<mark[^>]*>(.*?)</mark>", html, re.DOTALL)
    return unescape(text)


def rows(html: str) -> list[list[str]]:
    """The texts of a table's cells, without its header."""
    return [[unescape(text) for text in re.findall("<td[^>]*>(.*?)</td>", row)] for row in html.split("<tr>")[2:]]


# The file


def test_saved_without_outputs() -> None:
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


# In a kernel


def test_demo_question(kernel: Kernel) -> None:
    [printed] = re.findall(r"^(.*) \((.*)%\)\n$", kernel.printed("reader.answer(QUESTION,"))
    assert printed[0] == ANSWER
    assert float(printed[1]) == pytest.approx(26.3, abs=1)
    assert marked(kernel.html("highlight(asked)")) == ANSWER
    nbest = rows(kernel.html("nbest_table(asked)"))
    assert (nbest[0][0], len(nbest)) == (ANSWER, 10)
    chances = [float(row[1].rstrip("%")) for row in nbest]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(26.3, abs=1)
    stages = rows(kernel.html("timings_table(asked)"))
    assert [stage for stage, _ in stages] == ["tokens and windows", "network", "spans", "total"]
    milliseconds = [float(value) for _, value in stages]
    assert min(milliseconds) > 0
    assert sum(milliseconds[:3]) == pytest.approx(milliseconds[3], abs=0.02)
    assert kernel.cell("logit_plot(asked)").outputs[0].data["image/png"]


def test_several_questions(kernel: Kernel) -> None:
    answers = {question: answer for question, answer, _ in rows(kernel.html("QUESTIONS = "))}
    assert answers["Which apps run on NVIDIA GPUs?"] == "recommenders, speech and image/video"
    assert answers["Who can extend the components?"] == "deep learning community"


def test_long_passage(kernel: Kernel) -> None:
    html = kernel.html("LICENSE")
    assert marked(html) == "prominent notices"
    assert "any modified files to carry" in html
    window, windows = ast.literal_eval(kernel.run("print((asked.window, asked.windows))"))
    assert 0 < window < windows - 1


def test_edited_question(kernel: Kernel) -> None:
    edited = kernel.cell("QUESTION = ").source.replace("What is TensorRT?", "Who is open sourcing plugins?")
    assert edited != kernel.cell("QUESTION = ").source
    kernel.run(edited)
    assert marked(kernel.run(kernel.cell("highlight(asked)").source)) == "NVIDIA"


def test_typed_question(kernel: Kernel) -> None:
    kernel.run(
        "import threading\n"
        "threads = []\n"
        "def spy(*texts):\n"
        "    threads.append(threading.current_thread())\n"
        "    return ask(*texts)\n"
        "passage, question, button, result = notebook.form(spy, PASSAGE).children"
    )
    kernel.run("question.value = 'Who is open sourcing plugins?'")
    html = kernel.run("print(result.value)")
    assert marked(html) == "NVIDIA"
    assert rows(html)[0][0] == "NVIDIA"
    assert "data:image/png;base64,iVBOR" in html
    kernel.run("passage.value = 'Paris is the capital of France.'; question.value = 'What is the capital of France?'")
    assert marked(kernel.run("print(result.value)")) == "Paris"
    # Jupyter may send a click to a thread of its own; the session's thread answers all the same.
    kernel.run("passage.value = 'Rome is the capital of Italy.'")
    kernel.run("clicks = threading.Thread(target=button.click); clicks.start(); clicks.join()")
    assert marked(kernel.run("print(result.value)")) == "Rome"
    assert kernel.run("print(len(threads), set(threads) == {threading.main_thread()})") == "3 True\n"


def test_typed_question_is_refused_in_one_line(kernel: Kernel) -> None:
    kernel.run("passage, question, button, result = notebook.form(ask, PASSAGE).children; button.click()")
    assert kernel.run("print(result.value)") == "<b>error:</b> the question is empty: type one\n"
    kernel.run("passage.value = ' '; question.value = 'What is TensorRT?'")
    assert kernel.run("print(result.value)") == "<b>error:</b> the passage is empty: type one\n"
    kernel.run("_, question, _, result = notebook.form(lambda *texts: int('<'), '').children; question.value = 'What?'")
    assert kernel.run("print(result.value)").startswith(
        "<b>error:</b> ValueError: invalid literal for int() with base 10: &#x27;&lt;"
    )


def fails(kernel: Kernel, source: str) -> str:
    """What a cell that must fail shows, whole."""
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError) as caught:
        kernel.run(source)
    shown = caught.value.traceback.rpartition("------------------\n")[2]  # after the cell's source
    return re.sub(r"\x1b\[[\d;]*m", "", shown).strip()


def test_errors_are_one_line(kernel: Kernel) -> None:
    assert fails(kernel, "ask(PASSAGE, ' ')") == "InputError: the question is empty: type one"
    missing = kernel.cell("builder.main").source.replace("models/minilm", "models/none").replace("notebook.engine", "none.engine")
    assert fails(kernel, missing) == "InputError: checkpoint models/none-l6-squad does not exist"
    assert not list(kernel.folder.glob("engines/none*"))


def test_other_scripts_draw_without_warnings(kernel: Kernel) -> None:
    assert kernel.run("page = notebook.report(ask('한국 is Korea.', 'What is 한국?'))") == ""


def test_engine_is_kept(kernel: Kernel) -> None:
    path = kernel.folder / "engines/notebook.engine"
    before = path.stat().st_mtime_ns
    assert kernel.run(kernel.cell("builder.main").source) == ""
    assert path.stat().st_mtime_ns == before


# What it shows


@pytest.fixture(scope="module")
def ask(kernel: Kernel) -> Iterator[Any]:
    """Asks the engine that the notebook built."""
    with Reader.open(kernel.folder / "engines/notebook.engine") as reader:
        yield partial(shown.ask, reader)


@pytest.mark.parametrize(
    ("question", "window"), [("What must modified files carry?", 6), ("Where can I obtain a copy of the License?", 14)]
)
def test_plot_shows_the_window_of_the_answer(ask: Any, question: str, window: int) -> None:
    asked = ask((ROOT / "LICENSE").read_text(encoding="utf-8"), question)
    assert (asked.window, asked.windows) == (window, 15)
    best = asked.candidates[0]
    assert asked.offsets[asked.first, 0] == best.start
    assert asked.offsets[asked.last, 1] == best.end
    # Logits of another window, or of other tokens, would not add up to the score.
    assert asked.logits[asked.first, 0] + asked.logits[asked.last, 1] == pytest.approx(best.score, abs=1e-4)
    [axes] = shown.logit_plot(asked).axes
    start, end = axes.lines
    assert start.get_ydata() == pytest.approx(asked.logits[:, 0])
    assert end.get_ydata() == pytest.approx(asked.logits[:, 1])
    [shaded] = axes.patches
    edges = axes.transData.inverted().transform_bbox(shaded.get_extents()).intervalx
    assert edges == pytest.approx([asked.first - 0.5, asked.last + 0.5])
    places = sorted(axes.get_xticks())
    assert min(b - a for a, b in zip(places, places[1:])) >= len(asked.logits) / shown.LABELS
    named = {int(place): label.get_text() for place, label in zip(axes.get_xticks(), axes.get_xticklabels())}
    likeliest = int(asked.logits.max(1).argmax())
    assert named[likeliest] == asked.passage[slice(*asked.offsets[likeliest])]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_texts_are_shown_as_they_are(ask: Any) -> None:
    passage = "The <b>ring</b> & its <script>alert(1)</script> box\ncost $5 and $6 at 한국 'shop'."
    asked = ask(passage, "How much did it cost?")
    assert asked.candidates[0].text == "$5 and $6"
    html = shown.highlight(asked)
    assert marked(html) == "$5 and $6"
    assert re.findall("<(\\w+)", html) == ["div", "mark"]
    assert unescape(re.sub("<[^>]*>", "", html)) == passage
    [axes] = shown.logit_plot(asked).axes
    assert [label.get_text() for label in axes.get_xticklabels()].count("$") == 2
    assert "<script" not in shown.report(asked)
    assert rows(shown.table(("a", "b"), [("<i>", "&")])) == [["<i>", "&"]]


def test_highlight_shows_the_surroundings(ask: Any) -> None:
    around = ["x " * 700, "Paris is the capital of France. ", "y " * 700]
    text = re.sub("<[^>]*>", "", shown.highlight(ask("".join(around), "What is the capital of France?")))
    assert text == "… " + around[0][-shown.SHOWN :] + around[1] + around[2][: shown.SHOWN + len("Paris") - len(around[1])] + " …"


def test_single_token(ask: Any) -> None:
    asked = ask("Paris", "What is the capital of France?")
    assert (asked.first, asked.last, [c.probability for c in asked.candidates]) == (0, 0, [1.0])
    assert marked(shown.report(asked)) == "Paris"


@pytest.mark.parametrize(("texts", "message"), [(("", "What?"), "passage"), (("Text.", "\n"), "question")])
def test_empty_texts_are_refused(ask: Any, texts: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=f"^the {message} is empty: type one$"):
        ask(*texts)


# In a browser


@pytest.mark.skipif(bool(IN_BROWSER), reason=f"not installed: {', '.join(IN_BROWSER)}")
def test_in_a_browser(tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    home = tmp_path / "home"
    settings = home / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"checkForUpdates": false, "fetchNews": "false"}')
    checkout = copy_checkout(tmp_path / "checkout")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    environment = {**os.environ, **surroundings(home, tensorrt=False), "no_proxy": "127.0.0.1,localhost"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := [*home.glob("jpserver-*.json")]):
            assert server.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        address = json.loads(found[0].read_text())

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in ("--headless=new", "--no-sandbox", "--window-size=1300,1500", f"--user-data-dir={home / 'chromium'}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        with webdriver.Chrome(options, service) as browser:
            patient = WebDriverWait(browser, PATIENCE, 0.1, [StaleElementReferenceException])

            def wait(selector: str, text: str = "", by: str = By.CSS_SELECTOR) -> Any:
                """The element, once it is there, is seen, and has this text."""

                def ready(_: object) -> Any:
                    elements = [e for e in browser.find_elements(by, selector) if e.is_displayed() and text in e.text]
                    return elements[0] if elements else False

                try:
                    return patient.until(ready, f"no {selector} {text!r}")
                finally:
                    browser.save_screenshot(str(tmp_path / "notebook.png"))

            browser.get(f"{address['url']}lab/tree/{NOTEBOOK}?token={address['token']}")
            wait(".jp-StatusBar-TextItem", "| Idle")  # the notebook's own indicator says so before there is a kernel
            wait("//*[contains(@class, 'lm-MenuBar-itemLabel')][.='Run']", by=By.XPATH).click()
            wait("//*[contains(@class, 'lm-Menu-itemLabel')][.='Run All Cells']", by=By.XPATH).click()
            button = wait("button.jupyter-button", "Ask")
            button.click()
            wait(".widget-html-content", "error: the question is empty: type one")
            wait("input[placeholder^='Type a question']").send_keys("Who is open sourcing plugins?", Keys.ENTER)
            answer = wait(".widget-html-content mark", "NVIDIA")
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", answer)
            question = wait("input[placeholder^='Type a question']")
            question.send_keys(Keys.CONTROL, "a")
            question.send_keys("What is TensorRT?")
            button.click()
            wait(".widget-html-content mark", ANSWER)
    finally:
        server.terminate()
        server.wait(PATIENCE)
