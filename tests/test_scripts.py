"""The shell scripts: downloads from a server of our own, checkpoints that the Python ones write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints import pytorch
from helpers.config import BertConfig
from helpers.transforms import widen

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "minilm-l6-squad"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing but the script and the folder that it fills."""
    (tmp_path / "project" / "squad").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", tmp_path / "project" / "scripts")
    return tmp_path / "project"


def download(project: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "scripts/download_squad.sh", *arguments]
    environment = {**os.environ, "SQUAD_URL": address, "no_proxy": "127.0.0.1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def squad(project: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((project / "squad").iterdir())}


def test_download_squad(project: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    for name in ("train-v1.1.json", "dev-v1.1.json", "train-v2.0.json", "dev-v2.0.json"):
        (folder / name).write_text(f'{{"data": "{name}"}}\n')
    assert download(project, address).returncode == 0
    assert squad(project) == {name: f'{{"data": "{name}"}}\n' for name in ("dev-v1.1.json", "train-v1.1.json")}
    (folder / "dev-v1.1.json").write_text("{}")
    again = download(project, address)
    assert again.stdout == "squad/train-v1.1.json is there\nsquad/dev-v1.1.json is there\n"
    assert squad(project)["dev-v1.1.json"] == '{"data": "dev-v1.1.json"}\n'
    assert download(project, address, "v2_0").returncode == 0
    assert len(squad(project)) == 4


def test_download_squad_dry_run(project: Path) -> None:
    done = download(project, "http://nowhere", "v2_0", "--dry-run")
    assert done.stdout.splitlines() == [
        f"would fetch http://nowhere/{name} into squad/{name}" for name in ("train-v2.0.json", "dev-v2.0.json")
    ]
    assert squad(project) == {}


def test_download_squad_leaves_nothing_half_there(project: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    missing = download(project, address)
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (
        2,
        f"error: cannot fetch {address}/train-v1.1.json: is the network there?",
    )
    (folder / "train-v1.1.json").write_text('{"data": [')
    cut = download(project, address)
    assert (cut.returncode, cut.stderr) == (2, f"error: {address}/train-v1.1.json did not arrive whole: try again\n")
    assert squad(project) == {}


def test_download_squad_refuses_other_arguments(project: Path) -> None:
    done = download(project, "http://nowhere", "v3")
    assert (done.returncode, done.stderr[:28]) == (2, "error: unknown argument v3: ")


def python(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / script), *arguments], check=True, capture_output=True)


def test_widen_checkpoint(tmp_path: Path) -> None:
    python("widen_checkpoint.py", str(MODEL), "-k", "2", "-o", str(tmp_path / "wide"))
    config = BertConfig.load(MODEL)
    expected, wide = widen(pytorch.load(MODEL, config), config, 2)
    assert BertConfig.load(tmp_path / "wide") == wide
    assert (wide.hidden_size, wide.intermediate_size, wide.head_size) == (768, 3072, 64)
    found = pytorch.load(tmp_path / "wide", wide).tensors()
    for name, array in expected.tensors().items():
        np.testing.assert_array_equal(found[name], array.astype(np.float16).astype(np.float32), name)
    assert (tmp_path / "wide" / "vocab.txt").read_bytes() == (MODEL / "vocab.txt").read_bytes()


def test_random_checkpoint(tmp_path: Path) -> None:
    python("random_checkpoint.py", "base", "-o", str(tmp_path / "base"))
    config = BertConfig.load(tmp_path / "base")
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.head_size) == (12, 768, 12, 64)
    weights = pytorch.load(tmp_path / "base", config)
    assert weights.layers[11].output.weight.std() == pytest.approx(0.02, rel=0.01)
