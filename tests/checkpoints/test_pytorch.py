"""PyTorch state dicts, safetensors files and Hugging Face folders, as they are and as they might be made to harm."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any, Callable

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.checkpoints import pytorch
from helpers.config import BertConfig
from helpers.weights import tensor_shapes
from tests.checkpoint_files import (
    ARRAYS,
    BESIDE,
    CONFIG,
    MODEL,
    Format,
    Tensors,
    assert_equal,
    finer,
    formats,
    message_of,
    tensors_of,
    write_safetensors,
    write_torch,
)
from tests.models import arrays_of, random_model, small_config, write_vocab
from tests.running import MODEL as MINILM

# Where the tensors are


def old_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """LayerNorm's parameters as the first exports called them."""
    to = {"weight": "gamma", "bias": "beta"}
    return {re.sub(r"(?<=LayerNorm\.)\w+$", lambda m: to[m[0]], name): tensor for name, tensor in tensors.items()}


def wrapped(tensors: Tensors) -> dict[str, torch.Tensor]:
    """As torch.nn.DataParallel names them."""
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def trained(key: str) -> Callable[[Tensors], dict[str, Any]]:
    """A training checkpoint, with the state dict under `key`."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 3e-5, "params": [0, 1]}]}
    return lambda tensors: {"epoch": 2, "optimizer": optimizer, key: dict(tensors)}


def parameters(tensors: Tensors) -> dict[str, torch.Tensor]:
    """As `dict(model.named_parameters())` gives them, which ask for gradients."""
    return {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}


def strided(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same numbers, column by column in memory."""
    return {name: tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "arrange",
    [
        dict,
        parameters,
        strided,
        trained("model"),
        trained("state_dict"),
        wrapped,
        old_names,
        lambda tensors: trained("state_dict")(wrapped(old_names(tensors))),
    ],
    ids=["flat", "parameters", "strided", "model", "state_dict", "module", "gamma and beta", "all of it"],
)
def test_torch_finds_the_state_dict(arrange: Callable[[Tensors], Any], tmp_path: Path) -> None:
    torch.save(arrange(tensors_of({**ARRAYS, **BESIDE})), tmp_path / "model.pt")
    assert_equal(pytorch.load(tmp_path / "model.pt", CONFIG), ARRAYS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file], ids=["torch", "safetensors"])
def test_any_float_dtype_becomes_float32(save: Callable[[Tensors, Path], Any], dtype: torch.dtype, tmp_path: Path) -> None:
    stored = finer(dtype)
    save({**stored, **tensors_of(BESIDE, dtype)}, tmp_path / "model")
    assert_equal(pytorch.load(tmp_path / "model", CONFIG), {name: tensor.float().numpy() for name, tensor in stored.items()})


@formats("torch", "legacy torch")
def test_tensors_that_were_saved_on_a_gpu(kind: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
    kind.write(tmp_path / "model", ARRAYS)
    assert b"cuda:7" in (tmp_path / "model").read_bytes()
    assert_equal(kind.load(tmp_path / "model", CONFIG), ARRAYS)


def test_folder_that_hugging_face_saved(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    config = BertConfig.load(tmp_path)
    assert config == CONFIG
    assert_equal(pytorch.load(tmp_path, config), ARRAYS)


def test_folder_takes_safetensors_before_bin(tmp_path: Path) -> None:
    write_torch(tmp_path / "pytorch_model.bin", ARRAYS)
    assert_equal(pytorch.load(tmp_path, CONFIG), ARRAYS)
    other = arrays_of(random_model(CONFIG, seed=1))
    write_safetensors(tmp_path / "model.safetensors", other)
    assert_equal(pytorch.load(tmp_path, CONFIG), other)


# Several files and their index


def write_parts(folder: Path) -> Path:
    """As save_pretrained writes a model that is larger than one file may be; returns the index."""
    MODEL.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder / "model.safetensors.index.json"


def write_bin_parts(folder: Path) -> Path:
    """The same in PyTorch's format, as transformers wrote it before version 5."""
    pattern = "pytorch_model{suffix}.bin"
    tensors = tensors_of({**ARRAYS, **BESIDE})
    huggingface_hub.save_torch_state_dict(
        tensors, folder, filename_pattern=pattern, max_shard_size="20KB", safe_serialization=False
    )
    assert len(list(folder.glob("pytorch_model-*-of-*.bin"))) > 2
    return folder / "pytorch_model.bin.index.json"


@pytest.mark.parametrize("write", [write_parts, write_bin_parts])
def test_parts(write: Callable[[Path], Path], tmp_path: Path) -> None:
    index = write(tmp_path)
    assert_equal(pytorch.load(tmp_path, CONFIG), ARRAYS)
    assert_equal(pytorch.load(index, CONFIG), ARRAYS)


def test_parts_that_are_links(tmp_path: Path) -> None:
    """As huggingface_hub's cache has them."""
    write_parts(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{file.name}")
    assert_equal(pytorch.load(tmp_path / "snapshot", CONFIG), ARRAYS)


def test_parts_that_are_missing(tmp_path: Path) -> None:
    index = write_parts(tmp_path)
    parts = sorted(file.name for file in tmp_path.glob("model-*"))
    for count in (1, len(parts)):
        for name in parts[:count]:
            (tmp_path / name).unlink(missing_ok=True)
        more = f", and {count - 3} more" if count > 3 else ""
        says = f"{index} names {count} files that are not beside it: {', '.join(parts[:count][:3])}{more}; fetch them too"
        assert message_of(pytorch.load, tmp_path) == says


def test_part_that_is_damaged(tmp_path: Path) -> None:
    write_parts(tmp_path)
    part = min(tmp_path.glob("model-*"))
    part.write_bytes(part.read_bytes()[:-1])
    assert message_of(pytorch.load, tmp_path).startswith(f"{part} is not a whole safetensors file")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not JSON: line 1, column 1"),
        ('{"weight_map": {"qa_outputs.bias": "model', "is not JSON: line 1, column 36"),
        (b"\xff\xfe{}", "is not UTF-8 text (byte 0)"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "must hold one JSON object, but holds a list"),
        ('{"weight_map": {"a": "1", "a": "2"}}', "it has 'a' twice in one object"),
        ('{"metadata": {}}', "is not a whole index"),
        ('{"weight_map": ["whole.safetensors"]}', "is not a whole index"),
        ('{"weight_map": {"qa_outputs.bias": 1}}', "is not a whole index"),
        ('{"weight_map": {"qa_outputs.bias": ["whole.safetensors"]}}', "is not a whole index"),
        ('{"weight_map": {"qa_outputs.bias": null, "qa_outputs.weight": "whole.safetensors"}}', "is not a whole index"),
        ('{"weight_map": {"qa_outputs.bias": "../whole.safetensors"}}', "names files outside of its folder"),
        ('{"weight_map": {"qa_outputs.bias": "/whole.safetensors"}}', "names files outside of its folder"),
        ('{"weight_map": {"qa_outputs.bias": "parts/whole.safetensors"}}', "names files outside of its folder"),
        ('{"weight_map": {"qa_outputs.bias": ".."}}', "names 1 files that are not beside it: ..;"),
        ('{"weight_map": {"qa_outputs.bias": "a\\u0000\\n\\ud800"}}', r"not beside it: a\x00\n\ud800;"),
        (f'{{"weight_map": {{"qa_outputs.bias": "{"a" * 5000}"}}}}', f"not beside it: {'a' * 60};"),
        ('{"weight_map": {}}', "lacks 39 of 39 tensors"),
    ],
    ids=str,
)
def test_index_that_is_damaged(content: str | bytes, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(tmp_path / "whole.safetensors", ARRAYS)
    write_safetensors(folder / "whole.safetensors", ARRAYS)
    index = folder / "model.safetensors.index.json"
    index.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(pytorch.load, folder)
    assert message.startswith(str(index))
    assert says in message


def test_tensor_of_more_dimensions_than_numpy_has(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"deep": torch.zeros([1] * 70)}, path)
    assert message_of(pytorch.load, path, CONFIG).startswith(
        f"{path} is not a whole safetensors file: maximum supported dimension"
    )


# What is not copied


def resident() -> int:
    """Bytes of memory that this process has for itself, mapped files left out."""
    [pages] = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(pages)


@pytest.mark.parametrize("write", [write_safetensors, write_torch, "parts"], ids=["safetensors", "torch", "parts"])
def test_float32_stays_in_its_file(write: Any, tmp_path: Path) -> None:
    config = small_config(hidden_size=512, intermediate_size=8192, vocab_size=5000)
    model = random_model(config)
    path = tmp_path / "model"
    if write == "parts":
        model.save_pretrained(path, max_shard_size="20MB")
    else:
        write(path, arrays_of(model))
    pytorch.load(path, config)  # what is imported stays
    before = resident()
    weights = pytorch.load(path, config)
    total = sum(array.nbytes for array in weights.tensors().values())
    assert total > 80e6
    assert resident() - before < total / 10


def test_writing_a_model_over_the_one_that_is_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    write_vocab(tmp_path / "vocab.txt")
    weights = pytorch.load(tmp_path, CONFIG)
    pytorch.save(tmp_path, weights, CONFIG, tmp_path / "vocab.txt")
    assert_equal(weights, ARRAYS)
    halves = {name: array.astype(np.float16).astype(np.float32) for name, array in ARRAYS.items()}
    assert_equal(pytorch.load(tmp_path, CONFIG), halves)


def test_torch_file_that_was_packed_again(tmp_path: Path) -> None:
    """By someone else's zip, which compresses: its numbers are not in the file as they are."""
    write_torch(tmp_path / "model.bin", ARRAYS)
    shutil.unpack_archive(tmp_path / "model.bin", tmp_path / "unpacked", "zip")
    with zipfile.ZipFile(tmp_path / "again.bin", "w", zipfile.ZIP_DEFLATED) as file:
        for part in sorted((tmp_path / "unpacked").rglob("*")):
            file.write(part, part.relative_to(tmp_path / "unpacked"))
    assert_equal(pytorch.load(tmp_path / "again.bin", CONFIG), ARRAYS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_safetensors_between_words(dtype: torch.dtype, tmp_path: Path) -> None:
    """A header of any length is whole, also one after which no number is aligned."""
    stored = finer(dtype)
    whole = safetensors.torch.save(stored)
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size].rstrip() + b" "
    header += b" " * (len(header) % 2 == 0)
    (tmp_path / "model").write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
    weights = pytorch.load(tmp_path / "model", CONFIG)
    assert_equal(weights, {name: tensor.float().numpy() for name, tensor in stored.items()})
    assert all(array.flags["ALIGNED"] for array in weights.tensors().values())


# Tensors of several names


def tied() -> torch.nn.Module:
    """A model with a head that is its word embedding, and comes before it."""
    model = random_model(CONFIG)
    model.a_head = torch.nn.Linear(32, 60, bias=False)
    model.a_head.weight = model.bert.embeddings.word_embeddings.weight
    return model


def test_safetensors_that_stores_a_tensor_once(tmp_path: Path) -> None:
    safetensors.torch.save_model(tied(), str(tmp_path / "model"))
    with safetensors.safe_open(tmp_path / "model", "pt") as file:
        assert "bert.embeddings.word_embeddings.weight" not in file.keys()  # noqa: SIM118
    assert_equal(pytorch.load(tmp_path / "model", CONFIG), ARRAYS)


def test_torch_that_stores_a_tensor_once(tmp_path: Path) -> None:
    """And with the notes that PyTorch adds to a module's state dict."""
    state: Any = tied().state_dict()
    assert state._metadata
    torch.save(state, tmp_path / "model")
    assert_equal(pytorch.load(tmp_path / "model", CONFIG), ARRAYS)


# Numbers


def test_layers_are_ordered_by_number(tmp_path: Path) -> None:
    config = small_config(num_hidden_layers=12, hidden_size=8, intermediate_size=8)
    arrays = arrays_of(random_model(config))
    write_safetensors(tmp_path / "model", arrays)
    weights = pytorch.load(tmp_path / "model", config)
    assert_equal(weights, arrays)
    found = [layer.output.bias.tolist() for layer in weights.layers]
    assert found == [arrays[f"bert.encoder.layer.{i}.output.dense.bias"].tolist() for i in range(12)]


def test_the_bundled_checkpoint() -> None:
    config = BertConfig.load(MINILM)
    weights = pytorch.load(MINILM, config)
    assert {name: array.shape for name, array in weights.tensors().items()} == tensor_shapes(config)
    assert all(np.isfinite(array).all() for array in weights.tensors().values())
    assert (len(weights.layers), weights.embeddings.word.shape) == (6, (30522, 384))


# What is not there


@pytest.mark.parametrize(
    ("arrange", "name"),
    [
        (wrapped, "module.bert.embeddings.LayerNorm.bias"),
        (old_names, "bert.embeddings.LayerNorm.beta"),
        (lambda tensors: wrapped(old_names(tensors)), "module.bert.embeddings.LayerNorm.gamma"),
    ],
    ids=["module", "gamma and beta", "both"],
)
def test_missing_tensor_is_spelled_as_the_rest_of_the_file(
    arrange: Callable[[Tensors], dict[str, torch.Tensor]], name: str, tmp_path: Path
) -> None:
    tensors = arrange(tensors_of(ARRAYS))
    del tensors[name]
    torch.save(tensors, tmp_path / "model.pt")
    assert message_of(pytorch.load, tmp_path / "model.pt").endswith(f"lacks 1 of 39 tensors: {name}")


def test_wrong_shape_is_spelled_as_in_the_file(tmp_path: Path) -> None:
    tensors = wrapped(old_names(tensors_of(ARRAYS)))
    tensors["module.bert.encoder.layer.1.output.LayerNorm.gamma"] = torch.ones(33)
    torch.save(tensors, tmp_path / "model.pt")
    shown = "module.bert.encoder.layer.1.output.LayerNorm.gamma: expected [32], found [33]"
    assert message_of(pytorch.load, tmp_path / "model.pt").endswith(shown)


def changed_header(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {**header, "qa_outputs.weight": {**header["qa_outputs.weight"], **changes}}


@pytest.mark.parametrize(
    ("lie", "length"),
    [
        (changed_header(shape=[3, 32]), None),
        (changed_header(dtype="F16"), None),
        (changed_header(dtype="F33"), None),
        (changed_header(data_offsets=[0, 256]), None),
        (changed_header(data_offsets=[76416, 10**9]), None),
        (changed_header(data_offsets=[-256, 0]), None),
        (changed_header(shape=[2**62, 2**62]), None),
        (lambda header: {}, None),
        (lambda header: {**header, "qa_outputs.weight": 5}, None),
        (lambda header: header, 5),
        (lambda header: header, 10**12),
        (lambda header: header, 2**64 - 1),
    ],
    ids=[
        "shape",
        "dtype",
        "unknown dtype",
        "another's bytes",
        "beyond the end",
        "before the start",
        "overflow",
        "empty",
        "no object",
        "short header",
        "long header",
        "longest header",
    ],
)
def test_safetensors_with_a_lying_header(lie: Callable[[dict[str, Any]], Any], length: int | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ARRAYS)
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.dumps(lie(json.loads(whole[8 : 8 + size]))).encode()
    path.write_bytes(struct.pack("<Q", length or len(header)) + header + whole[8 + size :])
    # The upper half of a length is 0, which tells that it is one.
    says = "is of no format that is known here" if (length or 0) >> 32 else "is not a whole safetensors file"
    assert says in message_of(pytorch.load, path)


# Pickles that are not a state dict


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def unzipped(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [zipped, unzipped, pickled])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a model"])
def test_pickle_that_would_run_code_is_refused(save: Callable[[Any, Path], None], beside: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    save({**tensors_of(ARRAYS), "trap": Trap(marker)} if beside else Trap(marker), tmp_path / "model.bin")
    message = message_of(pytorch.load, tmp_path / "model.bin")
    assert not marker.exists()
    assert "read safely" in message
    if save is pickled:
        pickle.loads((tmp_path / "model.bin").read_bytes())
    else:
        torch.load(tmp_path / "model.bin", weights_only=False)
    assert marker.exists(), "the trap does not work, so nothing was tested"


@pytest.mark.parametrize("save", [zipped, unzipped])
def test_refusal_names_the_function_and_not_how_to_run_it(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    save(Trap(tmp_path / "marker"), tmp_path / "model.bin")
    message = message_of(pytorch.load, tmp_path / "model.bin")
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "weights_only" not in message


NORM = "bert.embeddings.LayerNorm.bias"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({"model": [torch.ones(2)]}, "lacks 39 of 39 tensors"),
        ({}, "lacks 39 of 39 tensors"),
        ({0: torch.ones(2)}, "lacks 39 of 39 tensors"),
        ({**tensors_of(ARRAYS), NORM: torch.ones(32).to_sparse()}, f"holds sparse tensors where .* wanted: {NORM}"),
        ({**tensors_of(ARRAYS), NORM: torch.ones(32, device="meta")}, f"holds meta tensors where .* wanted: {NORM}"),
    ],
    ids=["list", "tensor", "nested list", "empty", "numbered", "sparse", "meta"],
)
def test_file_without_a_state_dict(content: Any, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.bin")
    assert re.search(expected, message_of(pytorch.load, tmp_path / "model.bin"))
