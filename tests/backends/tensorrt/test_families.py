"""Families and tasks through NVIDIA's plugins, against ONNX Runtime, from folders as Hugging Face saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers import backends, engine_file
from helpers.backends.base import Session
from helpers.config import TASKS, BertConfig
from helpers.layouts import Batch, Profile
from helpers.request import BuildRequest
from tests.batches import of_lengths
from tests.models import write_vocab
from tests.tensorrt_engines import Heard, opened

pytestmark = pytest.mark.gpu

BOUND = 2e-2  # of the largest output: float16's noise
SIZES = {"vocab_size": 200, "num_hidden_layers": 3, "max_position_embeddings": 514, "hidden_act": "gelu_new"}
LARGE = {**SIZES, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256}
SMALL_HEADS = {**SIZES, "hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 256}
DISTILLED = {"dim": 128, "n_layers": 3, "n_heads": 2, "hidden_dim": 256, "activation": "gelu_new"}
MODELS: dict[str, dict[str, Any]] = {
    "roberta": {"model_type": "roberta", **LARGE, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {"model_type": "xlm-roberta", **SMALL_HEADS, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"model_type": "distilbert", **DISTILLED, "vocab_size": 200, "max_position_embeddings": 512},
    "electra": {"model_type": "electra", **LARGE, "embedding_size": 128},
    "electra, narrow": {"model_type": "electra", **LARGE, "embedding_size": 64},
    "albert": {"model_type": "albert", **LARGE, "embedding_size": 64},
    "squeezebert": {"model_type": "squeezebert", **LARGE},
    "ernie, relu": {"model_type": "ernie", **LARGE, "use_task_id": True, "hidden_act": "relu"},
    "bert, quick_gelu": {"model_type": "bert", **LARGE, "hidden_act": "quick_gelu"},
}


def write(folder: Path, values: dict[str, Any], task: str) -> Path:
    """A folder of random weights, large enough for attention to prefer some tokens over others."""
    folder.mkdir()
    labelled = {**values, "num_labels": 5}
    config = BertConfig.from_dict(labelled, folder, task)
    generator = np.random.default_rng(1)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = generator.standard_normal(shape, np.float32) * np.float32(0.1)
        return noise + np.float32(name.lower().endswith(("layernorm.weight", "layer_norm.weight")))

    names = {config.family.tensor_name(name, config): shape for name, shape in config.family.stored(config).items()}
    save_file({name: tensor(name, shape) for name, shape in names.items()}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(labelled))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    write_vocab(folder / "vocab.txt", 200)
    return folder


def sessions(folder: Path, task: str, packed: bool, fp16: bool = True) -> tuple[Session, Session, BertConfig]:
    """TensorRT's, and ONNX Runtime's in float32."""
    request = BuildRequest("pytorch", folder, (Profile(8, 128),), task=task, packed=packed, fp16=fp16, strict=not fp16)
    for backend in ("tensorrt", "onnxruntime"):
        engine_file.save(folder / backend, backends.find(backend).build(request, Heard()))
    return opened(folder / "tensorrt"), opened(folder / "onnxruntime"), BertConfig.load(folder, task)


def batches(config: BertConfig) -> list[Batch]:
    lengths = [[128] * 8, [1], [128, 5, 77, 64], [3, 128]]
    return [of_lengths(each, config, seed) for seed, each in enumerate(lengths)]


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", MODELS)
def test_logits(tmp_path: Path, name: str, packed: bool) -> None:
    ours, theirs, config = sessions(write(tmp_path / "model", MODELS[name], "question-answering"), "question-answering", packed)
    for batch in batches(config):
        [found], [expected] = ours.stream([batch]), theirs.stream([batch])
        assert found.shape == expected.shape == (len(batch.input_ids), 2)
        assert np.abs(found - expected).max() < BOUND * np.abs(expected).max()


@pytest.mark.parametrize("name", ["roberta", "distilbert", "electra, narrow"])
def test_float32(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model", MODELS[name], "question-answering")
    ours, theirs, config = sessions(folder, "question-answering", packed=False, fp16=False)
    for batch in batches(config):
        [found], [expected] = ours.stream([batch]), theirs.stream([batch])
        assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("task", [task for task in TASKS if task != "question-answering"])
@pytest.mark.parametrize("name", ["roberta", "electra, narrow"])
def test_tasks(tmp_path: Path, name: str, task: str, packed: bool) -> None:
    ours, theirs, config = sessions(write(tmp_path / "model", MODELS[name], task), task, packed)
    for batch in batches(config):
        [found], [expected] = ours.stream([batch]), theirs.stream([batch])
        rows = len(batch.lengths) if config.pooled else len(batch.input_ids)
        assert found.shape == expected.shape == (rows, config.width)
        assert np.abs(found - expected).max() < BOUND * np.abs(expected).max()


def test_a_network_that_no_plugin_has() -> None:
    family = BertConfig.from_dict({"model_type": "mpnet", **LARGE}, Path("config.json")).family
    heard = Heard()
    assert backends.choose("auto", family, heard.warn).name == "onnxruntime"
    assert heard.warnings == ["tensorrt has no relative position bias (mpnet): ONNX Runtime on the CPU runs it"]
