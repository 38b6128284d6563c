"""ONNX files of whole networks, as torch.onnx.export writes them and other tools change them."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

from helpers import checkpoints
from helpers.checkpoints import onnx as loader
from helpers.config import BertConfig
from tests.checkpoint_files import ARRAYS, CONFIG, MODEL, Arrays, assert_equal, message_of
from tests.models import arrays_of, random_model, randomized

AXES = {0: "batch", 1: "length"}
MATRICES = [name for name, array in ARRAYS.items() if array.ndim == 2 and "embeddings" not in name]


def export(model: torch.nn.Module, path: Path, **options: Any) -> Path:
    """By the exporter that traces TorchScript, as Optimum does."""
    ids = torch.ones(2, 8, dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (ids, ids), str(path), dynamo=False, input_names=names, dynamic_axes=dict.fromkeys(names, AXES), **options
        )
    return path


def eager() -> Any:
    """The model with an attention of single steps, which older opsets have and optimizers know."""
    model = random_model(CONFIG)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(MODEL, tmp_path_factory.mktemp("exported") / "model.onnx")


def names_in(path: Path) -> set[str]:
    return {tensor.name for tensor in onnx.load(str(path)).graph.initializer}


# What exporters write


def test_an_export(exported: Path) -> None:
    assert not set(MATRICES) & names_in(exported), "the exporter keeps names, so nothing was tested"
    assert_equal(loader.load(exported, CONFIG), ARRAYS)


@pytest.mark.parametrize(
    "options",
    [{"do_constant_folding": False}, {"opset_version": 13}, {"keep_initializers_as_inputs": True}],
    ids=["unfolded", "older", "inputs"],
)
def test_ways_to_export(options: dict[str, Any], tmp_path: Path) -> None:
    """Before opset 17 layer norms are many nodes."""
    assert_equal(loader.load(export(eager(), tmp_path / "model.onnx", **options), CONFIG), ARRAYS)


def test_an_export_in_float16(tmp_path: Path) -> None:
    path = export(random_model(CONFIG).half(), tmp_path / "model.onnx")
    assert_equal(loader.load(path, CONFIG), {name: array.astype(np.float16).astype(np.float32) for name, array in ARRAYS.items()})


def test_an_export_of_equal_tensors(tmp_path: Path) -> None:
    """As a model has before it is trained: of equal ones the exporter keeps the first."""
    model = transformers.BertForQuestionAnswering(MODEL.config).eval()
    path = export(model, tmp_path / "model.onnx")
    arrays = arrays_of(model)
    assert len(names_in(path)) < len(arrays)
    assert_equal(loader.load(path, CONFIG), arrays)


class FakeQuantized(torch.nn.Module):
    """A linear layer whose weight and input are rounded to 8 bits and stay floats, as in quantization-aware training."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.shape[0]
        scales, zeros = torch.full((rows,), 0.01), torch.zeros(rows, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.weight, scales, zeros, 0, -128, 127)
        return torch.nn.functional.linear(torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127), weight, self.bias)


def test_an_export_of_quantization_aware_training(tmp_path: Path) -> None:
    model = random_model(CONFIG)
    for name in MATRICES:
        parent, _, child = name[: -len(".weight")].rpartition(".")
        setattr(model.get_submodule(parent), child, FakeQuantized(model.get_submodule(name[: -len(".weight")])))
    path = export(model, tmp_path / "model.onnx")
    assert_equal(loader.load(path, CONFIG), ARRAYS)

    exported = onnx.load(str(path))
    for node in [node for node in exported.graph.node if node.op_type == "Constant"]:  # which other exporters store apart
        node.attribute[0].t.name = node.output[0]
        exported.graph.initializer.append(node.attribute[0].t)
        exported.graph.node.remove(node)
    onnx.save(exported, str(path))
    zeros = {node.input[2] for node in exported.graph.node if node.op_type == "DequantizeLinear"}
    assert TensorProto.INT8 in {tensor.data_type for tensor in exported.graph.initializer if tensor.name in zeros}
    assert_equal(loader.load(path, CONFIG), ARRAYS)


SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
DISTILBERT: dict[str, Any] = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


@pytest.mark.parametrize(
    ("architecture", "head", "sizes"),
    [
        ("Bert", "SequenceClassification", SIZES),
        ("DistilBert", "QuestionAnswering", DISTILBERT),
        ("Roberta", "TokenClassification", SIZES),
        ("Albert", "QuestionAnswering", {**SIZES, "embedding_size": 16}),
        ("ModernBert", "SequenceClassification", {**SIZES, **TOKENS, "attn_implementation": "eager"}),
    ],
)
def test_families(architecture: str, head: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    """Also layers that share their weights, layers without a bias, and those of a head, which see one token a sequence."""
    model_config = getattr(transformers, f"{architecture}Config")(**sizes)
    model = randomized(getattr(transformers, f"{architecture}For{head}")(model_config), seed=1)
    model.save_pretrained(tmp_path)
    config = BertConfig.load(tmp_path, re.sub("(?<=[a-z])(?=[A-Z])", "-", head).lower())
    expected = checkpoints.load("pytorch", tmp_path, config).tensors()
    assert_equal(loader.load(export(model, tmp_path / "model.onnx"), config), expected)


def test_a_projection_of_one_token(tmp_path: Path) -> None:
    """Its matrix is not transposed, and keeps its name; where a tool has numbered it, it is found all the same."""
    model = randomized(transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)), seed=1)
    path = export(model, tmp_path / "model.onnx")
    network = onnx.load(str(path))
    [stored] = [tensor for tensor in network.graph.initializer if tensor.name == "bert.pooler.dense.weight"]
    [node] = [node for node in network.graph.node if stored.name in node.input]
    assert node.op_type == "Gemm"
    node.input[1] = stored.name = "12"
    onnx.save(network, str(path))
    model.save_pretrained(tmp_path)
    config = BertConfig.load(tmp_path, "sequence-classification")
    assert_equal(loader.load(path, config), checkpoints.load("pytorch", tmp_path, config).tensors())


def dynamo_network(arrays: Arrays) -> onnx.ModelProto:
    """What torch.onnx's newer exporter makes of linear layers: matrices are transposed and numbered, of equal tensors one
    stays, and each node notes the modules that it comes from. Further parts are initializers alone."""
    first: dict[bytes, str] = {}
    for name, array in arrays.items():
        first.setdefault(array.tobytes(), name)
    kept = {name: array for name, array in arrays.items() if first[array.tobytes()] == name and name not in MATRICES}
    nodes = []
    for i, name in enumerate(MATRICES):
        module = name[: -len(".weight")]
        kept[f"val_{i}"] = np.ascontiguousarray(arrays[name].T)
        bias = first[arrays[f"{module}.bias"].tobytes()]
        nodes += [noted("MatMul", module, "x", f"val_{i}"), noted("Add", module, nodes_output(module, "MatMul"), bias)]
    for name in arrays:
        module, _, kind = name.rpartition(".")
        if module.endswith("LayerNorm") and kind == "weight":
            inputs = [first[arrays[f"{module}.{kind}"].tobytes()] for kind in ("weight", "bias")]
            nodes.append(noted("LayerNormalization", module, "x", *inputs))
    initializers = [numpy_helper.from_array(array, name) for name, array in kept.items()]
    return helper.make_model(helper.make_graph(nodes, "main_graph", [], [], initializers))


def nodes_output(module: str, operation: str) -> str:
    return f"{module}/{operation}"


def noted(operation: str, module: str, *inputs: str) -> onnx.NodeProto:
    parts = module.split(".")
    scopes = ["", *(".".join(parts[: i + 1]) for i in range(len(parts))), operation.lower()]
    node = helper.make_node(operation, inputs, [nodes_output(module, operation)], name=f"node_{operation}_{len(module)}")
    node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(scopes)))
    return node


@pytest.mark.parametrize("equal", [False, True], ids=["trained", "equal tensors"])
def test_the_newer_exporter(equal: bool, tmp_path: Path) -> None:
    model = transformers.BertForQuestionAnswering(MODEL.config).eval() if equal else MODEL
    network = dynamo_network(arrays_of(model))
    onnx.save(network, str(tmp_path / "model.onnx"), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "model.onnx.data").stat().st_size > 10_000
    assert_equal(loader.load(tmp_path / "model.onnx", CONFIG), arrays_of(model))


# What other tools make of an export


def halved(path: Path, *kept: str) -> onnx.ModelProto:
    """In float16, but for some kinds of nodes, which casts surround."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(str(path)), keep_io_types=True, op_block_list=list(kept))


@pytest.mark.parametrize("named", [True, False], ids=["named nodes", "numbered nodes"])
@pytest.mark.parametrize("kept", [(), ("Add", "LayerNormalization"), ("MatMul",)], ids=["all", "but additions", "but products"])
def test_an_export_that_was_halved(kept: tuple[str, ...], named: bool, exported: Path, tmp_path: Path) -> None:
    """Also one whose nodes do not tell their modules, as PyTorch 1.12 wrote it."""
    network = halved(exported, *kept)
    for i, node in enumerate(network.graph.node):
        node.name = node.name if named else f"{node.op_type}_{i}"
    onnx.save(network, str(tmp_path / "model.onnx"))
    found = loader.load(tmp_path / "model.onnx", CONFIG).tensors()
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-7)


def optimize(path: Path, to: Path) -> None:
    """With what ONNX Runtime has for BERT."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(path), model_type="bert", num_heads=4, hidden_size=32, opt_level=1).save_model_to_file(str(to))


def test_an_export_that_was_optimized(exported: Path, tmp_path: Path) -> None:
    """As far as all matrices stay apart: biases are then added elsewhere."""
    optimize(exported, tmp_path / "model.onnx")
    network = onnx.load(str(tmp_path / "model.onnx")).graph
    assert {"SkipLayerNormalization", "FastGelu"} <= {node.op_type for node in network.node}
    assert_equal(loader.load(tmp_path / "model.onnx", CONFIG), ARRAYS)


def test_an_export_whose_matrices_were_merged(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    optimize(export(eager(), tmp_path / "exported.onnx"), path)
    says = "was optimized for ONNX Runtime, which merges tensors: give the export that it was made from"
    assert message_of(loader.load, path) == f"{path} {says}"


def quantize_activations_too(path: str, to: str) -> None:
    class Reader(CalibrationDataReader):
        batches = iter([{name: np.ones((1, 8), np.int64) for name in ("input_ids", "attention_mask")}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantize_static(path, to, Reader())


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("quantize", [quantize_dynamic, quantize_activations_too], ids=["MatMulInteger", "QDQ"])
def test_an_export_that_was_quantized(quantize: Callable[[str, str], None], exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantize(str(exported), str(path))
    says = "is quantized: give the export that it was made from; int8 quantizes it here"
    assert message_of(loader.load, path) == f"{path} {says}"


# What no tool writes


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node(kind, [], []) for kind in ("Cast", "Identity", "Add", "MatMul", "Gemm", "LayerNormalization")],
        [helper.make_node("Cast", ["x"], ["x"], to=1), helper.make_node("MatMul", ["x", "x"], ["x"])],
        [helper.make_node("Cast", ["x"], ["y"], to=1), helper.make_node("Cast", ["y"], ["x"], to=1)],
        [helper.make_node("Identity", ["qa_outputs.bias"], ["qa_outputs.bias"])],
        [helper.make_node("MatMul", ["x", "qa_outputs.bias"], ["y"], name="/")],
        [helper.make_node("Add", ["qa_outputs.bias"] * 2, ["y"]), helper.make_node("Gemm", ["y", "qa_outputs.bias"], ["z"])],
    ],
    ids=["empty", "itself", "circle", "identity", "no module", "twice"],
)
def test_odd_nodes(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    """Tensors that have their names are found beside any network."""
    path = tmp_path / "model.onnx"
    for arrays in (ARRAYS, {"qa_outputs.bias": ARRAYS["qa_outputs.bias"]}):
        initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        onnx.save(helper.make_model(helper.make_graph(nodes, "odd", [], [], initializers)), str(path))
        if len(arrays) > 1:
            assert_equal(loader.load(path, CONFIG), ARRAYS)
    assert " lacks 38 of 39 tensors: " in message_of(loader.load, path)


def write_external(path: Path, dims: list[int], **told: Any) -> None:
    """A tensor that is in a file of its own."""
    tensor = TensorProto(name="qa_outputs.bias", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in told.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(helper.make_model(helper.make_graph([], "bert", [], [], [tensor])).SerializeToString())


@pytest.mark.parametrize(
    ("dims", "told"),
    [
        ([2], {"offset": 9}),
        ([2], {"offset": 4, "length": 8}),
        ([2], {"offset": -8, "length": 8}),
        ([2], {"length": -1}),
        ([2], {"length": 1 << 62}),
        ([2], {"offset": 1 << 62}),
        ([2], {"length": "9" * 5000}),
        ([2], {"length": "eight"}),
        ([3], {}),
        ([1 << 40, 1 << 20], {}),
    ],
    ids=str,
)
def test_data_that_lies(dims: list[int], told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "data").write_bytes(bytes(8))
    write_external(path, dims, location="data", **told)
    assert f"{path} is not a whole ONNX file: " in message_of(loader.load, path)
    write_external(path, [2], location="data")
    assert "lacks 38 of 39 tensors" in message_of(loader.load, path)


def test_data_by_a_link(tmp_path: Path) -> None:
    """As huggingface_hub's cache has it."""
    (tmp_path / "blob").write_bytes(ARRAYS["qa_outputs.bias"].tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model/data").symlink_to("../blob")
    write_external(tmp_path / "model/model.onnx", [2], location="data")
    assert "lacks 38 of 39 tensors" in message_of(loader.load, tmp_path / "model/model.onnx")


@pytest.mark.parametrize(
    "location",
    ["../data", "{folder}/data", "pipe", "absent", "", "a\0b", "x" * 5000, "model.onnx/data"],
)
def test_data_elsewhere(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "data").write_bytes(bytes(8))
    os.mkfifo(folder / "pipe")
    write_external(folder / "model.onnx", [2], location=location.format(folder=tmp_path))
    assert f"{folder / 'model.onnx'} is not a whole ONNX file: " in message_of(loader.load, folder / "model.onnx")
