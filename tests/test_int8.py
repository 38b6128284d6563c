"""Int8: which range is whose, the rounded network on ONNX Runtime against a rounded PyTorch model, and calibration."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import numpy_helper
from safetensors.numpy import save_file

from helpers import calibrator, engine, ranges
from helpers.builder import is_sparse
from helpers.config import BertConfig
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.graphs import Int8
from helpers.sessions.layouts import Packed, Padded, Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.tokenization import Tokenizer
from helpers.transforms import pad_heads, widen
from helpers.weights import BertWeights, random_weights
from helpers.windows import Batch
from tests.models import VOCAB, arrays_of, random_model, small_config, weights_of, write_vocab
from tests.test_bert import ragged, theirs

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
LAYER, NEXT = "bert.encoder.layer.0", "bert.encoder.layer.1"

# Tensor of a network of two layers → the quantizers that saw it.
TENSORS = {
    "bert.embeddings": [f"{LAYER}.attention.self.query._input_quantizer"],
    f"{LAYER}.attention.self.qkv": [
        f"{LAYER}.attention.self.qv_a_input_quantizer",
        f"{LAYER}.attention.self.qv_b_input_quantizer",
        f"{LAYER}.attention.self.av_b_input_quantizer",
    ],
    f"{LAYER}.attention.self.probabilities": [f"{LAYER}.attention.self.av_a_input_quantizer"],
    f"{LAYER}.attention.self": [f"{LAYER}.attention.output.dense._input_quantizer"],
    f"{LAYER}.attention.output.dense": [f"{LAYER}.attention.output.add_local_input_quantizer"],
    f"{LAYER}.attention.output.LayerNorm": [f"{LAYER}.intermediate.dense._input_quantizer"],
    f"{LAYER}.intermediate.gelu": [f"{LAYER}.output.dense._input_quantizer"],
    f"{LAYER}.output.dense": [f"{LAYER}.output.add_local_input_quantizer"],
    f"{LAYER}.output.LayerNorm": [f"{NEXT}.attention.self.query._input_quantizer"],
    f"{NEXT}.attention.self.qkv": [
        f"{NEXT}.attention.self.qv_a_input_quantizer",
        f"{NEXT}.attention.self.qv_b_input_quantizer",
        f"{NEXT}.attention.self.av_b_input_quantizer",
    ],
    f"{NEXT}.attention.self.probabilities": [f"{NEXT}.attention.self.av_a_input_quantizer"],
    f"{NEXT}.attention.self": [f"{NEXT}.attention.output.dense._input_quantizer"],
    f"{NEXT}.attention.output.dense": [f"{NEXT}.attention.output.add_local_input_quantizer"],
    f"{NEXT}.attention.output.LayerNorm": [f"{NEXT}.intermediate.dense._input_quantizer"],
    f"{NEXT}.intermediate.gelu": [f"{NEXT}.output.dense._input_quantizer"],
    f"{NEXT}.output.dense": [f"{NEXT}.output.add_local_input_quantizer"],
    f"{NEXT}.output.LayerNorm": ["bert.encoder.final_input_quantizer"],
}
QUANTIZERS = [name for names in TENSORS.values() for name in names]
FINAL = f"{NEXT}.output.LayerNorm"


# Ranges


def test_quantizers() -> None:
    assert ranges.quantizers(2) == TENSORS
    assert len(ranges.quantizers(12)) == 12 * 8 + 1
    only = ranges.quantizers(1)
    assert only[f"{LAYER}.output.LayerNorm"] == ["bert.encoder.final_input_quantizer"]
    assert set(only) == {name for name in TENSORS if not name.startswith(NEXT)}


def test_from_checkpoint() -> None:
    """Every quantizer has a range of its own, so that two that were swapped show."""
    given = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}
    found = ranges.from_checkpoint({**given, f"{LAYER}.attention.self.key._input_quantizer": 99.0, "other": 98.0}, 2)
    numbers = iter(range(1, 22))
    assert found == {tensor: float([next(numbers) for _ in names][-1]) for tensor, names in TENSORS.items()}


@pytest.mark.parametrize("largest", ["qv_a", "qv_b", "av_b"])
def test_query_key_and_value_share_the_largest_range(largest: str) -> None:
    given = {name: 2.0 if "self." in name else 1.0 for name in QUANTIZERS}
    given[f"{NEXT}.attention.self.{largest}_input_quantizer"] = 5.0
    given[f"{NEXT}.attention.self.av_a_input_quantizer"] = 7.0  # probabilities are none of the three
    found = ranges.from_checkpoint(given, 2)
    assert (found[f"{LAYER}.attention.self.qkv"], found[f"{NEXT}.attention.self.qkv"]) == (2.0, 5.0)
    assert found[f"{NEXT}.attention.self.probabilities"] == 7.0


@pytest.mark.parametrize("lacks", [[0], [20], [1, 2, 3], [4, 7, 11, 20], range(21)], ids=str)
def test_missing_ranges_are_all_listed(lacks: Sequence[int]) -> None:
    missing = {QUANTIZERS[i] for i in lacks}
    with pytest.raises(InputError, match=rf"^int8 needs {len(missing)} activation ranges that the checkpoint lacks: ") as e:
        ranges.from_checkpoint({name: 1.0 for name in QUANTIZERS if name not in missing}, 2)
    assert sorted(str(e.value).split(": ")[1].split(", ")) == sorted(f"{name}._amax" for name in missing)


def test_to_checkpoint_and_back() -> None:
    found = {name: 1.0 + i for i, name in enumerate(TENSORS)}
    given = ranges.to_checkpoint(found, 2)
    assert given == {quantizer: found[name] for name, names in TENSORS.items() for quantizer in names}
    assert ranges.from_checkpoint(given, 2) == found


def test_of_projections() -> None:
    given = {name: 1.0 + i for i, name in enumerate(TENSORS)}
    kept = ["bert.embeddings"]
    for layer in (LAYER, NEXT):
        kept += [f"{layer}.{part}" for part in ("attention.output.LayerNorm", "intermediate.gelu", "output.LayerNorm")]
        kept.append(f"{layer}.attention.self")  # the context
    assert ranges.of_projections(given) == {name: given[name] for name in kept}


def test_transforms_scale_the_range_of_the_query_only() -> None:
    given = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}
    config = small_config()  # heads of 8
    weights = replace(random_weights(config), ranges=given)
    wide, _ = widen(weights, config, 4)
    assert wide.ranges == {name: amax / 2 if ".qv_a_" in name else amax for name, amax in given.items()}
    padded = pad_heads(weights, 4, 32)
    assert padded.ranges == {name: amax * 2 if ".qv_a_" in name else amax for name, amax in given.items()}
    assert weights.ranges == given


@pytest.mark.parametrize("transform", ["pad_heads", "widen"])
def test_a_transformed_query_keeps_to_its_scaled_range(transform: str) -> None:
    """The largest query of the transformed model is as far within its range as that of the model before."""
    config = small_config()
    model = random_model(config, 2)
    batch = ragged(config, 3, 12, 0)
    before = network(model, batch)
    weights = weights_of(model, {f"{LAYER}.attention.self.qv_a_input_quantizer": largest(before["query"])})
    if transform == "widen":
        weights, config = widen(weights, config, 2)
    else:
        weights = pad_heads(weights, 4, 32)
    x = before["bert.embeddings"]
    if transform == "widen":
        x = np.concatenate([x, x], -1)
    query = x @ weights.layers[0].query.weight.T + weights.layers[0].query.bias
    np.testing.assert_allclose(np.abs(query).max(), weights.ranges[f"{LAYER}.attention.self.qv_a_input_quantizer"], rtol=1e-4)


# The reference: Hugging Face's model, whose tensors are read by hooks, and rounded by hooks


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def network(model: Any, batch: Batch) -> dict[str, np.ndarray]:
    """The tensors that int8 needs ranges of, by the network's names, but the probabilities; and layer 0's `query`."""
    seen: dict[str, np.ndarray] = {}

    def record(name: str) -> Any:
        return model.get_submodule(name).register_forward_hook(
            lambda _, args, out: seen.update({f"{name}<": args[0].numpy(), f"{name}>": out.numpy()})
        )

    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [record(name) for name in linears]
    theirs(model, batch)
    for hook in hooks:
        hook.remove()
    depth = model.config.num_hidden_layers
    found = {"query": seen[f"{LAYER}.attention.self.query>"]}
    for i in range(depth):
        name = f"bert.encoder.layer.{i}"
        found[f"bert.encoder.layer.{i - 1}.output.LayerNorm" if i else "bert.embeddings"] = seen[f"{name}.attention.self.key<"]
        parts = [seen[f"{name}.attention.self.{part}>"] for part in ("query", "key", "value")]
        found[f"{name}.attention.self.qkv"] = np.concatenate(parts, -1)
        found[f"{name}.attention.self"] = seen[f"{name}.attention.output.dense<"]
        found[f"{name}.attention.output.dense"] = seen[f"{name}.attention.output.dense>"]
        found[f"{name}.attention.output.LayerNorm"] = seen[f"{name}.intermediate.dense<"]
        found[f"{name}.intermediate.gelu"] = seen[f"{name}.output.dense<"]
        found[f"{name}.output.dense"] = seen[f"{name}.output.dense>"]
    found[f"bert.encoder.layer.{depth - 1}.output.LayerNorm"] = seen["qa_outputs<"]
    return found


def rounded(x: Any, amax: float | None) -> Any:
    return x if amax is None else (x * 127 / amax).round().clamp(-128, 127) * amax / 127


class RoundedAttention(torch.nn.Module):
    """Attention by hand, with its probabilities rounded; the projections' own hooks round what goes in and comes out."""

    def __init__(self, old: Any, amax: float | None) -> None:
        super().__init__()
        self.query, self.key, self.value = old.query, old.key, old.value
        self.heads, self.amax = old.num_attention_heads, amax

    def forward(self, x: Any, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores + attention_mask
        context = rounded(scores.softmax(-1), self.amax) @ value
        return context.transpose(1, 2).flatten(2), None


def rounded_model(model: Any, amax: Mapping[str, float]) -> Any:
    """A copy of a model that rounds, in float64, whatever has a range; weights by the largest of each output's row."""
    config = transformers.BertConfig(**{**model.config.to_dict(), "attn_implementation": "eager"})
    copy = transformers.BertForQuestionAnswering(config)
    copy.load_state_dict(model.state_dict())
    copy.double().eval()
    copy.set_attn_implementation("eager")

    def linear(part: Any, source: str, result: str) -> None:
        if source in amax:
            with torch.no_grad():
                step = part.weight.abs().amax(1, keepdim=True).clamp(min=1e-38) / 127
                part.weight.copy_((part.weight / step).round() * step)
        part.register_forward_pre_hook(lambda _, args: (rounded(args[0], amax.get(source)),))
        part.register_forward_hook(lambda _, args, out: rounded(out, amax.get(result)))

    source = "bert.embeddings"
    layers: Any = copy.bert.encoder.layer
    for i, layer in enumerate(layers):
        name = f"bert.encoder.layer.{i}"
        attention = layer.attention
        for part in (attention.self.query, attention.self.key, attention.self.value):
            linear(part, source, f"{name}.attention.self.qkv")
        attention.self = RoundedAttention(attention.self, amax.get(f"{name}.attention.self.probabilities"))
        linear(attention.output.dense, f"{name}.attention.self", f"{name}.attention.output.dense")
        linear(layer.intermediate.dense, f"{name}.attention.output.LayerNorm", "")
        linear(layer.output.dense, f"{name}.intermediate.gelu", f"{name}.output.dense")
        source = f"{name}.output.LayerNorm"
    return copy


def plausible_ranges(model: Any, batch: Batch, seed: int) -> dict[str, float]:
    """Each 0.7 to 1.1 of the largest value: some clip, and no two are alike."""
    generator = np.random.default_rng(seed)
    seen = network(model, batch)
    names = ranges.quantizers(model.config.num_hidden_layers)
    return {name: largest(seen.get(name, np.ones(1))) * generator.uniform(0.7, 1.1) for name in names}


def session(blob: bytes, optimized: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def blob_of(weights: BertWeights, config: BertConfig, amax: Mapping[str, float] | None, packed: bool = False) -> bytes:
    options = BuildOptions([Profile(64, 64)], packed=packed, int8=None if amax is None else Int8(amax))
    return engine.build_onnx(weights, config, options)


def logits_of(blob: bytes, batch: Batch, packed: bool, optimized: bool) -> np.ndarray:
    layout = (Packed if packed else lambda profiles: Padded(profiles, True))([Profile(64, 64)])
    [output] = session(blob, optimized).run(["logits"], layout.feed(batch))
    return layout.logits(output, batch)


def rms(x: np.ndarray, batch: Batch) -> float:
    """Over the positions that are not masked."""
    return float(np.sqrt((x[batch.input_mask == 1] ** 2).mean()))


def strays(x: np.ndarray, batch: Batch) -> int:
    """Sequences of which some logit is off by more than float32 explains."""
    return int(((np.abs(x).max(-1) > 1e-3) & (batch.input_mask == 1)).any(1).sum())


class Case:
    """A random model, ranges for it, and what it computes in float32 and rounded, for 24 sequences of 1 to 12 tokens."""

    def __init__(self, seed: int, projections: bool, **changes: Any) -> None:
        self.config = small_config(**changes)
        self.model = random_model(self.config, seed)
        with torch.no_grad():
            self.model.get_parameter(f"{LAYER}.intermediate.dense.weight")[3] = 0  # nothing to take a scale from
        self.batch = ragged(self.config, 24, 12, seed)
        every = plausible_ranges(self.model, self.batch, seed)
        self.ranges = ranges.of_projections(every) if projections else every
        self.plain = theirs(self.model, self.batch)
        self.logits = self.without()

    def without(self, *names: str) -> np.ndarray:
        """The reference's logits where some tensors are not rounded."""
        amax = {name: value for name, value in self.ranges.items() if name not in names}
        return theirs(rounded_model(self.model, amax), self.batch)

    def engine(self, packed: bool, optimized: bool) -> np.ndarray:
        return logits_of(blob_of(weights_of(self.model), self.config, self.ranges, packed), self.batch, packed, optimized)


SIZES: list[dict[str, Any]] = [
    {},
    {"num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 37},
    {"num_attention_heads": 1, "hidden_size": 48, "num_hidden_layers": 1, "layer_norm_eps": 1e-3},
]


@pytest.fixture(scope="module", params=[False, True], ids=["all", "projections"])
def projections(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", params=range(len(SIZES)), ids=["2x4", "3x2", "1x1"])
def case(request: pytest.FixtureRequest, projections: bool) -> Case:
    return Case(request.param, projections, **SIZES[request.param])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_logits_as_written(case: Case, packed: bool) -> None:
    """Without optimizations the engine does what the reference does, but in float32.

    A value that lies within float32's error of the middle between two steps may go to the other one, which the rest of
    its sequence then shows: about one sequence in a hundred of these has such a value.
    """
    off = case.engine(packed, optimized=False) - case.logits
    assert strays(off, case.batch) <= 2
    assert rms(off, case.batch) < 0.1 * rms(case.logits - case.plain, case.batch)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_logits_as_run(case: Case, packed: bool) -> None:
    """With ONNX Runtime's optimizations biases may be rounded too (to int32), so that some values go to the next step.

    Such a value moves by one step, and rounding itself moves every value by up to half a step: what is added to the
    logits' error stays below that error, though a flip in one layer leads to many in the next.
    """
    found, error = case.engine(packed, optimized=True), rms(case.logits - case.plain, case.batch)
    assert rms(found - case.logits, case.batch) < error
    assert 0.5 * error < rms(found - case.plain, case.batch) < 1.5 * error
    assert error < 0.2 * case.plain[case.batch.input_mask == 1].std()


def test_every_rounding_counts() -> None:
    """Or the comparisons above would show little: they tell whether a tensor is rounded, and by which range."""
    case = Case(0, False)
    assert set(case.ranges) == set(TENSORS)
    for name in TENSORS:
        changed = strays(case.without(name) - case.logits, case.batch)
        assert (changed == 0) if name == FINAL else (changed >= 12), name


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_biases_flip_few_values_of_the_first_projection(packed: bool) -> None:
    """By one step, and fewer than one in a hundred: before any flip is carried on."""
    case = Case(0, False)
    model = onnx.load_from_string(blob_of(weights_of(case.model), case.config, case.ranges, packed))
    name = f"{LAYER}.attention.self.qkv"
    model.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}.rounded", onnx.TensorProto.FLOAT, None))
    feed = (Packed if packed else lambda profiles: Padded(profiles, True))([Profile(64, 64)]).feed(case.batch)
    as_run, as_written = (
        session(model.SerializeToString(), optimized).run([f"{name}.rounded"], feed)[0] for optimized in (True, False)
    )
    steps = np.abs(as_run - as_written) * 127 / case.ranges[name]
    assert steps.max() < 1.001
    assert (steps > 0.5).mean() < 0.01
    assert len(np.unique(np.rint(as_run * 127 / case.ranges[name]))) > 100  # of 256


# What is rounded where, in the ONNX model


class Inspected:
    """An ONNX model's nodes by what they make, and its constants."""

    def __init__(self, blob: bytes) -> None:
        graph = onnx.load_from_string(blob).graph
        self.nodes = list(graph.node)
        self.makers = {node.output[0]: node for node in self.nodes}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def readers(self, name: str) -> set[str]:
        return {node.output[0] for node in self.nodes if name in node.input}

    def rounded_tensors(self) -> dict[str, str]:
        """Activation → what DequantizeLinear makes of it; checks scales' kind, and the zero point."""
        found = {}
        for node in self.nodes:
            if node.op_type == "QuantizeLinear":
                [back] = self.readers(node.output[0])
                assert self.makers[back].op_type == "DequantizeLinear"
                assert list(self.makers[back].input[1:]) == list(node.input[1:])
                zero = self.constants[node.input[2]]
                assert (zero.dtype.name, zero.shape, int(zero)) == ("uint8", (), 128)
                found[node.input[0]] = back
        return found

    def scale(self, rounded: str) -> float:
        return float(self.constants[self.makers[rounded].input[1]])


PROJECTIONS = {
    f"{layer}.{part}": source
    for layer, first in ((LAYER, "bert.embeddings"), (NEXT, f"{LAYER}.output.LayerNorm"))
    for part, source in {
        "attention.self.qkv": first,
        "attention.output.dense": f"{layer}.attention.self",
        "intermediate.dense": f"{layer}.attention.output.LayerNorm",
        "output.dense": f"{layer}.intermediate.gelu",
    }.items()
}
# Tensors that are rounded though no projection reads them → what does.
OTHERS = {
    False: {"qkv": "attention.self.heads", "probabilities": "attention.self.context_by_head"},
    True: {"qkv": "attention.self.unpacked", "probabilities": "attention.self.context_by_head"},
}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_every_projection_multiplies_whole_numbers(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what ONNX Runtime makes of an engine: four in each of two layers."""

    class Options(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimized.onnx")

    blob = blob_of(random_weights(small_config()), small_config(), dict.fromkeys(TENSORS, 1.0), packed)
    (tmp_path / "engine").write_bytes(blob)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    OnnxRuntimeSession(tmp_path / "engine")
    operators = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    assert (operators.count("MatMulIntegerToFloat"), operators.count("Gemm")) == (8, 0)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_placement(packed: bool, projections: bool) -> None:
    amax = {name: 1.0 + i for i, name in enumerate(TENSORS)}
    amax = ranges.of_projections(amax) if projections else amax
    weights = weights_of(random_model(small_config()))
    model = Inspected(blob_of(weights, small_config(), amax, packed))

    readers = {source: f"{name}.product" for name, source in PROJECTIONS.items()}
    if not projections:
        for layer in (LAYER, NEXT):
            readers |= {f"{layer}.attention.self.{part}": f"{layer}.{where}" for part, where in OTHERS[packed].items()}
            readers |= {f"{layer}.{part}.dense": f"{layer}.{part}.LayerNorm.sum" for part in ("attention.output", "output")}
    rounded = model.rounded_tensors()
    assert {source: model.readers(result) for source, result in rounded.items()} == {k: {v} for k, v in readers.items()}
    for source, result in rounded.items():
        assert model.scale(result) == pytest.approx(amax[source] / 127, rel=1e-6)

    # Residuals travel unrounded: besides what rounds it, only the next sum reads a layer norm's output.
    assert model.readers("bert.embeddings") == {"bert.embeddings.int8", f"{LAYER}.attention.output.LayerNorm.sum"}
    norm = f"{LAYER}.attention.output.LayerNorm"
    assert model.readers(norm) == {f"{norm}.int8", f"{LAYER}.output.LayerNorm.sum"}
    assert model.readers(FINAL) == {"qa_outputs.product"}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_weights_are_int8_by_output_channel(packed: bool, projections: bool) -> None:
    amax = {name: 1.0 + i for i, name in enumerate(TENSORS)}
    model = random_model(small_config(), 1)
    weights = weights_of(model)
    found = Inspected(blob_of(weights, small_config(), ranges.of_projections(amax) if projections else amax, packed))
    arrays = arrays_of(model)
    for name in PROJECTIONS:
        parts = [name.replace("qkv", part) for part in ("query", "key", "value")] if name.endswith("qkv") else [name]
        weight = np.concatenate([arrays[f"{part}.weight"] for part in parts]).T
        back = found.makers[found.makers[f"{name}.product"].input[1]]
        assert back.op_type == "DequantizeLinear"
        assert [attribute.i for attribute in back.attribute if attribute.name == "axis"] == [1]
        stored, scale, zero = (found.constants[entry] for entry in back.input)
        assert (stored.dtype.name, stored.shape, scale.shape) == ("int8", weight.shape, weight.shape[1:])
        assert zero.dtype == np.int8
        assert not zero.any()
        np.testing.assert_allclose(scale, np.abs(weight).max(0) / 127, rtol=1e-6)
        assert (np.abs(stored.astype(int)).max(0) == 127).all()
        assert np.abs(stored * scale - weight).max() <= 0.5001 * scale.max()
        np.testing.assert_array_equal(found.constants[f"{name}.bias"], np.concatenate([arrays[f"{p}.bias"] for p in parts]))

    [weight_name] = [entry for entry in found.makers["qa_outputs.product"].input if entry != FINAL]
    assert found.constants[weight_name].dtype == np.float32
    np.testing.assert_array_equal(found.constants[weight_name], arrays["qa_outputs.weight"].T)
    kept = {name for name, array in found.constants.items() if array.ndim == 2 and array.dtype == np.float32}
    assert not any(name.startswith("bert.encoder") for name in kept)


def test_without_ranges_nothing_is_rounded() -> None:
    weights = weights_of(random_model(small_config()))
    assert blob_of(weights, small_config(), {}) == blob_of(weights, small_config(), None)
    model = Inspected(blob_of(weights, small_config(), None))
    assert {node.op_type for node in model.nodes}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})


# Calibration


def single(config: BertConfig, length: int, seed: int) -> Batch:
    """One window without padding."""
    generator = np.random.default_rng(seed)
    ids, segments = (generator.integers(0, most, (1, length)).astype(np.int32) for most in (config.vocab_size, 2))
    return Batch(ids, segments, np.ones((1, length), np.int32))


@pytest.mark.parametrize("changes", SIZES, ids=["2x4", "3x2", "1x1"])
def test_calibrate(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    model = random_model(config, 7)
    batches = [single(config, length, length) for length in (5, 40, 17)]
    seen = [network(model, batch) for batch in batches]
    expected = {}
    for name in ranges.quantizers(config.num_hidden_layers):
        if name.endswith(".probabilities"):
            expected[name] = 1.0
            continue
        values = [np.sort(np.abs(window[name]), axis=None) for window in seen]
        # Of fewer than 100 000 values 99.999 % are all but the largest.
        place = -2 if name.endswith((".output.dense", ".gelu")) else -1
        over_windows = np.max if name.endswith(".gelu") else np.mean
        expected[name] = float(over_windows([sorted_[place] for sorted_ in values]))
        assert values[0][-1] > 1.0001 * values[0][-2] or place == -1  # else the two rules could not be told apart
    found = calibrator.calibrate(weights_of(model), config, iter(batches))
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(type(amax) is float for amax in found.values())
    assert len(set(found.values())) == len(found) - config.num_hidden_layers + 1  # no two were swapped


def test_calibrate_where_a_tensor_is_zero(projections: bool) -> None:
    """A range stays above zero, and an engine that has it does not divide by zero."""
    config = small_config()
    model = random_model(config, 3)
    with torch.no_grad():
        for part in ("intermediate.dense", "attention.output.dense"):
            for parameter in model.get_submodule(f"{LAYER}.{part}").parameters():
                parameter.zero_()
    batch = single(config, 9, 0)
    found = calibrator.calibrate(weights_of(model), config, [batch])
    assert 0 < found[f"{LAYER}.intermediate.gelu"] < 1e-30
    assert 0 < found[f"{LAYER}.attention.output.dense"] < 1e-30
    assert min(found.values()) > 0
    amax = ranges.of_projections(found) if projections else found
    for optimized in (False, True):
        logits = logits_of(blob_of(weights_of(model), config, amax), batch, False, optimized)
        assert 0 < rms(logits - theirs(model, batch), batch) < 0.2 * theirs(model, batch).std()


def test_quantile() -> None:
    shuffled = np.random.default_rng(0).permutation(300_051).astype(np.float32)
    assert calibrator.quantile(shuffled, 1.0) == 300_050
    assert calibrator.quantile(shuffled, 0.99999) == 300_046  # 300 050 · 0.99999 = 300 046.9995
    assert calibrator.quantile(shuffled[:1], 0.99999) == shuffled[0]
    assert calibrator.quantile(np.array([5, 3, 9, 1]), 0.5) == 3
    assert calibrator.CUT_QUANTILE == 0.99999


# Windows


def tokenizer() -> Tokenizer:
    return Tokenizer({token: i for i, token in enumerate(VOCAB)}, True)


def write_squad(path: Path, *asked: tuple[str, Sequence[str]]) -> Path:
    """A SQuAD file of passages, each with its questions."""
    paragraphs = [
        {
            "context": text,
            "qas": [{"id": f"{p} {q}", "question": question, "answers": []} for q, question in enumerate(questions)],
        }
        for p, (text, questions) in enumerate(asked)
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def spelled(batch: Batch) -> str:
    """The window's text, and checks that it is one, with neither padding nor a mask that hides anything."""
    assert batch.input_ids.shape == batch.segment_ids.shape == batch.input_mask.shape
    assert len(batch.input_ids) == 1
    assert batch.input_mask.all()
    assert {array.dtype.name for array in batch} == {"int32"}
    return " ".join(VOCAB[i] for i in batch.input_ids[0])


@pytest.mark.parametrize(
    ("count", "asked"), [(1, "a"), (2, "af"), (3, "adg"), (4, "acfh"), (7, "abcefhi"), (9, "abcdefghi"), (10, "abcdefghij")]
)
def test_windows_are_spread_over_the_file(tmp_path: Path, count: int, asked: str) -> None:
    path = write_squad(tmp_path / "squad.json", ("x y", "abcd"), ("z", "efghij"))
    batches = calibrator.windows(path, count, 32, tokenizer())
    passages = {letter: "x y" if letter in "abcd" else "z" for letter in "abcdefghij"}
    assert [spelled(batch) for batch in batches] == [f"[CLS] {letter} [SEP] {passages[letter]} [SEP]" for letter in asked]
    assert [batch.segment_ids.tolist() for batch in batches] == [
        [[0, 0, 0, *[1] * (3 if letter in "abcd" else 2)]] for letter in asked
    ]


def test_windows_of_a_long_passage(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "squad.json", ("a b c d e f g h i", ["q"]))
    shown = [spelled(batch) for batch in calibrator.windows(path, 3, 8, tokenizer())]  # room for four at a time
    assert shown == [f"[CLS] q [SEP] {part} [SEP]" for part in ("a b c d", "e f g h", "i")]


def test_too_few_windows(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "squad.json", ("x y", "abcd"))
    assert len(calibrator.windows(path, 4, 32, tokenizer())) == 4
    with pytest.raises(InputError, match=r"squad\.json has 4 windows, fewer than --calib-num 5$"):
        calibrator.windows(path, 5, 32, tokenizer())
    with pytest.raises(InputError, match="absent"):
        calibrator.windows(tmp_path / "absent.json", 1, 32, tokenizer())


# Cache


@pytest.fixture
def told() -> list[str]:
    return []


FOUND = {name: 0.1 + i / 3 for i, name in enumerate(TENSORS)}


def test_cache_round_trip(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "cache"
    assert calibrator.read_cache(path, "stamp", 2, told.append) is None
    calibrator.write_cache(path, FOUND, "stamp")
    assert calibrator.read_cache(path, "stamp", 2, told.append) == FOUND
    assert told == []
    assert list(tmp_path.iterdir()) == [path]


def test_stale_cache(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "cache"
    calibrator.write_cache(path, FOUND, "old")
    assert calibrator.read_cache(path, "new", 2, told.append) is None
    assert told == [
        f"calibration cache {path} is of another model, sequence length or text: ignored, and replaced after calibration"
    ]
    calibrator.write_cache(path, FOUND, "new")
    assert calibrator.read_cache(path, "new", 2, told.append) == FOUND
    assert len(told) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TRT-8600-EntropyCalibration2\n",
        b'{"stamp": "stamp", "ranges": {"x": 1.0}',
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"stamp": "stamp"}',
        b'{"ranges": {"x": 1.0}}',
        b'{"stamp": "stamp", "ranges": [1.0]}',
        b'{"stamp": "stamp", "ranges": {"x": "wide"}}',
        b'{"stamp": "stamp", "ranges": {"x": null}}',
    ],
)
def test_malformed_cache(tmp_path: Path, told: list[str], content: bytes) -> None:
    path = tmp_path / "cache"
    path.write_bytes(content)
    assert calibrator.read_cache(path, "stamp", 2, told.append) is None
    assert told == [f"calibration cache {path} is not one of this project: ignored, and replaced after calibration"]


@pytest.mark.parametrize(
    "change", [{"bert.embeddings": float("nan")}, {"bert.embeddings": 0.0}, {"bert.embeddings": float("inf")}, {"x": 1.0}]
)
def test_damaged_cache(tmp_path: Path, told: list[str], change: dict[str, float]) -> None:
    path = tmp_path / "cache"
    calibrator.write_cache(path, {**FOUND, **change}, "stamp")
    assert calibrator.read_cache(path, "stamp", 2, told.append) is None
    assert told == [f"calibration cache {path} is damaged: ignored, and replaced after calibration"]


def test_stamp(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    weights = random_weights(small_config())
    path = write_squad(tmp_path / "squad.json", (text, "abcd"))

    def stamped(weights: BertWeights = weights, path: Path = path, count: int = 3, length: int = 24, eps: float = 1e-12) -> str:
        config = small_config(layer_norm_eps=eps)
        return calibrator.stamp(weights, config, calibrator.windows(path, count, length, tokenizer()))

    tensors = weights.tensors()
    bias = tensors["qa_outputs.bias"] + np.array([0, 1e-6], np.float32)
    stamps = [
        stamped(),
        stamped(BertWeights.from_tensors({**tensors, "qa_outputs.bias": bias})),
        stamped(random_weights(small_config(), seed=1)),
        stamped(path=write_squad(tmp_path / "text.json", (text.replace("dog", "cat"), "abcd"))),
        stamped(path=write_squad(tmp_path / "question.json", (text, "bbcd"))),
        stamped(count=4),
        stamped(count=2),
        stamped(length=25),
        stamped(eps=1e-6),
    ]
    assert len(set(stamps)) == len(stamps)
    assert stamped() == stamps[0]
    assert stamped(BertWeights.from_tensors({name: array.copy() for name, array in tensors.items()})) == stamps[0]


# 2:4 sparsity


@pytest.mark.parametrize(
    ("rows", "sparse"),
    [
        ([[1, 2, 0, 0]], True),
        ([[0, 2, 0, -1]], True),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], True),
        ([[1, 2, 3, 0]], False),
        ([[0, 0, 1, 2, 3, 4, 0, 0]], True),
        ([[1, 0, 2, 3, 0, 0, 0, 0]], False),  # half are zero, but not of each four
        ([[1, 2, 0, 0], [1, 1, 1, 0]], False),
        ([[1, 2], [1, 2], [0, 0], [0, 0]], False),  # along the output
        ([[1, 1], [0, 0]], False),  # a row is no multiple of four
        ([[1, 2, 0, 0, 0, 0]], False),
    ],
)
def test_is_sparse(rows: list[list[float]], sparse: bool) -> None:
    assert is_sparse(np.array(rows, np.float32)) is sparse


# Command line


def run(script: str, args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder, on ONNX Runtime."""
    line = [sys.executable, str(ROOT / script), *shlex.split(args), "--backend", "onnxruntime"]
    return subprocess.run(line, cwd=folder, capture_output=True, timeout=100, text=True, encoding="utf-8")


def builds(script: str, args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run(script, args, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(script: str, args: str, folder: Path) -> str:
    """The one line that a script says when it refuses, leaving nothing behind."""
    before = sorted(folder.rglob("*"))
    done = run(script, args, folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before
    return done.stderr


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^warning: (.*)$", done.stderr, re.M)


def write_model(folder: Path, weights: BertWeights, config: BertConfig | None = None) -> None:
    folder.mkdir(exist_ok=True)
    amax = {f"{name}._amax": np.array(value, np.float32) for name, value in weights.ranges.items()}
    save_file({**weights.tensors(), **amax}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(asdict(config or small_config())))
    write_vocab(folder / "vocab.txt")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder with a dense model, and a text of 4 windows of up to 24 tokens."""
    write_model(tmp_path / "model", weights_of(random_model(small_config())))
    write_squad(tmp_path / "squad.json", ("the quick brown fox jumps", "ab"), ("over the lazy dog", "cd"))
    yield tmp_path


def test_calibration_cache_from_the_command_line(work: Path) -> None:
    args = "-pt model -j squad.json -n 4 -p cache --int8"
    first = builds("builder.py", f"{args} -s 32 -o first.engine", work)
    assert "Calibrating" in first.stderr
    assert re.search(r"4/4\b", first.stderr)
    assert warnings(first) == []

    weights = weights_of(random_model(small_config()))
    found = calibrator.calibrate(weights, small_config(), calibrator.windows(work / "squad.json", 4, 32, tokenizer()))
    cache = json.loads((work / "cache").read_text())
    assert cache["ranges"] == pytest.approx(found, rel=1e-6)
    assert json.loads((work / "first.engine.json").read_text())["precision"] == "int8"
    rounded = Inspected((work / "first.engine").read_bytes())
    assert {name: rounded.scale(back) * 127 for name, back in rounded.rounded_tensors().items()} == pytest.approx(
        {name: found[name] for name in PROJECTIONS.values()}, rel=1e-6
    )

    # The cache is what the second build takes its ranges from: so a changed one shows.
    cache["ranges"]["bert.embeddings"] *= 2
    (work / "cache").write_text(json.dumps(cache))
    second = builds("builder.py", f"{args} -s 32 -o second.engine", work)
    assert "Calibrating" not in second.stderr
    assert warnings(second) == []
    again = Inspected((work / "second.engine").read_bytes())
    assert again.scale("bert.embeddings.rounded") == pytest.approx(2 * rounded.scale("bert.embeddings.rounded"))
    assert json.loads((work / "cache").read_text()) == cache

    other = builds("builder.py", f"{args} -s 20 -o other.engine", work)
    assert "Calibrating" in other.stderr
    [warning] = warnings(other)
    assert warning.startswith("calibration cache cache is of another model, sequence length or text")
    assert json.loads((work / "cache").read_text())["stamp"] != cache["stamp"]
    replaced = (work / "cache").read_bytes()
    assert "Calibrating" not in builds("builder.py", f"{args} -s 20 -o other.engine", work).stderr
    assert (work / "cache").read_bytes() == replaced


def test_a_cache_of_the_same_weights_in_another_configuration(work: Path) -> None:
    """Two heads of 16 attend otherwise than four of 8, so what was found for these is stale."""
    args = "-pt model -j squad.json -n 2 -p cache --int8 -s 32 -o new.engine"
    builds("builder.py", args, work)
    (work / "model/config.json").write_text(json.dumps(asdict(small_config(num_attention_heads=2))))
    done = builds("builder.py", args, work)
    assert "Calibrating" in done.stderr
    assert len(warnings(done)) == 1


def test_a_malformed_cache_is_replaced(work: Path) -> None:
    (work / "cache").write_bytes(b"TRT-8600-EntropyCalibration2\n")
    done = builds("builder.py", "-pt model -j squad.json -n 1 -p cache --int8 -s 32 -o new.engine", work)
    assert "Calibrating" in done.stderr
    assert warnings(done) == ["calibration cache cache is not one of this project: ignored, and replaced after calibration"]
    assert set(json.loads((work / "cache").read_text())["ranges"]) == set(TENSORS)


def test_without_text_to_calibrate_with(work: Path) -> None:
    said = refused("builder.py", "-pt model --int8 -s 32 -o new.engine", work)
    assert "squad/dev-v1.1.json does not exist" in said
    assert "--squad-json" in said
    said = refused("builder.py", "-pt model --int8 -s 32 -o new.engine -j squad.json", work)
    assert "squad.json has 4 windows, fewer than --calib-num 100" in said


@pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
def test_a_checkpoint_that_lacks_some_ranges(work: Path, script: str) -> None:
    """Even where there is text, what was trained is not mixed with what is found."""
    amax = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}
    missing = sorted(QUANTIZERS[i] for i in (2, 9, 20))
    given = {name: value for name, value in amax.items() if name not in missing}
    write_model(work / "model", replace(weights_of(random_model(small_config())), ranges=given))
    text = "-j squad.json -n 4" if script == "builder.py" else ""
    assert refused(script, f"-pt model --int8 -s 32 -o new.engine {text}", work) == (
        f"error: int8 needs 3 activation ranges that the checkpoint lacks: {', '.join(f'{name}._amax' for name in missing)}\n"
    )


@pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
def test_a_checkpoint_with_all_ranges(work: Path, script: str) -> None:
    """All are used, none is calibrated, and no text is asked for."""
    amax = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}
    write_model(work / "model", replace(weights_of(random_model(small_config())), ranges=amax))
    done = builds(script, "-pt model --int8 -s 32 -o new.engine", work)
    assert "Calibrating" not in done.stderr
    found = Inspected((work / "new.engine").read_bytes())
    assert {name: found.scale(back) * 127 for name, back in found.rounded_tensors().items()} == pytest.approx(
        {name: max(amax[q] for q in names) for name, names in TENSORS.items() if name != FINAL}, rel=1e-6
    )


def test_packed_engines_are_not_calibrated(work: Path) -> None:
    said = refused("builder_varseqlen.py", "-pt model --int8 -s 32 -o new.engine", work)
    assert said.startswith("error: int8 needs 21 activation ranges that the checkpoint lacks: ")
    assert all(f"{name}._amax" in said for name in QUANTIZERS)


def test_interleaved_without_int8(work: Path) -> None:
    for flag in ("-il", "--interleaved"):
        said = refused("builder_varseqlen.py", f"-pt model -s 32 -o new.engine {flag}", work)
        assert said == "error: --interleaved is a layout of int8: add --int8 --fp16\n"


def test_sparse_from_the_command_line(work: Path) -> None:
    dense = builds("builder.py", "-pt model -s 32 -o new.engine --sparse", work)
    assert "2:4 sparse are 0 of the encoder's 12 matrices\n" in dense.stdout
    ignored = "ONNX Runtime on the CPU computes in float32: not honoured are --sparse"
    [first, warning] = warnings(dense)
    assert first == ignored
    assert warning == "--sparse has nothing to work on: no matrix of this checkpoint is 2:4 sparse"

    tensors = weights_of(random_model(small_config())).tensors()
    halved = np.array([1, 0, 0, 1] * 8, np.float32)
    for part in ("attention.self.key", "intermediate.dense"):
        tensors[f"{NEXT}.{part}.weight"] = tensors[f"{NEXT}.{part}.weight"] * halved
    tensors["qa_outputs.weight"] = tensors["qa_outputs.weight"] * halved  # not the encoder's
    write_model(work / "model", BertWeights.from_tensors(tensors))
    some = builds("builder_varseqlen.py", "-pt model -s 32 -o new.engine -sp", work)
    assert "2:4 sparse are 2 of the encoder's 12 matrices\n" in some.stdout
    assert warnings(some) == [ignored]
    assert "2:4" not in builds("builder.py", "-pt model -s 32 -o new.engine", work).stdout
