"""What every loader does: the same tensors from any format, or an error that says what is wrong where."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch

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


@formats("onnx", "torch", "safetensors")
@pytest.mark.parametrize(
    ("value", "fits"), [(1e30, False), (65505, False), (65504, True), (2**-24, True), (5e-8, False), (1e-30, False)]
)
def test_ranges_beyond_all_sense(kind: Format, value: float, fits: bool, tmp_path: Path) -> None:
    """Beyond float16, in which an int8 network's activations are computed too."""
    name = f"{SELF}.qv_a_input_quantizer"
    kind.write(tmp_path / "model", {**ARRAYS, f"{name}._amax": np.array(value, np.float32)})
    if fits:
        assert kind.load(tmp_path / "model", CONFIG).ranges == {name: value}
        return
    says = f"range {name}._amax is {value:.3g}, which is none of float16's numbers, 6e-08 to 65,504; export the checkpoint again"
    assert says in message_of(kind.load, tmp_path / "model")


# Files that do not fit


@formats(*FORMATS)
def test_missing_tensors(kind: Format, tmp_path: Path) -> None:
    gone = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.attention.self.key.weight", "qa_outputs.weight"]
    kind.write(tmp_path / "model", {name: array for name, array in ARRAYS.items() if name not in gone})
    message = message_of(kind.load, tmp_path / "model")
    assert "lacks 3 of 39 tensors: " in message
    listed = message.split("tensors: ")[1].split(", ")
    assert [name.split(" ")[0] for name in listed] == [kind.spelled(name) for name in gone]


OTHERS = ("int8", "uint8", "int32", "int64", "bool", "complex64", "float8_e4m3fn")


def as_dtype(array: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(array).to(torch.float8_e4m3fn) if dtype.startswith("float8") else array.astype(dtype)


@formats(*FORMATS)
@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("count", [1, 39])
def test_tensors_of_no_floats(kind: Format, dtype: str, count: int, tmp_path: Path) -> None:
    """As a quantized checkpoint has them; at most three are named."""
    if dtype == "float8_e4m3fn" and kind.source in ("ckpt", "onnx"):
        return
    names = list(ARRAYS)[:count]
    spoilt = {name: as_dtype(ARRAYS[name], dtype) for name in names}
    kind.write(tmp_path / "model", {**ARRAYS, **spoilt})
    message = message_of(kind.load, tmp_path / "model")
    told = ", ".join(kind.spelled(name) for name in names[:3]) + f", and {count - 3} more" * (count > 3)
    told = rf" holds {dtype.replace('fn', '(fn)?')} tensors where float weights are wanted: {re.escape(told)}; give the"
    assert re.search(told, message), message


@formats("torch", "safetensors", "onnx")
@pytest.mark.parametrize(
    "spell", [lambda name: f"module.{name}", lambda name: name.replace("weight", "gamma")], ids=["module", "gamma"]
)
def test_two_spellings_of_a_tensor(kind: Format, spell: Callable[[str], str], tmp_path: Path) -> None:
    """Nobody knows which one is meant, unless they are equal."""
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    kind.write(tmp_path / "model", {**ARRAYS, spell(name): ARRAYS[name].copy()})
    assert_equal(kind.load(tmp_path / "model", CONFIG), ARRAYS)
    kind.write(tmp_path / "model", {**ARRAYS, spell(name): ARRAYS[name] * np.float32(1.001)})
    assert f"model has {name} twice, with different numbers: keep the one" in message_of(kind.load, tmp_path / "model")


@formats("torch", "safetensors", "onnx")
def test_two_spellings_of_a_range(kind: Format, tmp_path: Path) -> None:
    name = f"{SELF}.qv_a_input_quantizer"
    ranges = {f"{each}._amax": np.array(value, np.float32) for value, each in ((1, name), (2, respelled(name)))}
    kind.write(tmp_path / "model", {**ARRAYS, **ranges})
    assert f" has {name}._amax twice, with different numbers" in message_of(kind.load, tmp_path / "model")


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
@formats("torch", "safetensors", "onnx", "tensorflow")
def test_float64_beyond_float32(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", {**ARRAYS, "qa_outputs.bias": np.array([-1e39, 0])})
    says = f"holds numbers that float32 cannot, above 3.4e+38, in {kind.spelled('qa_outputs.bias')}"
    assert message_of(kind.load, tmp_path / "model").endswith(says)


MATRICES = [name for name, array in ARRAYS.items() if array.ndim == 2]


@formats(*FORMATS)
@pytest.mark.parametrize(
    ("zero", "named"),
    [
        (["bert.embeddings.word_embeddings.weight"], ["bert.embeddings.word_embeddings.weight"]),
        (["qa_outputs.weight"], ["qa_outputs.weight"]),
        (MATRICES, MATRICES),
        ([name for name in ARRAYS if "layer.1" in name or "bias" in name or "position" in name], []),
    ],
    ids=["words", "head", "all matrices", "a layer"],
)
def test_nothing_but_zeros(kind: Format, zero: list[str], named: list[str], tmp_path: Path) -> None:
    """A model that says the same whatever it is asked is refused; one with a layer that does nothing is none."""
    kind.write(tmp_path / "model", {name: array * (name not in zero) for name, array in ARRAYS.items()})
    if not named:
        kind.load(tmp_path / "model", CONFIG)
        return
    told = ", ".join(map(kind.spelled, named[:3])) + f", and {len(named) - 3} more" * (len(named) > 3)
    message = message_of(kind.load, tmp_path / "model")
    assert f"holds nothing but zeros in {told}; take another one" in message.replace(" (transposed)", "").replace(
        ": take", "; take"
    )


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
        says = "is not a (whole|PyTorch)|is empty$|is empty:|is of no format|begins with nothing but zeros"
        assert re.search(says, message_of(kind.load, path)), f"cut to {size} of {len(whole)} bytes"


# Libraries that are not installed


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FORMATS["tensorflow"].write(tmp_path / "model", ARRAYS)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = message_of(FORMATS["tensorflow"].load, tmp_path / "model")
    assert "needs TensorFlow: pip install -r requirements-convert.txt" in message


@pytest.mark.parametrize("name", ["torch", "legacy torch", "safetensors", "onnx"])
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
