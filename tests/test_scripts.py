"""The Python scripts: the checkpoints that they write."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import transformers

from helpers import ranges
from helpers.builder import is_sparse
from helpers.checkpoints import megatron, pytorch
from helpers.config import BertConfig
from helpers.transforms import prune, widen
from helpers.weights import random_weights

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "minilm-l6-squad"


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("widen_checkpoint.py model -o model", "output model/vocab.txt is read as well, and would be overwritten"),
        ("widen_checkpoint.py bare -o wide", "vocabulary bare/vocab.txt cannot be read: No such file or directory"),
        ("widen_checkpoint.py model -o file", "output folder file cannot be made: File exists"),
        ("random_checkpoint.py mini -o file", "output folder file cannot be made: File exists"),
        ("random_checkpoint.py mini --megatron -o file/new", "output folder file/new cannot be made: Not a directory"),
        ("random_checkpoint.py mini -o new -r=-1", "argument -r/--random-seed: must be a whole number from 0, not '-1'"),
    ],
)
def test_refused(tmp_path: Path, arguments: str, says: str) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_bytes((MODEL / "config.json").read_bytes())
    (tmp_path / "file").touch()
    script, *rest = arguments.split()
    command = [sys.executable, str(ROOT / "scripts" / script), *rest]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "file", "model"]
    assert (tmp_path / "model/model.safetensors").read_bytes() == (MODEL / "model.safetensors").read_bytes()


def test_random_checkpoint(tmp_path: Path) -> None:
    python("random_checkpoint.py", "base", "-o", str(tmp_path / "base"))
    config = BertConfig.load(tmp_path / "base")
    assert asdict(config).items() <= transformers.BertConfig().to_dict().items()  # whose defaults are BERT base
    weights = pytorch.load(tmp_path / "base", config)
    assert weights.layers[11].output.weight.std() == pytest.approx(0.02, rel=0.01)
    found = ranges.from_checkpoint(weights.ranges, 12)
    assert len(found) == 12 * 8 + 1
    assert found["bert.embeddings"] > 2.5  # of as many standard normal values


def test_random_megatron_checkpoint(tmp_path: Path) -> None:
    python("random_checkpoint.py", "base", "--megatron", "-r", "7", "-o", str(tmp_path / "base"))
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["config.json", "megatron.pkl", "vocab.txt"]
    config = BertConfig.load(tmp_path / "base")
    weights = megatron.load(tmp_path / "base/megatron.pkl", config)
    expected = prune(random_weights(config, 7)).tensors()
    for name in (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.11.attention.self.value.weight",
        "qa_outputs.bias",
    ):
        np.testing.assert_array_equal(weights.tensors()[name], expected[name].astype(np.float16).astype(np.float32), name)
    encoder = [array for name, array in weights.tensors().items() if name.startswith("bert.encoder") and array.ndim == 2]
    assert (len(encoder), all(map(is_sparse, encoder))) == (72, True)
    found = ranges.from_checkpoint(weights.ranges, 12, megatron=True)
    assert len(found) == 12 * 10 + 1
    assert 0.1 < found["bert.embeddings.sum"] < 0.3 < 2.5 < found["bert.embeddings"]
