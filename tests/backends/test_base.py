"""Backend.build: from a request to an engine and its description, in silence."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from helpers import backends, tokenization
from helpers.backends.base import Device
from helpers.backends.onnxruntime import OnnxRuntime
from helpers.backends.onnxruntime.model import OPSET
from helpers.engine_file import Description
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.request import BuildRequest
from helpers.tokenization import Template, wordpiece
from helpers.transforms import with_two_segments
from helpers.weights import BertWeights, random_weights
from tests.batches import onnx_blob
from tests.models import small_config, small_tensors, write_model

PROFILES = (Profile(4, 16), Profile(1, 32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained in the erf form."""
    folder = tmp_path_factory.mktemp("base") / "model"
    write_model(folder, small_config(hidden_act="gelu"), small_tensors())
    return folder


def request_of(model: Path, **fields: object) -> BuildRequest:
    return replace(BuildRequest("pytorch", model, PROFILES), **fields)  # type: ignore[arg-type]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is warned of, but for the small heads of these models."""
    return [message for message in caplog.messages if "num_attention_heads" not in message]


@pytest.mark.parametrize("packed", [False, True])
def test_build(model: Path, packed: bool, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """The engine is that of the network, and nothing is printed."""
    built = backends.find("onnxruntime").build(request_of(model, packed=packed))
    weights = BertWeights.from_tensors(small_tensors())
    assert built.blob == onnx_blob(weights, small_config(hidden_act="gelu"), PROFILES, packed)
    assert built.description.packed == packed
    assert capfd.readouterr() == ("", "")
    assert told(caplog) == []


def test_what_a_description_says(model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(model.parent)
    request = request_of(Path("model"), fp16=True, workspace_mib=7)
    found = backends.find("onnxruntime").build(request).description
    tokenizer, template = tokenization.read(model, wordpiece.BERT, {})
    assert found == Description(
        backend="onnxruntime",
        version=f"opset {OPSET}",
        gpu=None,
        compute_capability=None,
        precision="float32",  # whatever was asked for
        packed=False,
        profiles=[[4, 16], [1, 32]],
        checkpoint=str(model),
        vocab_size=60,
        model_type="bert",
        activation="erf",
        task="question-answering",
        labels=["start", "end"],
        scoring="softmax",
        template=[["[CLS]"], ["[SEP]"], ["[SEP]"], 1],
        request=request.to_dict(),
        tokenizer=tokenizer.to_json(),
    )
    assert template == Template()
    assert found.request == json.loads(json.dumps(asdict(found)))["request"]
    assert (found.request["checkpoint"], found.request["workspace_mib"], found.request["fp16"]) == (str(model), 7, True)
    assert told(caplog) == ["ONNX Runtime on the CPU computes in float32, and ignores fp16"]
    assert {record[:2] for record in caplog.record_tuples} == {("helpers", logging.WARNING)}


def test_everything_that_is_ignored_is_told(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = request_of(model, strict=True, sparse=True, output_gemm=True, int8_attention=True, int8_skip_layer_norm=True)
    backends.find("onnxruntime").build(request)
    said = "and ignores strict, sparse, int8_attention, int8_skip_layer_norm, output_gemm"
    first, *others = told(caplog)
    assert first.endswith(said)
    assert others == ["sparse has nothing to work on: no matrix of this checkpoint is 2:4 sparse"]


class Elsewhere(OnnxRuntime):
    """A backend whose engines depend on a GPU."""

    def device(self) -> Device:
        return Device("8.6", "Some GPU", (8, 9))


def test_a_description_of_an_engine_for_a_gpu(model: Path) -> None:
    found = Elsewhere().build(request_of(model)).description
    assert (found.version, found.gpu, found.compute_capability) == ("8.6", "Some GPU", "8.9")


def test_sequences_longer_than_the_model_s(model: Path) -> None:
    backends.find("onnxruntime").build(request_of(model, profiles=(Profile(1, 64),)))
    with pytest.raises(InputError, match=r"^sequence length 65 is above the model's max_position_embeddings, 64$"):
        backends.find("onnxruntime").build(request_of(model, profiles=(Profile(8, 16), Profile(1, 65))))


def test_what_a_description_says_of_a_task(model: Path, tmp_path: Path) -> None:
    """Its labels, and what makes scores of them; windows have no more segments than the model."""
    shape: dict[str, Any] = {"type_vocab_size": 1, "task": "sequence-classification", "labels": ("calm", "glad", "odd")}
    config = small_config(**shape, extra={"problem_type": "multi_label_classification"})
    tensors = {config.family.tensor_name(name, config): array for name, array in random_weights(config).tensors().items()}
    write_model(tmp_path / "model", config, tensors)
    built = backends.find("onnxruntime").build(request_of(tmp_path / "model", task="sequence-classification"))
    found = built.description
    assert (found.task, found.labels, found.scoring) == ("sequence-classification", ["calm", "glad", "odd"], "sigmoid")
    assert found.template[-1] == 0
    assert built.blob == onnx_blob(with_two_segments(random_weights(config)), config, PROFILES)
    with pytest.raises(InputError, match=r"it has no head for task sequence-classification$"):
        backends.find("onnxruntime").build(request_of(model, task="sequence-classification"))


@pytest.mark.usefixtures("no_tensorrt")
def test_a_backend_that_is_not_here_reads_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^TensorRT cannot be imported"):
        backends.find("tensorrt").build(request_of(tmp_path / "absent"))
