"""The download scripts: SQuAD from a server of our own, models through a stand-in for NVIDIA's NGC CLI."""

from __future__ import annotations

import itertools
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Callable

import pytest

from tests import running
from tests.running import PATIENCE, ROOT
from tests.shells import add_tool, child_of, refused, run, wait_for_end

MODELS = Path("models/fine-tuned")
SQUAD_FILES = ("train-v1.1.json", "dev-v1.1.json")

# What `ngc registry model download-version ORG/MODEL:VERSION --dest FOLDER` does: FILES are what it leaves behind, or
# sleeps between, and CODE is its exit code. LOG gets its arguments.
NGC = """#!/usr/bin/env bash
set -e
printf '%q ' ngc "$@" >>"$LOG"; echo >>"$LOG"
[[ $# == 6 && "$1 $2 $3 $5" == "registry model download-version --dest" ]]
model=${4#nvidia/}
mkdir "$6/${model/:/_v}"
cd "$6/${model/:/_v}"
for file in $FILES; do if [[ $file == sleep ]]; then touch "$LOG.slow"; exec sleep 3600; else echo "$model" >"$file"; fi; done
exit "$CODE"
"""
CHECKPOINT = "bert_config.json vocab.txt model.ckpt.meta model.ckpt.index model.ckpt.data-00000-of-00001"
TF_LARGE = "bert_tf_ckpt_large_qa_squad2_amp_128"
ONNX = "bert_pyt_onnx_large_qa_squad11_amp_fake_quant"
MEGATRON = "bert_pyt_statedict_megatron_sparse_int8qat"


@pytest.fixture
def tools(tools: Path) -> Path:
    """With what a download needs besides."""
    for name in ("flock", "mktemp"):
        add_tool(tools, name)
    return tools


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too: path → text."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("script", ["download_squad", "download_model", "build", "launch"])
def test_help(project: Path, script: str) -> None:
    for flag in ("-h", "--help"):
        done = run(project, script, flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\n  bash scripts/{script}.sh " in done.stdout
        assert "#" not in done.stdout and "shellcheck" not in done.stdout


# SQuAD


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; of files under /cut/ it sends half, then hangs up, under /slow/ it does not."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "/cut/" in self.path or "/slow/" in self.path else data)
        while "/slow/" in self.path and not select.select([self.connection], [], [], 0.05)[0]:  # until the other side is gone
            outputfile.flush()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with SQuAD's four files, and the address that serves it; under /cut/ and /slow/ it stops half-way."""
    folder = tmp_path / "served"
    for name in ("cut", "slow"):
        (folder / name).mkdir(parents=True)
    for name in (*SQUAD_FILES, "train-v2.0.json", "dev-v2.0.json"):
        for path in (folder / name, folder / "cut" / name, folder / "slow" / name):
            path.write_text(squad_text(name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def squad_text(name: str) -> str:
    """Small, but too large for one packet, and with a brace at its half."""
    return f'{{"data": [{", ".join(["{}"] * 5000)}], "name": "{name}"}}\n'


def fetched(*names: str) -> dict[str, str]:
    return {name: squad_text(name) for name in sorted(names)}


@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_squad_is_fetched_once(project: Path, tools: Path, server: tuple[Path, str], tool: str) -> None:
    folder, address = server
    add_tool(tools, tool)
    done = run(project, "download_squad", path=tools, SQUAD_URL=address)
    assert (done.returncode, done.stdout) == (0, "Fetching squad/dev-v1.1.json\n"), done.stderr
    assert contents(project / "squad") == fetched("dev-v1.1.json")  # which is all that is needed here
    (folder / "dev-v1.1.json").unlink()
    again = run(project, "download_squad", "v1_1", "all", path=tools, SQUAD_URL=address)
    assert again.stdout == "squad/dev-v1.1.json is there\nFetching squad/train-v1.1.json\n"
    assert contents(project / "squad") == fetched(*SQUAD_FILES)
    assert sorted(path.name for path in (project / "squad").iterdir()) == ["dev-v1.1.json", "train-v1.1.json"]


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ("v2_0", ["dev-v2.0.json"]),
        ("train", ["train-v1.1.json"]),
        ("all v2_0", ["dev-v2.0.json", "train-v2.0.json"]),
        ("v1_1 dev", ["dev-v1.1.json"]),
    ],
)
def test_squad_by_words(project: Path, server: tuple[Path, str], words: str, files: list[str]) -> None:
    assert run(project, "download_squad", *words.split(), SQUAD_URL=server[1]).returncode == 0
    assert contents(project / "squad") == fetched(*files)


def test_squad_replaces_what_is_half_there(project: Path, server: tuple[Path, str]) -> None:
    """But not what others have half there, whatever its name."""
    (project / "squad/train-v1.1.json").write_text(squad_text("train-v1.1.json"))
    (project / "squad/dev-v1.1.json").write_text(squad_text("dev-v1.1.json")[:200])
    others = {"dev-v1.1.json.part": "another's", ".part.12345678/dev-v1.1.json": "another's"}
    (project / "squad/.part.12345678").mkdir()
    for name, text in others.items():
        (project / "squad" / name).write_text(text)
    done = run(project, "download_squad", "all", SQUAD_URL=server[1])
    assert done.stdout.splitlines() == [
        "squad/dev-v1.1.json is not a whole SQuAD file: it is replaced",
        "Fetching squad/dev-v1.1.json",
        "squad/train-v1.1.json is there",
    ]
    assert contents(project / "squad") == {**fetched(*SQUAD_FILES), **others}


@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_squad_leaves_nothing_half_there(project: Path, tools: Path, server: tuple[Path, str], tool: str) -> None:
    folder, address = server
    add_tool(tools, tool)
    squad = partial(run, project, "download_squad", path=tools)
    for place in ("none", "cut"):
        message = f"cannot fetch {address}/{place}/dev-v1.1.json: is the network there?"
        refused(squad(SQUAD_URL=f"{address}/{place}"), 1, message)
    for wrong in ("<html>log in to this network</html>", squad_text("")[:5000], '{"version": "1.1"}'):
        (folder / "dev-v1.1.json").write_text(wrong)
        refused(squad(SQUAD_URL=address), 1, f"{address}/dev-v1.1.json did not arrive whole: try again")
    assert list((project / "squad").iterdir()) == []


@pytest.mark.parametrize("tool", ["curl", "wget"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_squad_interrupted(project: Path, tools: Path, server: tuple[Path, str], tool: str, number: signal.Signals) -> None:
    add_tool(tools, tool)
    environment = {**os.environ, "no_proxy": "127.0.0.1", "PATH": str(tools), "SQUAD_URL": f"{server[1]}/slow"}
    interrupted(project, "download_squad", environment, number, lambda: list(project.glob("squad/.part.*/*")))
    assert list((project / "squad").iterdir()) == []


def interrupted(
    project: Path, name: str, environment: dict[str, str], number: signal.Signals, ready: Callable[[], object]
) -> None:
    """Starts a script and, when it is `ready`, sends a signal to it alone: at once it is gone, and what it had started."""
    command = [shutil.which("bash") or "bash", f"scripts/{name}.sh"]
    # A shell that runs the tests in its background has SIGINT ignored, which its children inherit.
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.DEVNULL, preexec_fn=default) as script:
        end = time.monotonic() + PATIENCE
        while not ready():
            assert script.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        child = child_of(script)
        sent = time.monotonic()
        script.send_signal(number)
        assert script.wait(PATIENCE) == 128 + number
        assert time.monotonic() - sent < 2
    wait_for_end(child)


def test_squad_says_what_is_missing(project: Path, tools: Path) -> None:
    refused(run(project, "download_squad", path=tools), 1, "neither curl nor wget is on the PATH: install one of them")
    (tools / "python3").unlink()
    refused(run(project, "download_squad", path=tools), 1, "python3 is not on the PATH: it checks what is downloaded")
    assert contents(project / "squad") == {}


@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_squad_dry_run_prints_the_commands(project: Path, tools: Path, server: tuple[Path, str], tool: str) -> None:
    add_tool(tools, tool)
    (project / "squad/train-v1.1.json").write_text(squad_text("train-v1.1.json"))
    done = run(project, "download_squad", "all", "--dry-run", path=tools, SQUAD_URL=server[1])
    assert contents(project / "squad") == fetched("train-v1.1.json")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["mkdir", tool, "mv", "rm", "#"]
    subprocess.run(["bash", "-e"], cwd=project, env={**os.environ, "PATH": str(tools)}, input=done.stdout, text=True, check=True)
    assert contents(project / "squad") == fetched(*SQUAD_FILES)


def test_squad_refuses_other_words(project: Path) -> None:
    says = "unknown word v3: give v1_1 or v2_0, and dev, train or all; --help says more"
    refused(run(project, "download_squad", "v3"), 2, says)
    refused(run(project, "download_squad", "v1_1", "v2_0"), 2, "v1_1 and v2_0 exclude each other: give one of them")
    refused(run(project, "download_squad", "train", "all"), 2, "train and all exclude each other: give one of them")


# Models


class Ngc:
    """The download script with the stand-in for ngc, and what that was asked."""

    def __init__(self, project: Path, tools: Path) -> None:
        self.project, self.tools, self.log = project, tools, tools.parent / "ngc.log"
        add_tool(tools, "ngc", NGC)

    def environment(self, files: str, code: int) -> dict[str, str]:
        return {"LOG": str(self.log), "FILES": files, "CODE": str(code)}

    def download(self, *words: str, files: str = CHECKPOINT, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run(self.project, "download_model", *words, path=self.tools, **self.environment(files, code))

    def asked(self) -> list[str]:
        """Its command lines since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.strip() for line in lines]

    def models(self) -> dict[str, str]:
        return contents(self.project / MODELS)


@pytest.fixture
def ngc(project: Path, tools: Path) -> Ngc:
    return Ngc(project, tools)


def model(name: str, version: str, files: str) -> dict[str, str]:
    """What models/fine-tuned/ then holds."""
    return {f"{name}_v{version}/{file}": f"{name}:{version}\n" for file in sorted(files.split())}


KINDS = [
    ("", TF_LARGE, "19.03.1", CHECKPOINT),
    ("tf", TF_LARGE, "19.03.1", CHECKPOINT),
    ("384 v1_1", "bert_tf_ckpt_large_qa_squad11_amp_384", "19.03.1", CHECKPOINT),
    ("base", "bert_tf_ckpt_base_qa_squad2_amp_128", "19.03.1", CHECKPOINT),
    ("base 384 v2 tf", "bert_tf_ckpt_base_qa_squad2_amp_384", "19.03.1", CHECKPOINT.replace("ckpt", "ckpt-5474")),
    ("pyt", ONNX, "1", "bert_large_v1_1_fake_quant.onnx"),
    ("pyt large v1_1 int8-qat", ONNX, "1", "bert_large_v1_1_fake_quant.onnx"),
    ("pyt megatron-large int8-qat sparse", MEGATRON, "21.03.0", "bert_pyt_statedict_megatron_sparse_int8_qat"),
]


@pytest.mark.parametrize(("words", "name", "version", "files"), KINDS)
def test_model_is_downloaded_once(ngc: Ngc, words: str, name: str, version: str, files: str) -> None:
    target = MODELS / f"{name}_v{version}"
    command = f"ngc registry model download-version nvidia/{name}:{version} --dest"
    dry = ngc.download(*words.split(), "--dry-run")
    assert f"{command} {target}.part" in dry.stdout.splitlines()
    assert (dry.stderr, ngc.asked(), ngc.models()) == ("", [], {})

    done = ngc.download(*words.split(), files=files)
    assert done.returncode == 0, done.stderr
    [asked] = ngc.asked()
    assert re.fullmatch(rf"{command} {MODELS}/\.part\.\w+", asked)
    assert ngc.models() == model(name, version, files)

    again = ngc.download(*words.split(), code=1)
    assert (again.returncode, again.stdout, ngc.asked()) == (0, done.stdout, [])
    assert f"{target} is there" in again.stdout
    assert [path.name for path in (ngc.project / MODELS).iterdir()] == [target.name]


@pytest.mark.parametrize(("words", "name", "version", "files"), KINDS[3:])
def test_model_builder_command(ngc: Ngc, words: str, name: str, version: str, files: str) -> None:
    """The command that is printed names the weights, and our builder understands it."""
    printed = ngc.download(*words.split(), files=files).stdout
    script, *arguments = shlex.split(printed.splitlines()[-1])[4:]
    weights = ngc.project / arguments[1]
    assert weights.parent == ngc.project / MODELS / f"{name}_v{version}"
    assert weights.with_name(f"{weights.name}.index").exists() if arguments[0] == "-m" else weights.exists()
    for config in {ngc.project / arguments[arguments.index("-c") + 1]} - {weights.parent}:
        assert ngc.download("tf", "large", "384").returncode == 0
        assert (config / "bert_config.json").exists()
        assert "download_model.sh tf large 384 v2" in printed
        assert "download_model.sh" not in ngc.download(*words.split()).stdout
    (ngc.project / "engines").mkdir()
    done = running.run(script, arguments, ngc.project)
    # Read as far as the configuration, which the stand-in did not fill.
    assert (done.returncode, done.stderr[:28]) == (2, "error: configuration models/")
    assert "is not JSON" in done.stderr


def test_model_words_in_any_order(project: Path) -> None:
    expected = run(project, "download_model", "tf", "base", "384", "v1_1", "--dry-run").stdout
    assert "bert_tf_ckpt_base_qa_squad11_amp_384_v19.03.1" in expected
    for words in itertools.permutations(["base", "384", "v1_1", "--dry-run"]):
        assert run(project, "download_model", *words).stdout == expected


def test_model_dry_run_prints_the_commands(ngc: Ngc) -> None:
    commands = ngc.download("--dry-run").stdout
    environment = {**os.environ, **ngc.environment(CHECKPOINT, 0), "PATH": str(ngc.tools)}
    subprocess.run(["bash", "-e"], cwd=ngc.project, env=environment, input=commands, text=True, check=True)
    assert ngc.models() == model(TF_LARGE, "19.03.1", CHECKPOINT)
    assert len(list((ngc.project / MODELS).iterdir())) == 1


@pytest.mark.parametrize("missing", [file for file in CHECKPOINT.split() if not file.endswith(".meta")])
def test_model_that_lacks_a_file(ngc: Ngc, missing: str) -> None:
    files = " ".join(file for file in CHECKPOINT.split() if file != missing)
    refused(ngc.download(files=files), 1, f"nvidia/{TF_LARGE}:19.03.1 did not arrive whole: try again")
    assert list((ngc.project / MODELS).iterdir()) == []
    assert ngc.download(files=CHECKPOINT).returncode == 0


def test_model_that_lacks_a_shard(ngc: Ngc) -> None:
    shards = [f"model.ckpt.data-0000{i}-of-00003" for i in range(3)]
    others = "bert_config.json vocab.txt model.ckpt.index "
    for present in itertools.combinations(shards, 2):
        assert ngc.download(files=others + " ".join(present)).returncode == 1
    assert ngc.download(files=others + " ".join(shards)).returncode == 0


@pytest.mark.parametrize("words", ["pyt", "pyt megatron-large sparse int8-qat"])
def test_model_without_weights(ngc: Ngc, words: str) -> None:
    assert ngc.download(*words.split(), files="README.md").returncode == 1
    assert list((ngc.project / MODELS).iterdir()) == []


def test_model_that_ngc_fails_on(ngc: Ngc) -> None:
    reason = "for the reason above: is the network there? Does it want 'ngc config set'?"
    refused(
        ngc.download(files="vocab.txt model.ckpt.index", code=1),
        1,
        f"ngc could not download nvidia/{TF_LARGE}:19.03.1, {reason}",
    )
    assert list((ngc.project / MODELS).iterdir()) == []


def test_model_begins_anew_where_something_is_half_there(ngc: Ngc) -> None:
    target = f"{TF_LARGE}_v19.03.1"

    def leave(folder: str) -> None:
        (ngc.project / MODELS / folder).mkdir(parents=True)
        (ngc.project / MODELS / folder / "stale").write_text("half")

    leave(target)
    assert ngc.download(files="vocab.txt", code=1).returncode == 1
    assert ngc.models() == {f"{target}/stale": "half"}  # nothing is taken away before it is replaced
    leave(f"{target}.part/{target}")  # another's
    assert ngc.download().returncode == 0
    assert ngc.models() == {**model(TF_LARGE, "19.03.1", CHECKPOINT), f"{target}.part/{target}/stale": "half"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_model_interrupted(ngc: Ngc, number: signal.Signals) -> None:
    environment = {**os.environ, **ngc.environment("vocab.txt sleep", 0), "PATH": str(ngc.tools)}
    interrupted(ngc.project, "download_model", environment, number, ngc.log.with_name("ngc.log.slow").exists)
    assert list((ngc.project / MODELS).iterdir()) == []


def test_two_at_once(ngc: Ngc) -> None:
    """Each in a folder of its own; one of the two models is there in the end, whole."""
    environment = {**os.environ, **ngc.environment(CHECKPOINT, 0), "PATH": str(ngc.tools)}
    command = [shutil.which("bash") or "bash", "scripts/download_model.sh"]
    runs = [subprocess.Popen(command, cwd=ngc.project, env=environment, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [run.wait(PATIENCE) for run in runs] == [0] * 4
    assert ngc.models() == model(TF_LARGE, "19.03.1", CHECKPOINT)
    assert len(list((ngc.project / MODELS).iterdir())) == 1


def test_model_without_ngc(project: Path, tools: Path) -> None:
    message = "the NGC CLI (ngc) is not on the PATH: get it from https://ngc.nvidia.com/setup/installers/cli"
    refused(run(project, "download_model", path=tools), 1, message)
    assert not (project / MODELS).exists()
    assert run(project, "download_model", "--dry-run", path=tools).returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("huge", "unknown word huge: --help lists them"),
        ("--dryrun", "unknown word --dryrun: --help lists them"),
        ("tf pyt", "tf and pyt exclude each other: give one of them"),
        ("128 384", "128 and 384 exclude each other: give one of them"),
        ("v2 v1_1", "v2 and v1_1 exclude each other: give one of them"),
        ("base mini", "base and mini exclude each other: give one of them"),
        ("mini tf", "mini takes no other word: it is one model"),
        ("pyt v2", "the pyt models were trained on SQuAD 1.1: leave v2 out"),
        *(
            (words, f"there is no model {kind}: there are tf base, tf large, pyt large and pyt megatron-large sparse int8-qat")
            for words, kind in [
                ("pyt base", "pyt base"),
                ("base pyt 384 int8-qat", "pyt base int8-qat"),
                ("megatron-large", "tf megatron-large"),
                ("pyt megatron-large", "pyt megatron-large"),
                ("megatron-large sparse pyt", "pyt megatron-large sparse"),
                ("sparse", "tf large sparse"),
                ("int8-qat", "tf large int8-qat"),
                ("pyt sparse int8-qat", "pyt large sparse int8-qat"),
            ]
        ),
    ],
)
def test_model_refuses_words(ngc: Ngc, words: str, says: str) -> None:
    done = ngc.download(*words.split())
    assert (done.returncode, done.stderr, done.stdout) == (2, f"error: {says}\n", "")
    assert ngc.asked() == []


def test_mini_is_here_and_its_command_builds_it(project: Path, tools: Path) -> None:
    done = run(project, "download_model", "mini", path=tools)
    assert (done.returncode, done.stderr) == (0, "")
    first, command = done.stdout.splitlines()
    assert "models/minilm-l6-squad comes with the project" in first
    (project / "models/minilm-l6-squad").symlink_to(ROOT / "models/minilm-l6-squad")
    (project / "builder.py").symlink_to(ROOT / "builder.py")
    subprocess.run(["bash", "-ec", command], cwd=project, env={**os.environ, "PATH": str(tools)}, check=True)
    assert (project / "engines/minilm-l6-squad.engine").stat().st_size > 10_000_000
