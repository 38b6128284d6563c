"""The documentation: every command of the README runs, every message is explained, and links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers

from helpers.checkpoints import pytorch
from helpers.commands.flags import FLAGS
from helpers.config import BertConfig
from helpers.errors import InputError, spelled
from tests.checkout import copy_checkout, surroundings
from tests.installed import hide
from tests.models import write_tensorflow
from tests.running import MODEL, PATIENCE, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ANSWER = "Answer: '(a )?high performance deep learning inference platform'"
NUMBER = r"\d+\.\d{3}"


# Commands


class Rehearsal(NamedTuple):
    """How a command that begins with `pattern` is run: with `changes` for what a CPU, a minute and no network allow."""

    pattern: str
    changes: tuple[tuple[str, str], ...] = ()  # regular expression, replacement
    code: int = 0
    says: str = ""  # a regular expression that its output matches


REHEARSALS = (  # the first whose pattern fits a command counts
    Rehearsal(r"bash scripts/demo\.sh", says=ANSWER),
    Rehearsal(r"bash scripts/test\.sh", (("^bash", "bash -n"),)),  # it runs these tests
    Rehearsal(r"bash scripts/download_model\.sh tf ", says=r"models/fine-tuned/\S+ is there"),  # where the README looks for it
    Rehearsal(r"bash scripts/download_squad\.sh", says=r"squad/dev-v\d\.\d\.json"),
    Rehearsal(
        r"bash scripts/(download_model|build|launch)\.sh",
        ((r"\.sh", ".sh --dry-run"),),
        says=r"(?m)^(ngc registry|docker) ",
    ),
    Rehearsal(  # a file where its folder should be stops it before the first engine
        r"bash scripts/inference_benchmark(_megatron)?\.sh",
        (("$", " -o LICENSE"),),
        2,
        "error: output folder .*LICENSE cannot be made",
    ),
    Rehearsal(r"pip install ", says="Installed requirements"),
    Rehearsal(r"(echo|printf) .* > \w+\.txt$"),
    Rehearsal(r"jupyter lab ", (("$", " --show-config"),), says=r"file_to_run = .*/inference\.ipynb'"),
    Rehearsal(r"activate-global-python-argcomplete", (("--user", "--dest -"),), says="PYTHON_ARGCOMPLETE_OK|_python_argcomplete"),
    Rehearsal(r"python (inference_c\.py|perf\.py .*--enable-graph)", code=2, says="which the runtime extension does not run"),
    Rehearsal(r"python perf", ((" -b 128", " -b 2"), ("$", " -i 1 -w 0")), says=rf"Median: {NUMBER} ms"),
    Rehearsal(r"python scripts/random_checkpoint\.py", ((r"\blarge\b", "mini"),), says="Wrote models/"),
    Rehearsal(r"python builder\.py .*--int8", (("$", " --calib-num 2"),), says="Wrote engines/"),
    Rehearsal(r"python builder\w*\.py", says="Wrote engines/"),
    Rehearsal(r"python inference\w*\.py .*-o labels", says=r"Read 2 texts, .*; results in labels\.jsonl"),
    Rehearsal(r"python inference\w*\.py .*-sq ", says="Answered 8 questions|Answered 9 questions"),
    Rehearsal(r"python inference\w*\.py .*-pf \S+$", says=rf"{ANSWER}\n.*\nQuestion"),
    Rehearsal(r"python inference\w*\.py", says=ANSWER),
    Rehearsal(r"python squad/evaluate-v1\.1\.py", says=r'"f1": \d'),
    Rehearsal(r"python squad/evaluate-v2\.0\.py", says=r'"best_f1": \d'),
    Rehearsal(r"python scripts/widen_checkpoint\.py", says="hidden size 768"),
    Rehearsal(r"python scripts/compare_benchmarks\.py", says=r"\| +ratio \|"),
    Rehearsal(r"python scripts/compare_runtimes\.py", code=2, says=r"has no .*ctranslate2, .*pip install torch"),
    Rehearsal(r"python scripts/fuzz\.py", ((r"600", "2"), ("$", " squad description")), says="squad"),
    Rehearsal(r"python scripts/soak\.py", ((r"3600", "2"),), says="batches"),
    Rehearsal(r"mkdir -p engines$"),
)
BUILD = next(line for line in README.splitlines() if "cmake" in line)  # rehearsed below, as build/perf is


def commands() -> list[str]:
    """The README's indented lines, without comments; one that ends in a backslash goes on in the next."""
    found = [re.sub(r"\s+# .*", "", line).strip() for line in re.findall(r"(?m)^    (.+)", README)]
    return re.sub(r"\\\n", "", "\n".join(found)).split("\n")


def environment(folder: Path) -> dict[str, str]:
    """No TensorRT, no settings of the user's; `python` is the one that runs the tests, with nothing installed yet."""
    (folder / "bin").mkdir()
    write_python(folder / "bin/python")
    write_python(folder / "bin/pip", " -m pip")
    hide(folder)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **surroundings(folder, tensorrt=False), "PATH": path, "HOME": str(folder)}


def write_python(path: Path, arguments: str = "") -> None:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with what is not in it: .venv, with nothing in it, a classifier, and a checkpoint in NVIDIA's place."""
    folder = copy_checkout(tmp_path / "project")
    (folder / ".venv/bin").mkdir(parents=True)
    write_python(folder / ".venv/bin/python")
    (folder / ".venv/no-tensorrt").touch()
    classifier = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.BertForSequenceClassification(classifier).save_pretrained(folder / "my-classifier")
    shutil.copy(MODEL / "vocab.txt", folder / "my-classifier")
    [checkpoint] = {folder / name for name in re.findall(r"-m (models/fine-tuned/\S+)", README)}
    checkpoint.parent.mkdir(parents=True)
    weights = pytorch.load(MODEL, BertConfig.load(MODEL))
    write_tensorflow(checkpoint, weights.tensors())
    shutil.copy(MODEL / "config.json", checkpoint.parent / "bert_config.json")
    shutil.copy(MODEL / "vocab.txt", checkpoint.parent)
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder with SQuAD's files, of eight questions, to be downloaded."""
    folder = tmp_path / "served"
    folder.mkdir()
    squad = json.loads((ROOT / "tests/data/squad-mini.json").read_text(encoding="utf-8"))
    for article in squad["data"]:
        article["paragraphs"] = [each for each in article["paragraphs"] if len(each["context"]) < 500]
    (folder / "dev-v1.1.json").write_text(json.dumps(squad))
    unanswerable = {"id": "no", "question": "Who painted it?", "answers": [], "is_impossible": True}
    squad["data"][0]["paragraphs"][0]["qas"].append(unanswerable)
    (folder / "dev-v2.0.json").write_text(json.dumps(squad))
    return folder


def run(command: str, project: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=project,
        env=variables,
        input="What is TensorRT?\nexit\n",
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="curl, which reads file://, is not installed")
def test_every_command(project: Path, served: Path, tmp_path: Path) -> None:
    """One test, since each command leaves what later ones need: files, and packages, without which these do not work."""
    variables = {**environment(tmp_path), "SQUAD_URL": served.as_uri()}
    rehearsed = set()
    for command in commands():
        if command == BUILD.strip() or command.startswith("build/perf "):
            continue
        rehearsal = next((each for each in REHEARSALS if re.match(each.pattern, command)), None)
        assert rehearsal, f"nothing says how to rehearse: {command}"
        rehearsed.add(rehearsal)
        changed = command
        for pattern, replacement in rehearsal.changes:
            changed = re.sub(pattern, replacement, changed, count=1)
        done = run(changed, project, variables)
        where = f"{changed}\n{done.stdout}{done.stderr}"
        assert done.returncode == rehearsal.code, where
        assert "Traceback" not in done.stderr, where
        if rehearsal.code:
            assert re.fullmatch("error: .+", done.stderr.splitlines()[-1]), where
        assert re.search(rehearsal.says, done.stdout + done.stderr), where
    assert rehearsed == set(REHEARSALS)
    [example] = re.findall(r"(?s)```python\n(.*?)```", README)
    done = run(f"python - <<'END'\n{example}END", project, variables)
    says = r"a high performance .+ platform 0\.\d+ 12 63\n\['a high performance .+ platform', 'NVIDIA GPUs'\]\n"
    assert re.fullmatch(says, done.stdout), done


@pytest.mark.skipif(not shutil.which("cmake"), reason="CMake is not installed")
def test_the_command_that_builds_the_extension(tmp_path: Path) -> None:
    """As far as a machine without TensorRT gets; tests/backends/tensorrt/test_extension.py builds it where there is one."""
    project = copy_checkout(tmp_path / "project")
    done = run(BUILD, project, {**environment(tmp_path), "TENSORRT_ROOT": str(tmp_path)})
    assert "TensorRT's header NvInfer.h not found" in done.stderr
    assert (project / "build/CMakeCache.txt").exists()


def test_the_flags_of_the_benchmark_in_cpp() -> None:
    usage = (ROOT / "infer_c/perf.cpp").read_text(encoding="utf-8")
    shown = [command for command in commands() if command.startswith("build/perf ")]
    flags = re.findall(r" (--?[a-z][\w-]*)", " ".join(shown))
    assert {"-e", "--enable_graph"} <= set(flags)
    for flag in flags:
        assert re.search(rf"(?m)^ +(-\w, )?{flag}[ ,]", usage), flag


def test_every_script_has_an_example() -> None:
    scripts = {
        path.relative_to(ROOT).as_posix() for kind in ("*.py", "scripts/*.*", "squad/evaluate-*.py") for path in ROOT.glob(kind)
    }
    scripts -= {"scripts/common.sh", "scripts/setup.sh", "scripts/inference_benchmark.py"}  # others source or run them
    shown = " ".join(commands()).split()
    assert [name for name in sorted(scripts | {"build/perf", "inference.ipynb"}) if name not in shown] == []


# Messages


STRING = r'"((?:[^"\\]|\\.)*)"'


def python_messages(path: Path) -> Iterator[str]:
    """What is raised or warned of, … standing for what is filled in."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return "…"

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("InputError", "Busy", "need"):  # a problem and a hint; `need` has a condition before them
                problem, hint = [*map(text, node.args[name == "need" :]), ""][:2]
                of_configuration = name == "need" and (path.parent.name == "families" or path.name == "config.py")
                yield InputError("configuration …: " * of_configuration + problem, hint).told(FLAGS)
            elif name in ("RuntimeError", "warn"):
                yield spelled(text(node.args[-1]), FLAGS)


def shell_messages(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8").replace("\\\n", "")
    for message in re.findall(rf'(?:\b(?:fail|misuse) |echo (?="(?:error|warning): )){STRING}', source):
        yield re.sub(r"\$(\w|\*)+|\$\{[^}]*\}+", "…", re.sub("^(error|warning): ", "", message))


def cmake_messages(path: Path) -> Iterator[str]:
    for strings in re.findall(r'FATAL_ERROR\s+((?:"[^"]*"\s*)+)\)', path.read_text(encoding="utf-8")):
        yield re.sub(r"\$\{\w+\}", "…", "".join(re.findall(STRING, strings)))


def cpp_messages(path: Path) -> Iterator[str]:
    for expression in re.findall(r"(?:throw [\w:]+|fail)\(([^;]*?)\);", path.read_text(encoding="utf-8")):
        parts = re.split(STRING, re.sub(r'(?:std::string|text)\((?=")', "", expression))
        yield "".join(part if i % 2 else "…" * bool(re.search(r"\w", part)) for i, part in enumerate(parts))


def worded(found: Iterable[str]) -> list[str]:
    """The messages that have words of their own, with one … for several side by side."""
    return [re.sub(r"…(?:(?: |[^\w\s]*)…)+", "…", message) for message in found if re.search(r"\w", message)]


def messages() -> list[str]:
    """What Python, shell scripts and CMake complain about."""
    python = [path for kind in ("*.py", "helpers/**/*.py", "scripts/*.py", "squad/*.py") for path in ROOT.glob(kind)]
    found = [message for path in python for message in python_messages(path)]
    found += [message for path in ROOT.glob("scripts/*.sh") for message in shell_messages(path)]
    found += cmake_messages(ROOT / "CMakeLists.txt")
    return worded(found)


def quoted(document: str) -> list[str]:
    """The messages in the first column of a document's tables of messages."""
    tables = re.findall(r"(?m)^\| message \|.*\n((?:\|.*\n)+)", document)
    cells = re.findall(r"(?m)^\| (`.+?) \|", "".join(tables))
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def explained() -> list[str]:
    return quoted((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))


def test_messages_are_found() -> None:
    """What the two tests below compare, by one example a language."""
    found = messages()
    assert len(found) > 140
    for message in (
        "output … is a folder: name a file",
        "packed engines need float16 on TensorRT: add --fp16",
        "cannot fetch …: is the network there?",
        "CPython 3.9 to 3.12 with venv not found (looked for …): name one with PYTHON=…",
        "CUDA toolkit not found: put its nvcc on the PATH, or name its folder with -DCUDAToolkit_ROOT=/usr/local/cuda",
    ):
        assert message in found
    assert "engine … cannot be loaded, build it again: …" in cpp_messages(ROOT / "infer_c/engine.h")
    assert len(explained()) > 120


def test_every_message_is_explained() -> None:
    """A message is explained where the document quotes its beginning."""
    assert [message for message in messages() if not message.startswith(tuple(explained()))] == []


def test_what_is_explained_exists() -> None:
    found = messages() + worded(message for path in ROOT.glob("infer_c/*") for message in cpp_messages(path))
    for message in [*explained(), *quoted(README)]:
        assert re.search(r"\w", message)
        assert any(text.startswith(message) for text in found), message


# Links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", document.read_text(encoding="utf-8")):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)", path.read_text(encoding="utf-8"))
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
