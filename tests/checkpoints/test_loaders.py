"""What every loader does: the same tensors from any format, or an error that says what is wrong where."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from helpers import checkpoints
from helpers.errors import InputError
from tests.checkpoint_files import ARRAYS, BESIDE, CONFIG, FORMATS, Format, assert_equal, cuts, formats, message_of
from tests.models import small_config

# What a whole file gives


@formats(*FORMATS)
def test_load_gives_the_model(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    weights = kind.load(tmp_path / "model", CONFIG)
    assert_equal(weights, ARRAYS)
    assert weights.ranges == {}


# Activation ranges

SELF = "bert.encoder.layer.1.attention.self"
RANGES = {
    f"{SELF}.query._input_quantizer": 5.5,
    f"{SELF}.key._input_quantizer": 5.5,
    f"{SELF}.value._input_quantizer": 5.5,
    f"{SELF}.qv_a_input_quantizer": 1.1,
    f"{SELF}.qv_b_input_quantizer": 2.2,
    f"{SELF}.av_b_input_quantizer": 3.3,
    f"{SELF}.av_a_input_quantizer": 0.9,
    "bert.encoder.layer.1.attention.output.dense._input_quantizer": 4.4,
    "bert.encoder.layer.1.attention.output.add_local_input_quantizer": 6.6,
    "bert.encoder.layer.1.intermediate.dense._input_quantizer": 7.7,
    "bert.encoder.layer.1.output.dense._input_quantizer": 8.8,
    "bert.encoder.layer.1.output.add_local_input_quantizer": 9.9,
    "bert.encoder.final_input_quantizer": 12.5,
}
OTHER_SPELLING = {"qv_a": "matmul_q", "qv_b": "matmul_k", "av_b": "matmul_v", "av_a": "matmul_a"}
NOT_RANGES: dict[str, np.ndarray] = {
    "bert.encoder.layer.1.intermediate.dense._weight_quantizer._amax": np.full((48, 1), 0.5, np.float32),
    "bert.encoder.layer.1.output.dense._weight_quantizer._amax": np.array(-1, np.float32),
    "bert.encoder.layer.1.output.dense.__weight_mma_mask": np.ones((32, 48), np.int8),
}


def respelled(quantizer: str) -> str:
    return re.sub("[qa]v_[ab]", lambda m: OTHER_SPELLING[m[0]], quantizer)


@formats("onnx", "torch", "safetensors")
@pytest.mark.parametrize("spell", [str, respelled], ids=["qv_a", "matmul_q"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "[1]"])
def test_ranges(kind: Format, spell: Callable[[str], str], shape: tuple[int, ...], tmp_path: Path) -> None:
    amax = {f"{spell(name)}._amax": np.full(shape, value, np.float32) for name, value in RANGES.items()}
    kind.write(tmp_path / "model", {**ARRAYS, **amax, **NOT_RANGES, **BESIDE})
    weights = kind.load(tmp_path / "model", CONFIG)
    assert_equal(weights, ARRAYS)
    assert weights.ranges == {name: float(np.float32(value)) for name, value in RANGES.items()}


@formats("onnx", "torch", "safetensors")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-2.5, "[]: -2.5"),
        (0.0, "[]: 0.0"),
        (np.nan, "[]: nan"),
        (np.inf, "[]: inf"),
        ([1.0, 2.0, 3.0], "[3]: [1. 2. 3.]"),
        (np.zeros(0), "[0]: []"),
    ],
    ids=["negative", "zero", "NaN", "infinite", "three", "none"],
)
def test_odd_range(kind: Format, value: Any, shown: str, tmp_path: Path) -> None:
    name = f"{SELF}.qv_a_input_quantizer._amax"
    kind.write(tmp_path / "model", {**ARRAYS, name: np.array(value, np.float32)})
    message = message_of(kind.load, tmp_path / "model")
    assert f"range {name} must be one positive number, found shape {shown}" in message


# Files that do not fit


@formats(*FORMATS)
def test_missing_tensors(kind: Format, tmp_path: Path) -> None:
    gone = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.attention.self.key.weight", "qa_outputs.weight"]
    kind.write(tmp_path / "model", {name: array for name, array in ARRAYS.items() if name not in gone})
    message = message_of(kind.load, tmp_path / "model")
    assert "lacks 3 of 39 tensors: " in message
    listed = message.split("tensors: ")[1].split(", ")
    assert [name.split(" ")[0] for name in listed] == [kind.spelled(name) for name in gone]


@formats("torch", "legacy torch", "safetensors", "onnx")
def test_whole_numbers_are_no_weights(kind: Format, tmp_path: Path) -> None:
    name = "bert.embeddings.LayerNorm.bias"
    kind.write(tmp_path / "model", {**ARRAYS, name: np.ones(32, np.int64)})
    assert message_of(kind.load, tmp_path / "model").endswith(f"lacks 1 of 39 tensors: {name}")


@formats(*FORMATS)
def test_wrong_shapes(kind: Format, tmp_path: Path) -> None:
    wrong = {
        "bert.embeddings.word_embeddings.weight": np.ones((61, 32), np.float32),
        "bert.encoder.layer.0.output.LayerNorm.bias": np.ones(31, np.float32),
        "bert.encoder.layer.1.intermediate.dense.weight": np.ones((32, 48), np.float32),
        "qa_outputs.bias": np.ones(3, np.float32),
    }
    kind.write(tmp_path / "model", {**ARRAYS, **wrong})
    message = message_of(kind.load, tmp_path / "model")
    transposed = " (transposed)" if kind.source == "ckpt" else ""
    assert message.split("configuration: ")[1].split("; ") == [
        f"{kind.spelled('bert.embeddings.word_embeddings.weight')}: expected [60, 32], found [61, 32]",
        f"{kind.spelled('bert.encoder.layer.0.output.LayerNorm.bias')}: expected [32], found [31]",
        f"{kind.spelled('bert.encoder.layer.1.intermediate.dense.weight')}{transposed}: expected [48, 32], found [32, 48]",
        "and 1 more",
    ]


@formats(*FORMATS)
def test_file_with_more_layers_than_its_configuration(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    message = message_of(kind.load, tmp_path / "model", small_config(num_hidden_layers=1))
    assert "has 2 encoder layers, its configuration 1" in message


@formats(*FORMATS)
def test_file_with_fewer_layers_than_its_configuration(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    message = message_of(kind.load, tmp_path / "model", small_config(num_hidden_layers=3))
    assert "lacks 16 of 55 tensors: " in message
    *listed, more = message.split("tensors: ")[1].split(", ")
    expected = {kind.spelled(name).replace("1", "2") for name in ARRAYS if name.startswith("bert.encoder.layer.1.")}
    assert {name.split(" ")[0] for name in listed} < expected
    assert (len(listed), more) == (3, "and 13 more")


@formats(*FORMATS)
def test_numbers_that_are_not_finite(kind: Format, tmp_path: Path) -> None:
    broken = {name: array.copy() for name, array in ARRAYS.items()}
    odd = ["bert.embeddings.token_type_embeddings.weight", "bert.encoder.layer.1.attention.output.LayerNorm.weight"]
    broken[odd[0]][1, 5], broken[odd[1]][31] = np.nan, -np.inf
    kind.write(tmp_path / "model", broken)
    message = message_of(kind.load, tmp_path / "model")
    assert message.endswith(f"holds NaN or infinity in {', '.join(map(kind.spelled, odd))}")


@pytest.mark.filterwarnings("error")
@formats("torch", "safetensors", "onnx")
def test_float64_beyond_float32(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", {**ARRAYS, "qa_outputs.bias": np.array([1e39, 0])})
    assert message_of(kind.load, tmp_path / "model").endswith("holds NaN or infinity in qa_outputs.bias")


# Files that are missing or damaged


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ckpt", "there is no {path}.index (give the prefix, without it)"),
        ("pytorch", "checkpoint {path} does not exist"),
        ("onnx", "ONNX file {path} does not exist"),
        ("pickle", "checkpoint {path} cannot be read: No such file or directory"),
    ],
)
def test_missing_file(source: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "absent"
    assert expected.format(path=path) in message_of(lambda path, config: checkpoints.load(source, path, config), path)


@formats("torch", "legacy torch", "safetensors", "onnx")
def test_file_cut_short(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "model"
    kind.write(path, ARRAYS)
    whole = path.read_bytes()
    for size in cuts(len(whole)):
        path.write_bytes(whole[:size])
        assert re.search("is not a (whole|PyTorch)", message_of(kind.load, path)), f"cut to {size} of {len(whole)} bytes"


@pytest.mark.parametrize("content", [b"", b"hello", b'{"a": 1}', b"PK\x03\x04", b"\x80\x02.", b"version https://git-lfs"])
@formats("torch", "onnx")
def test_file_of_another_kind(content: bytes, kind: Format, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    assert re.search("is not a (whole ONNX file|PyTorch state dict)", message_of(kind.load, tmp_path / "model"))


# Libraries that are not installed


@pytest.mark.parametrize(("name", "product"), [("torch", "PyTorch"), ("tensorflow", "TensorFlow")])
def test_missing_library(name: str, product: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FORMATS[name].write(tmp_path / "model", ARRAYS)
    monkeypatch.setitem(sys.modules, name, None)
    message = message_of(FORMATS[name].load, tmp_path / "model")
    assert f"needs {product}: pip install -r requirements-convert.txt" in message


@pytest.mark.parametrize("name", ["safetensors", "onnx"])
def test_no_framework_is_needed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FORMATS[name].write(tmp_path / "model", ARRAYS)
    for module in ("torch", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)
    assert_equal(FORMATS[name].load(tmp_path / "model", CONFIG), ARRAYS)


# The folder with the configuration


def test_the_folder_of_a_checkpoint(tmp_path: Path) -> None:
    """Only formats that keep the two together have one."""
    (tmp_path / "model.safetensors").touch()
    assert checkpoints.folder_of("pytorch", tmp_path) == tmp_path
    assert checkpoints.folder_of("pytorch", tmp_path / "model.safetensors") == tmp_path
    for source in ("ckpt", "onnx", "pickle"):
        assert checkpoints.folder_of(source, tmp_path / "model.safetensors") is None
    with pytest.raises(InputError, match=r"absent does not exist$"):
        checkpoints.folder_of("pytorch", tmp_path / "absent")
