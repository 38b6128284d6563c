"""Every loader against files that the real frameworks write: equal tensors, or an error that says what is wrong where."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto

from helpers.checkpoints import onnx as onnx_loader
from helpers.checkpoints import pytorch as pytorch_loader
from helpers.checkpoints import tensorflow as tensorflow_loader
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights
from tests.models import arrays_of, random_model, small_config

CONFIG = small_config()
MODEL = random_model(CONFIG)
ARRAYS = arrays_of(MODEL)

# What a file has beside the model: none of it may be taken for a weight, or be asked for.
BESIDE: dict[str, np.ndarray] = {
    "bert.embeddings.position_ids": np.arange(64, dtype=np.int64)[None],
    "bert.pooler.dense.weight": np.full((32, 32), 7.0, np.float32),
    "bert.pooler.dense.bias": np.full(32, 7.0, np.float32),
    "cls.predictions.bias": np.full(60, 7.0, np.float32),
    "cls.predictions.transform.LayerNorm.weight": np.full(32, 7.0, np.float32),
    "cls.seq_relationship.weight": np.full((2, 32), 7.0, np.float32),
}

# TensorFlow's names of BERT (google-research/bert), N being the layer; kernels are [in, out].
TENSORFLOW_NAMES = {
    "bert.embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
    "bert.embeddings.position_embeddings.weight": "bert/embeddings/position_embeddings",
    "bert.embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
    "bert.embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
    "bert.embeddings.LayerNorm.bias": "bert/embeddings/LayerNorm/beta",
    "bert.encoder.layer.N.attention.self.query.weight": "bert/encoder/layer_N/attention/self/query/kernel",
    "bert.encoder.layer.N.attention.self.query.bias": "bert/encoder/layer_N/attention/self/query/bias",
    "bert.encoder.layer.N.attention.self.key.weight": "bert/encoder/layer_N/attention/self/key/kernel",
    "bert.encoder.layer.N.attention.self.key.bias": "bert/encoder/layer_N/attention/self/key/bias",
    "bert.encoder.layer.N.attention.self.value.weight": "bert/encoder/layer_N/attention/self/value/kernel",
    "bert.encoder.layer.N.attention.self.value.bias": "bert/encoder/layer_N/attention/self/value/bias",
    "bert.encoder.layer.N.attention.output.dense.weight": "bert/encoder/layer_N/attention/output/dense/kernel",
    "bert.encoder.layer.N.attention.output.dense.bias": "bert/encoder/layer_N/attention/output/dense/bias",
    "bert.encoder.layer.N.attention.output.LayerNorm.weight": "bert/encoder/layer_N/attention/output/LayerNorm/gamma",
    "bert.encoder.layer.N.attention.output.LayerNorm.bias": "bert/encoder/layer_N/attention/output/LayerNorm/beta",
    "bert.encoder.layer.N.intermediate.dense.weight": "bert/encoder/layer_N/intermediate/dense/kernel",
    "bert.encoder.layer.N.intermediate.dense.bias": "bert/encoder/layer_N/intermediate/dense/bias",
    "bert.encoder.layer.N.output.dense.weight": "bert/encoder/layer_N/output/dense/kernel",
    "bert.encoder.layer.N.output.dense.bias": "bert/encoder/layer_N/output/dense/bias",
    "bert.encoder.layer.N.output.LayerNorm.weight": "bert/encoder/layer_N/output/LayerNorm/gamma",
    "bert.encoder.layer.N.output.LayerNorm.bias": "bert/encoder/layer_N/output/LayerNorm/beta",
    "qa_outputs.weight": "cls/squad/output_weights",
    "qa_outputs.bias": "cls/squad/output_bias",
}

Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, torch.Tensor]


def tensors_of(arrays: Arrays, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Tensors of their own type, or floats as `dtype`."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def tensorflow_name(name: str) -> str:
    layer = re.search(r"\d+", name)
    number = layer[0] if layer else ""
    return TENSORFLOW_NAMES[re.sub(r"\.\d+\.", ".N.", name)].replace("_N", f"_{number}")


def write_variables(path: Path, variables: Arrays) -> None:
    """A TensorFlow 1 checkpoint with the prefix `path`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    tf1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), tf1.Session() as session:
        made = [tf1.Variable(array, name=name) for name, array in variables.items()]
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(made).save(session, str(path), write_meta_graph=False)


def write_tensorflow(path: Path, arrays: Arrays) -> None:
    names = {name: tensorflow_name(name) for name in arrays}
    write_variables(path, {to: arrays[name].T if to.endswith("kernel") else arrays[name] for name, to in names.items()})


def write_torch(path: Path, arrays: Arrays) -> None:
    torch.save(tensors_of(arrays), path)


def write_legacy_torch(path: Path, arrays: Arrays) -> None:
    torch.save(tensors_of(arrays), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path, arrays: Arrays) -> None:
    safetensors.torch.save_file(tensors_of(arrays), path)


def initializer(name: str, tensor: torch.Tensor) -> TensorProto:
    kinds = {
        torch.float64: TensorProto.DOUBLE,
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.int64: TensorProto.INT64,
        torch.int8: TensorProto.INT8,
    }
    bits = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
    return TensorProto(name=name, data_type=kinds[tensor.dtype], dims=tensor.shape, raw_data=bits.numpy().tobytes())


def onnx_model(initializers: Iterable[TensorProto]) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "bert", [], [], list(initializers)))


def write_onnx(path: Path, arrays: Arrays) -> None:
    onnx.save(onnx_model(initializer(name, tensor) for name, tensor in tensors_of(arrays).items()), str(path))


class Format(NamedTuple):
    """How a file of one kind is written, read, and spells a Hugging Face name."""

    write: Callable[[Path, Arrays], None]
    load: Callable[[Path, BertConfig], BertWeights]
    spelled: Callable[[str], str] = str


FORMATS = {
    "tensorflow": Format(write_tensorflow, tensorflow_loader.load, tensorflow_name),
    "torch": Format(write_torch, pytorch_loader.load),
    "legacy torch": Format(write_legacy_torch, pytorch_loader.load),
    "safetensors": Format(write_safetensors, pytorch_loader.load),
    "onnx": Format(write_onnx, onnx_loader.load),
}
every_format = pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)


def assert_equal(weights: BertWeights, expected: Arrays) -> None:
    found = weights.tensors()
    assert set(found) == set(expected)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert all(array.flags["C_CONTIGUOUS"] for array in found.values())
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []


def message_of(load: Callable[[Path, BertConfig], BertWeights], path: Path, config: BertConfig = CONFIG) -> str:
    """The message of the InputError that loading must raise; it names the file and fits one line of a terminal."""
    with pytest.raises(InputError) as caught:
        load(path, config)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    return message


# What a whole file gives


@every_format
def test_load_gives_the_model(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    weights = kind.load(tmp_path / "model", CONFIG)
    assert_equal(weights, ARRAYS)
    assert weights.ranges == {}


def test_tensorflow_ignores_what_training_leaves(tmp_path: Path) -> None:
    variables: dict[str, Any] = {"global_step": np.int64(88000), "bert/pooler/dense/kernel": np.ones((32, 32), np.float32)}
    variables["cls/predictions/output_bias"] = np.ones(60, np.float32)
    variables["cls/seq_relationship/output_weights"] = np.ones((2, 32), np.float32)
    for name, array in ARRAYS.items():
        spelled = tensorflow_name(name)
        variables[spelled] = array.T if spelled.endswith("kernel") else array
        variables[f"{spelled}/adam_m"] = variables[f"{spelled}/adam_v"] = np.full_like(variables[spelled], 7)
    write_variables(tmp_path / "model.ckpt-88000", variables)
    assert_equal(tensorflow_loader.load(tmp_path / "model.ckpt-88000", CONFIG), ARRAYS)


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
    assert_equal(pytorch_loader.load(tmp_path / "model.pt", CONFIG), ARRAYS)


def save_float_data(tensors: Tensors, path: Path) -> None:
    """An ONNX file that keeps its numbers as numbers, not as bytes."""
    made = [onnx.helper.make_tensor(name, TensorProto.FLOAT, t.shape, t.flatten().tolist()) for name, t in tensors.items()]
    assert len(made[0].float_data) == 60 * 32
    onnx.save(onnx_model(made), str(path))


def save_external(tensors: Tensors, path: Path) -> None:
    model = onnx_model(initializer(name, tensor) for name, tensor in tensors.items())
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


SAVERS: dict[str, tuple[Callable[[Any, Path], Any], Callable[[Path, BertConfig], BertWeights]]] = {
    "torch": (torch.save, pytorch_loader.load),
    "safetensors": (safetensors.torch.save_file, pytorch_loader.load),
    "onnx": (lambda ts, path: onnx.save(onnx_model(initializer(*t) for t in ts.items()), str(path)), onnx_loader.load),
    "external onnx": (save_external, onnx_loader.load),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("save", "load"), SAVERS.values(), ids=SAVERS)
def test_any_float_dtype_becomes_float32(
    save: Callable[[Tensors, Path], Any],
    load: Callable[[Path, BertConfig], BertWeights],
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    finer = {name: array + 1e-9 * np.arange(array.size).reshape(array.shape) for name, array in ARRAYS.items()}
    stored = tensors_of(finer, dtype)
    save({**stored, **tensors_of(BESIDE, dtype)}, tmp_path / "model")
    assert_equal(load(tmp_path / "model", CONFIG), {name: tensor.float().numpy() for name, tensor in stored.items()})


@pytest.mark.parametrize("kind", [FORMATS["torch"], FORMATS["legacy torch"]], ids=["torch", "legacy torch"])
def test_tensors_that_were_saved_on_a_gpu(kind: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
    kind.write(tmp_path / "model", ARRAYS)
    assert b"cuda:7" in (tmp_path / "model").read_bytes()
    assert_equal(kind.load(tmp_path / "model", CONFIG), ARRAYS)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_tensorflow_dtypes_become_float32(dtype: str, tmp_path: Path) -> None:
    import tensorflow

    stored = {name: array.astype(tensorflow.as_dtype(dtype).as_numpy_dtype) for name, array in ARRAYS.items()}
    write_tensorflow(tmp_path / "model", stored)
    expected = {name: array.astype(np.float32) for name, array in stored.items()}
    assert_equal(tensorflow_loader.load(tmp_path / "model", CONFIG), expected)


def test_onnx_reads_numbers_that_are_not_bytes(tmp_path: Path) -> None:
    save_float_data(tensors_of(ARRAYS), tmp_path / "model.onnx")
    assert_equal(onnx_loader.load(tmp_path / "model.onnx", CONFIG), ARRAYS)


def test_folder_that_hugging_face_saved(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    config = BertConfig.load(tmp_path)
    assert config == CONFIG
    assert_equal(pytorch_loader.load(tmp_path, config), ARRAYS)


def test_folder_takes_safetensors_before_bin(tmp_path: Path) -> None:
    write_torch(tmp_path / "pytorch_model.bin", ARRAYS)
    assert_equal(pytorch_loader.load(tmp_path, CONFIG), ARRAYS)
    other = arrays_of(random_model(CONFIG, seed=1))
    write_safetensors(tmp_path / "model.safetensors", other)
    assert_equal(pytorch_loader.load(tmp_path, CONFIG), other)


def test_layers_are_ordered_by_number(tmp_path: Path) -> None:
    config = small_config(num_hidden_layers=12, hidden_size=8, intermediate_size=8)
    arrays = arrays_of(random_model(config))
    write_safetensors(tmp_path / "model", arrays)
    weights = pytorch_loader.load(tmp_path / "model", config)
    assert_equal(weights, arrays)
    found = [layer.output.bias.tolist() for layer in weights.layers]
    assert found == [arrays[f"bert.encoder.layer.{i}.output.dense.bias"].tolist() for i in range(12)]


def test_embedded_checkpoint_fits_its_configuration() -> None:
    folder = Path(__file__).parents[1] / "models" / "minilm-l6-squad"
    config = BertConfig.load(folder)
    weights = pytorch_loader.load(folder, config)
    weights.validate(config)
    assert (len(weights.layers), weights.embeddings.word.shape) == (6, (30522, 384))


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


@pytest.mark.parametrize(
    "kind", [FORMATS["onnx"], FORMATS["torch"], FORMATS["safetensors"]], ids=["onnx", "torch", "safetensors"]
)
@pytest.mark.parametrize("spell", [str, respelled], ids=["qv_a", "matmul_q"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "[1]"])
def test_ranges(kind: Format, spell: Callable[[str], str], shape: tuple[int, ...], tmp_path: Path) -> None:
    amax = {f"{spell(name)}._amax": np.full(shape, value, np.float32) for name, value in RANGES.items()}
    kind.write(tmp_path / "model", {**ARRAYS, **amax, **NOT_RANGES, **BESIDE})
    weights = kind.load(tmp_path / "model", CONFIG)
    assert_equal(weights, ARRAYS)
    assert weights.ranges == {name: float(np.float32(value)) for name, value in RANGES.items()}


@pytest.mark.parametrize(
    "kind", [FORMATS["onnx"], FORMATS["torch"], FORMATS["safetensors"]], ids=["onnx", "torch", "safetensors"]
)
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


@pytest.mark.parametrize("quantizer", OTHER_SPELLING.values())
def test_odd_range_is_spelled_as_in_the_file(quantizer: str, tmp_path: Path) -> None:
    name = f"{SELF}.{quantizer}_input_quantizer._amax"
    write_onnx(tmp_path / "model.onnx", {**ARRAYS, name: np.array(-1, np.float32)})
    assert f"range {name} must be" in message_of(onnx_loader.load, tmp_path / "model.onnx")


# Files that do not fit


@every_format
def test_missing_tensors_are_all_listed(kind: Format, tmp_path: Path) -> None:
    gone = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.attention.self.key.weight", "qa_outputs.weight"]
    kind.write(tmp_path / "model", {name: array for name, array in ARRAYS.items() if name not in gone})
    message = message_of(kind.load, tmp_path / "model")
    assert "lacks 3 of 39 tensors: " in message
    listed = message.split("tensors: ")[1].split(", ")
    assert [name.split(" ")[0] for name in listed] == [kind.spelled(name) for name in gone]


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
    assert message_of(pytorch_loader.load, tmp_path / "model.pt").endswith(f"lacks 1 of 39 tensors: {name}")


@pytest.mark.parametrize("kind", [FORMATS[name] for name in FORMATS if name != "tensorflow"])
def test_whole_numbers_are_no_weights(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", {**ARRAYS, "qa_outputs.bias": np.ones(2, np.int64)})
    assert message_of(kind.load, tmp_path / "model").endswith("lacks 1 of 39 tensors: qa_outputs.bias")


@every_format
def test_wrong_shapes_are_all_listed(kind: Format, tmp_path: Path) -> None:
    wrong = {
        "bert.embeddings.word_embeddings.weight": np.ones((61, 32), np.float32),
        "bert.encoder.layer.0.output.LayerNorm.bias": np.ones(31, np.float32),
        "bert.encoder.layer.1.intermediate.dense.weight": np.ones((32, 48), np.float32),
        "qa_outputs.bias": np.ones(3, np.float32),
    }
    kind.write(tmp_path / "model", {**ARRAYS, **wrong})
    message = message_of(kind.load, tmp_path / "model")
    transposed = " (transposed)" if kind.load is tensorflow_loader.load else ""
    assert message.split("configuration: ")[1].split("; ") == [
        f"{kind.spelled('bert.embeddings.word_embeddings.weight')}: expected [60, 32], found [61, 32]",
        f"{kind.spelled('bert.encoder.layer.0.output.LayerNorm.bias')}: expected [32], found [31]",
        f"{kind.spelled('bert.encoder.layer.1.intermediate.dense.weight')}{transposed}: expected [48, 32], found [32, 48]",
        f"{kind.spelled('qa_outputs.bias')}: expected [2], found [3]",
    ]


def test_wrong_shape_is_spelled_as_in_the_file(tmp_path: Path) -> None:
    tensors = wrapped(old_names(tensors_of(ARRAYS)))
    tensors["module.bert.encoder.layer.1.output.LayerNorm.gamma"] = torch.ones(33)
    torch.save(tensors, tmp_path / "model.pt")
    shown = "module.bert.encoder.layer.1.output.LayerNorm.gamma: expected [32], found [33]"
    assert message_of(pytorch_loader.load, tmp_path / "model.pt").endswith(shown)


@every_format
def test_file_with_more_layers_than_its_configuration(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    message = message_of(kind.load, tmp_path / "model", small_config(num_hidden_layers=1))
    assert "has 2 encoder layers, its configuration 1" in message


@every_format
def test_file_with_fewer_layers_than_its_configuration(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", ARRAYS)
    message = message_of(kind.load, tmp_path / "model", small_config(num_hidden_layers=3))
    assert "lacks 16 of 55 tensors: " in message
    listed = message.split("tensors: ")[1].split(", ")
    expected = [kind.spelled(name).replace("1", "2") for name in ARRAYS if name.startswith("bert.encoder.layer.1.")]
    assert sorted(name.split(" ")[0] for name in listed) == sorted(expected)


@every_format
def test_numbers_that_are_not_finite(kind: Format, tmp_path: Path) -> None:
    broken = {name: array.copy() for name, array in ARRAYS.items()}
    odd = ["bert.embeddings.token_type_embeddings.weight", "bert.encoder.layer.1.attention.output.LayerNorm.weight"]
    broken[odd[0]][1, 5], broken[odd[1]][31] = np.nan, -np.inf
    kind.write(tmp_path / "model", broken)
    message = message_of(kind.load, tmp_path / "model")
    assert message.endswith(f"holds NaN or infinity in {', '.join(map(kind.spelled, odd))}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind", [FORMATS["torch"], FORMATS["safetensors"], FORMATS["onnx"]], ids=["torch", "safetensors", "onnx"]
)
def test_float64_beyond_float32(kind: Format, tmp_path: Path) -> None:
    kind.write(tmp_path / "model", {**ARRAYS, "qa_outputs.bias": np.array([1e39, 0])})
    assert message_of(kind.load, tmp_path / "model").endswith("holds NaN or infinity in qa_outputs.bias")


# Files that are missing or damaged


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (tensorflow_loader.load, "there is no {path}.index (give the prefix, without it)"),
        (pytorch_loader.load, "checkpoint {path} does not exist"),
        (onnx_loader.load, "ONNX file {path} does not exist"),
    ],
    ids=["tensorflow", "pytorch", "onnx"],
)
def test_missing_file(load: Callable[[Path, BertConfig], BertWeights], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "absent"
    assert expected.format(path=path) in message_of(load, path)


def test_folder_without_a_checkpoint(tmp_path: Path) -> None:
    assert f"no model.safetensors or pytorch_model.bin in folder {tmp_path}" in message_of(pytorch_loader.load, tmp_path)


def cuts(size: int) -> list[int]:
    """Lengths of a file that was cut off: within its first and last bytes, and all along it."""
    return sorted({*range(0, 300, 7), *(size * i // 20 for i in range(20)), *(size - i for i in (1, 2, 8, 30))})


@pytest.mark.parametrize("name", ["torch", "legacy torch", "safetensors", "onnx"])
def test_file_cut_short(name: str, tmp_path: Path) -> None:
    kind = FORMATS[name]
    path = tmp_path / "model"
    kind.write(path, ARRAYS)
    whole = path.read_bytes()
    for size in cuts(len(whole)):
        path.write_bytes(whole[:size])
        assert re.search("is not a (whole|PyTorch)", message_of(kind.load, path)), f"cut to {size} of {len(whole)} bytes"


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_tensorflow_file_cut_short(suffix: str, tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    file = tmp_path / f"model.{suffix}"
    whole = file.read_bytes()
    for size in cuts(len(whole)):
        file.write_bytes(whole[:size])
        assert "cannot be read: " in message_of(tensorflow_loader.load, tmp_path / "model"), (
            f"cut to {size} of {len(whole)} bytes"
        )


def test_tensorflow_file_with_a_changed_byte(tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    data = tmp_path / "model.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[5000] ^= 1
    data.write_bytes(changed)
    assert "cannot be read: " in message_of(tensorflow_loader.load, tmp_path / "model")


def test_tensorflow_without_its_data(tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    (tmp_path / "model.data-00000-of-00001").unlink()
    assert "model.data-00000-of-00001" in message_of(tensorflow_loader.load, tmp_path / "model")


@pytest.mark.parametrize("size", [None, 0, 100, 40000, 76679])
def test_onnx_without_all_its_external_data(size: int | None, tmp_path: Path) -> None:
    save_external(tensors_of(ARRAYS), tmp_path / "model.onnx")
    data = tmp_path / "model.onnx.data"
    whole = data.read_bytes()
    assert len(whole) == 76680
    data.unlink() if size is None else data.write_bytes(whole[:size])
    assert "is not a whole ONNX file" in message_of(onnx_loader.load, tmp_path / "model.onnx")


def test_onnx_tensor_with_too_few_bytes(tmp_path: Path) -> None:
    initializers = [initializer(name, tensor) for name, tensor in tensors_of(ARRAYS).items()]
    initializers[3].raw_data = initializers[3].raw_data[:-4]
    onnx.save(onnx_model(initializers), str(tmp_path / "model.onnx"))
    assert "is not a whole ONNX file" in message_of(onnx_loader.load, tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"hello", b'{"a": 1}', b"PK\x03\x04", b"\x80\x02.", b"version https://git-lfs"])
@pytest.mark.parametrize("load", [pytorch_loader.load, onnx_loader.load], ids=["pytorch", "onnx"])
def test_file_of_another_kind(content: bytes, load: Callable[[Path, BertConfig], BertWeights], tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    assert re.search("is not a (whole ONNX file|PyTorch state dict)", message_of(load, tmp_path / "model"))


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
    assert "is not a whole safetensors file" in message_of(pytorch_loader.load, path)


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
    message = message_of(pytorch_loader.load, tmp_path / "model.bin")
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
    message = message_of(pytorch_loader.load, tmp_path / "model.bin")
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "weights_only" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({"model": [torch.ones(2)]}, "lacks 39 of 39 tensors"),
        ({}, "lacks 39 of 39 tensors"),
        ({0: torch.ones(2)}, "lacks 39 of 39 tensors"),
        ({"qa_outputs.bias": torch.ones(2).to_sparse()}, r"qa_outputs\.bias"),
        ({"qa_outputs.bias": torch.ones(2, device="meta")}, r"qa_outputs\.bias"),
    ],
    ids=["list", "tensor", "nested list", "empty", "numbered", "sparse", "meta"],
)
def test_file_without_a_state_dict(content: Any, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.bin")
    assert re.search(expected, message_of(pytorch_loader.load, tmp_path / "model.bin"))


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
