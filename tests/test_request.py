"""What an engine is built from: what is refused, the files read and written, and the request as JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from helpers.commands.flags import FLAGS
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.request import BuildRequest, Calibration, named

PROFILES = (Profile(1, 128), Profile(8, 384), Profile(32, 64))
REQUEST = BuildRequest("pytorch", Path("model/model.safetensors"), PROFILES)


# Refused


@pytest.mark.parametrize("source", ["pytorch", "pickle"])
@pytest.mark.parametrize(("packed", "int8", "interleaved", "megatron"), list(product([False, True], repeat=4)))
def test_options_that_exclude_each_other(source: str, packed: bool, int8: bool, interleaved: bool, megatron: bool) -> None:
    options: dict[str, Any] = {"source": source, "packed": packed, "int8": int8, "interleaved": interleaved, "megatron": megatron}
    expected = ""
    if interleaved and not (packed and int8):
        expected = "interleaved is a layout of packed int8: add --int8 --fp16"
    elif megatron and not (interleaved and source == "pickle"):
        expected = "Megatron residuals exist in interleaved int8 alone, of a pickle: add --pickle --interleaved --int8 --fp16"
    if not expected:
        assert replace(REQUEST, **options).megatron == megatron
        return
    with pytest.raises(InputError) as error:
        replace(REQUEST, **options)
    assert error.value.told(FLAGS) == expected
    assert str(error.value) == expected.replace("--", "")


def test_a_request_stays_as_it_was_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        REQUEST.interleaved = True  # type: ignore[misc]


def test_the_longest_sequence() -> None:
    assert REQUEST.longest == 384


# Files


@pytest.mark.parametrize("source", ["ckpt", "onnx", "pickle"])
def test_the_configuration_s_folder_is_required(source: str) -> None:
    request = replace(REQUEST, source=source, checkpoint=Path("folder/model"))
    for call in (lambda: request.folder, lambda: request.vocabulary):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == "the configuration's folder is required: name it with config_dir"
    named = replace(request, config_dir=Path("configs"))
    assert (named.folder, named.vocabulary) == (Path("configs"), Path("configs"))


def test_the_folder_of_a_hugging_face_model(tmp_path: Path) -> None:
    """That of the file, whether the file or the folder is named."""
    (tmp_path / "model.safetensors").touch()
    for checkpoint in (tmp_path, tmp_path / "model.safetensors"):
        request = replace(REQUEST, checkpoint=checkpoint)
        assert (request.folder, request.vocabulary) == (tmp_path, tmp_path)
        assert replace(request, config_dir=Path("configs")).folder == Path("configs")


def test_a_vocabulary_elsewhere() -> None:
    request = replace(REQUEST, config_dir=Path("configs"), vocab_file=Path("words.txt"))
    assert request.vocabulary == Path("words.txt")
    without_folder = replace(request, source="ckpt", config_dir=None)
    assert without_folder.vocabulary == Path("words.txt")


def test_inputs(tmp_path: Path) -> None:
    """Of the folders that a request names all that models have, read this time or not; an engine may lie there too."""
    kept = {"config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt", "other.safetensors", "old.bin"}
    for folder in ("model", "config", "words"):
        (tmp_path / folder).mkdir()
        for name in (*kept, "new.engine", "new.engine.json"):
            (tmp_path / folder / name).touch()
    dev = tmp_path / "dev.json"
    request = replace(REQUEST, checkpoint=tmp_path / "model", calibration=Calibration(dev))

    def there(request: BuildRequest) -> set[Path]:
        return {path for path in request.inputs() if path.is_file()}

    def of(*folders: str) -> set[Path]:
        return {tmp_path / folder / name for folder in folders for name in kept}

    assert there(request) == of("model")
    dev.touch()
    assert there(request) == of("model") | {dev}
    assert there(replace(request, checkpoint=tmp_path / "model/other.safetensors")) == of("model") | {dev}
    further = replace(request, config_dir=tmp_path / "config", vocab_file=tmp_path / "words/vocab.json")
    assert there(further) == of("model", "config", "words") | {dev}
    assert set(named(json.loads(json.dumps(further.to_dict())))) == set(further.inputs())


def test_inputs_that_one_name_stands_for(tmp_path: Path) -> None:
    parts = {"model.ckpt.index", "model.ckpt.meta", "model.ckpt.data-00000-of-00002", "model.ckpt.data-00001-of-00002"}
    large = {"model.onnx", "model.onnx.data", "model.onnx_data"}
    for name in (*parts, *large, "model.ckpt.engine", "model.onnx.engine"):
        (tmp_path / name).touch()
    for name, wanted in (("model.ckpt", parts), ("model.onnx", large)):
        found = replace(REQUEST, checkpoint=tmp_path / name, config_dir=tmp_path / "absent").inputs()
        assert {path.name for path in found if path.is_file()} == wanted


@pytest.mark.parametrize(
    "request_", [{}, {"checkpoint": 5, "calibration": []}, {"checkpoint": "a\0b", "calibration": {"squad_json": ["x"]}}]
)
def test_names_in_a_description_that_are_none(request_: dict[str, Any]) -> None:
    assert list(named(request_)) == []


def test_outputs() -> None:
    assert list(REQUEST.outputs()) == []
    full = replace(
        REQUEST,
        timing_cache=Path("timing.cache"),
        calibration=Calibration(Path("dev.json"), cache=Path("int8.cache")),
    )
    assert list(full.outputs()) == [Path("timing.cache"), Path("int8.cache")]
    assert list(replace(full, timing_cache=None).outputs()) == [Path("int8.cache")]
    assert list(replace(full, calibration=Calibration(Path("dev.json"))).outputs()) == [Path("timing.cache")]


# As JSON


def test_a_request_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = BuildRequest(
        source="pickle",
        checkpoint=Path("../model.pkl"),
        profiles=(Profile(1, 128), Profile(8, 128)),
        config_dir=Path("."),
        packed=True,
        interleaved=True,
        megatron=True,
        fp16=True,
        int8=True,
        timing_cache=Path("/caches/timing"),
        calibration=Calibration(Path("dev.json"), 7, None),
    )
    found = request.to_dict()
    assert found == {
        "source": "pickle",
        "checkpoint": str(tmp_path.parent / "model.pkl"),
        "profiles": [[1, 128], [8, 128]],
        "config_dir": str(tmp_path),
        "vocab_file": None,
        "task": "question-answering",
        "packed": True,
        "interleaved": True,
        "megatron": True,
        "fp16": True,
        "int8": True,
        "int8_attention": False,
        "int8_skip_layer_norm": False,
        "output_gemm": False,
        "strict": False,
        "sparse": False,
        "workspace_mib": 1200,
        "timing_cache": "/caches/timing",
        "calibration": {"squad_json": str(tmp_path / "dev.json"), "windows": 7, "cache": None},
        "verbose": False,
    }
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [field.name for field in fields(BuildRequest)] == list(asdict(request))


def test_what_a_request_has_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = REQUEST.to_dict()
    assert found["calibration"] == {"squad_json": str(tmp_path / "squad/dev-v1.1.json"), "windows": 100, "cache": None}
    assert found["task"] == REQUEST.task == "question-answering"
