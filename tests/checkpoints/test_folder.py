"""Which file of a folder is read, and which are refused by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.checkpoints.folder import find_file
from helpers.errors import InputError

TRAINED = ("optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "optimizer.bin")  # beside a model
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ONE_OF_ITS_KIND = ("best.safetensors", "best.bin")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("preferred", range(len(WHOLE) + len(ONE_OF_ITS_KIND)))
def test_order(preferred: int, tmp_path: Path) -> None:
    """Each file is taken where those before it are not there."""
    names = (*WHOLE, *ONE_OF_ITS_KIND)[preferred:]
    write(tmp_path, *names, *TRAINED, *ADAPTER, "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "config.json")
    assert find_file(tmp_path) == tmp_path / names[0]
    assert find_file(tmp_path / names[-1]) == tmp_path / names[-1]


@pytest.mark.parametrize("name", ["weights.pt", "epoch-3.bin", "model.fp16.safetensors", "model-00001-of-00001.safetensors"])
def test_any_name_of_the_only_one(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, *TRAINED)
    (tmp_path / "other.bin").mkdir()
    assert find_file(tmp_path) == tmp_path / name


def told(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_file(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["b.safetensors", "a.safetensors", "z.bin"], "2 checkpoints: a.safetensors, b.safetensors"),
        (["a.bin", "b.pt", "c.pt"], "3 checkpoints: a.bin, b.pt, c.pt"),
        ([f"{i}.pt" for i in range(9)], "9 checkpoints: 0.pt, 1.pt, 2.pt, and 6 more"),
        (["a\n\x1b[2J.pt", "b.pt"], r"2 checkpoints: a\n\x1b[2J.pt, b.pt"),
    ],
)
def test_several(names: list[str], says: str, tmp_path: Path) -> None:
    write(tmp_path, *names, *TRAINED)
    assert told(tmp_path) == f"folder {tmp_path} has {says}; name one with pytorch"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adapter_config.json", "is an adapter .*merge_and_unload"),
        ("adapter_model.safetensors", "is an adapter .*merge_and_unload"),
        ("adapter_model.bin", "is an adapter .*merge_and_unload"),
        ("model-00002-of-00003.safetensors", r"is one part of a checkpoint: .*\*\.index\.json"),
        ("pytorch_model-00001-of-00002.bin", r"is one part of a checkpoint: .*\*\.index\.json"),
        ("tf_model.h5", "holds Keras weights: .*from_tf=True"),
        ("flax_model.msgpack", "holds Flax weights: .*from_flax=True"),
        ("bert-q8_0.gguf", "is a GGUF file, .*: give the checkpoint"),
        ("model.onnx", "is an ONNX file: give it with onnx"),
        ("onnx/model_quantized.onnx", "is an ONNX file: give it with onnx"),
        ("bert_model.ckpt.index", "is a part of a TensorFlow checkpoint: give its prefix with ckpt"),
        ("model.ckpt-7299.data-00000-of-00001", "is a part of a TensorFlow checkpoint: give its prefix with ckpt"),
    ],
)
def test_other_formats(name: str, says: str, tmp_path: Path) -> None:
    """Named by itself, and as all that there is in a folder."""
    write(tmp_path, name, "config.json", "vocab.txt", *TRAINED)
    message = told(tmp_path)
    assert re.fullmatch(f"{re.escape(str(tmp_path / name))} {says}.*", message)
    assert told(tmp_path / name) == message


@pytest.mark.parametrize("names", [(), TRAINED, ("config.json", "vocab.txt"), ("faiss.index", "model/model.safetensors")])
def test_nothing(names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *names)
    assert told(tmp_path) == f"no model.safetensors or pytorch_model.bin in folder {tmp_path}"
    assert told(tmp_path / "absent") == f"checkpoint {tmp_path / 'absent'} does not exist"
