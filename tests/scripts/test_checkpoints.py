"""The Python scripts: the checkpoints that they write."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from helpers.checkpoints import megatron, pytorch
from helpers.config import BertConfig
from helpers.quantization import ranges
from helpers.quantization.sparsity import is_sparse, prune
from helpers.sites import bert_sites
from helpers.transforms import widen
from helpers.weights import random_weights
from tests.running import MODEL, ROOT, listing, refused, succeeds


def test_widen_checkpoint(small: Path, tmp_path: Path) -> None:
    model = small / "model"
    assert succeeds("scripts/widen_checkpoint.py", [str(model), "-k", "2", "-o", "wide"], tmp_path) == (
        "Wrote wide, hidden size 64\n"
    )
    config = BertConfig.load(model)
    expected, wide = widen(pytorch.load(model, config), config, 2)
    assert BertConfig.load(tmp_path / "wide") == wide
    assert (wide.hidden_size, wide.intermediate_size, wide.head_size) == (64, 96, 16)
    found = pytorch.load(tmp_path / "wide", wide).tensors()
    for name, array in expected.tensors().items():
        np.testing.assert_array_equal(found[name], array.astype(np.float16).astype(np.float32), name)
    assert (tmp_path / "wide/vocab.txt").read_bytes() == (model / "vocab.txt").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("widen_checkpoint.py model -o model", "output model/config.json is read as well, and would be overwritten"),
        ("widen_checkpoint.py model -o model --overwrite", "output model/config.json is read as well, and would be overwritten"),
        ("widen_checkpoint.py bare -o wide", "no tokenizer at bare: there is no tokenizer.json or vocab.txt; name it with -v"),
        ("widen_checkpoint.py roberta -o wide", "roberta is of roberta, which cannot be widened: take a BERT or a DistilBERT"),
        ("widen_checkpoint.py model -o file", "output folder file is a file: name another folder"),
        ("random_checkpoint.py mini -o file --overwrite", "output folder file is a file: name another folder"),
        ("random_checkpoint.py mini --megatron -o file/new", "output folder "),
        *(
            (f"{script} -o model", "folder model holds a model that this command did not write: name another one, or add")
            for script in ("random_checkpoint.py mini", "random_checkpoint.py mini --megatron", "widen_checkpoint.py other")
        ),
        ("random_checkpoint.py mini -o config", "folder config holds a model that this command did not write"),
        (
            "random_checkpoint.py mini --megatron -o model --overwrite",
            "folder model would keep model.safetensors of",
        ),
        (
            "random_checkpoint.py mini -o beside --overwrite",
            "folder beside would keep merges.txt, tokenizer.json of",
        ),
        ("random_checkpoint.py mini -o new -r=-1", "argument -r/--random-seed: must be a whole number from 0, not '-1'"),
    ],
)
def test_refused(small: Path, tmp_path: Path, arguments: str, says: str) -> None:
    shutil.copytree(small / "model", tmp_path / "model")
    (tmp_path / "bare").mkdir()
    shutil.copy(small / "model/config.json", tmp_path / "bare")
    (tmp_path / "roberta").mkdir()
    values = BertConfig.load(small / "model").to_dict()
    (tmp_path / "roberta/config.json").write_text(json.dumps({**values, "model_type": "roberta"}))
    (tmp_path / "file").touch()
    shutil.copytree(small / "model", tmp_path / "other")
    for name in ("config/bert_config.json", "beside/tokenizer.json", "beside/merges.txt", "beside/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    script, rest = arguments.split(" ", 1)
    assert refused(f"scripts/{script}", rest, tmp_path).startswith(f"error: {says}")


def test_the_sizes_of_random_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the script adds
    sizes = runpy.run_path(str(ROOT / "scripts/random_checkpoint.py"))["SIZES"]
    large: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    for name, changes in (("base", {}), ("large", large)):  # the defaults of Hugging Face are BERT base
        assert BertConfig(*sizes[name]).to_dict().items() <= transformers.BertConfig(**changes).to_dict().items()
    assert BertConfig(*sizes["mini"]) == replace(BertConfig.load(MODEL), hidden_act="gelu")


def test_weights_beyond_float16(small: Path, tmp_path: Path) -> None:
    """They stay what they are, and are no infinities."""
    shutil.copytree(small / "model", tmp_path / "model")
    tensors = load_file(small / "model/model.safetensors")
    large = "bert.encoder.layer.0.output.dense.bias"
    tensors[large] = np.linspace(-7e4, 1e30, 32, dtype=np.float32)
    save_file(tensors, tmp_path / "model/model.safetensors")
    succeeds("scripts/widen_checkpoint.py", "model -o wide", tmp_path)
    found = load_file(tmp_path / "wide/model.safetensors")
    assert {name: array.dtype.name for name, array in found.items()} == {
        name: "float32" if name == large else "float16" for name in tensors
    }
    np.testing.assert_array_equal(found[large], np.tile(tensors[large], 2))


def test_what_may_be_overwritten(small: Path, tmp_path: Path) -> None:
    """What these scripts wrote, until it is trained; and another model, if asked to."""
    model = small / "model"
    wide: Any = tmp_path / "wide"
    for times, flag in ((2, ""), (3, ""), (2, "--overwrite")):
        succeeds("scripts/widen_checkpoint.py", f"{shlex.quote(str(model))} -k {times} -o wide {flag}", tmp_path)
        assert BertConfig.load(wide).hidden_size == 32 * times
    transformers.AutoModelForQuestionAnswering.from_pretrained(wide).save_pretrained(wide)
    trained = listing(wide)
    says = "folder wide holds a model that this command did not write"
    refused("scripts/widen_checkpoint.py", f"{shlex.quote(str(model))} -o wide", tmp_path, says)
    assert listing(wide) == trained
    succeeds("scripts/widen_checkpoint.py", f"{shlex.quote(str(model))} -o wide --overwrite", tmp_path)
    assert listing(wide) != trained
    assert sorted(listing(wide)) == ["config.json", "model.safetensors", "vocab.txt"]


def test_random_checkpoint(tmp_path: Path) -> None:
    assert succeeds("scripts/random_checkpoint.py", "mini -o mini", tmp_path) == "Wrote mini\n"
    config = BertConfig.load(tmp_path / "mini")
    weights = pytorch.load(tmp_path / "mini", config)
    assert weights.layers[5].output.weight.std() == pytest.approx(0.02, rel=0.01)
    found = ranges.from_checkpoint(weights.ranges, bert_sites(6))
    assert len(found) == 6 * 8 + 1
    assert found["bert.embeddings"] > 2.5  # of as many standard normal values


def test_random_megatron_checkpoint(tmp_path: Path) -> None:
    assert succeeds("scripts/random_checkpoint.py", "mini --megatron -r 7 -o mini", tmp_path) == "Wrote mini\n"
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["config.json", "megatron.pkl", "vocab.txt"]
    config = BertConfig.load(tmp_path / "mini")
    weights = megatron.load(tmp_path / "mini/megatron.pkl", config)
    expected = prune(random_weights(config, 7)).tensors()
    for name in (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.5.attention.self.value.weight",
        "qa_outputs.bias",
    ):
        np.testing.assert_array_equal(weights.tensors()[name], expected[name].astype(np.float16).astype(np.float32), name)
    encoder = [array for name, array in weights.tensors().items() if name.startswith("bert.encoder") and array.ndim == 2]
    assert (len(encoder), all(map(is_sparse, encoder))) == (36, True)
    found = ranges.from_checkpoint(weights.ranges, bert_sites(6, megatron=True))
    assert len(found) == 6 * 10 + 1
    assert 0.1 < found["bert.embeddings.sum"] < 0.3 < 2.5 < found["bert.embeddings"]
