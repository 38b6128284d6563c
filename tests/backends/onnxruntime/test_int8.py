"""The rounded network on ONNX Runtime against a rounded PyTorch model, and what is rounded where in the ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.config import BertConfig
from helpers.layouts import Batch, Profile
from helpers.quantization import ranges
from helpers.sites import bert_sites
from helpers.weights import BertWeights, random_weights
from tests.batches import onnx_blob, ragged, rms, rounded, session, strays, theirs
from tests.models import arrays_of, random_model, small_config, weights_of
from tests.quantized import (
    FINAL,
    LAYER,
    NEXT,
    PROJECTIONS,
    SITES,
    SIZES,
    TENSORS,
    Inspected,
    largest,
    layout_of,
    logits_of,
    tensors_of,
)

EVERY = {name: 1.0 + i for i, name in enumerate(TENSORS)}  # a range for each tensor


def blob_of(weights: BertWeights, config: BertConfig, amax: Mapping[str, float] | None, packed: bool = False) -> bytes:
    return onnx_blob(weights, config, [Profile(64, 64)], packed, amax)


@pytest.fixture(scope="module", params=[False, True], ids=["all", "projections"])
def projections(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["padded", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# The reference: Hugging Face's model, rounded by hooks


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
    seen = tensors_of(model, batch)
    names = ranges.quantizers(bert_sites(model.config.num_hidden_layers))
    return {name: largest(seen.get(name, np.ones(1))) * generator.uniform(0.7, 1.1) for name in names}


class Case:
    """A random model, ranges for it, and what it computes in float32 and rounded, for 24 sequences of 1 to 12 tokens."""

    def __init__(self, seed: int, projections: bool, **changes: Any) -> None:
        self.config = small_config(**changes)
        self.model = random_model(self.config, seed)
        with torch.no_grad():
            self.model.get_parameter(f"{LAYER}.intermediate.dense.weight")[3] = 0  # nothing to take a scale from
        self.batch = ragged(self.config, 24, 12, seed)
        every = plausible_ranges(self.model, self.batch, seed)
        sites = bert_sites(self.config.num_hidden_layers)
        self.ranges = ranges.of_projections(every, sites) if projections else every
        self.plain = theirs(self.model, self.batch)
        self.logits = self.without()

    def without(self, *names: str) -> np.ndarray:
        """The reference's logits where some tensors are not rounded."""
        amax = {name: value for name, value in self.ranges.items() if name not in names}
        return theirs(rounded_model(self.model, amax), self.batch)

    def blob(self, packed: bool) -> bytes:
        return blob_of(weights_of(self.model), self.config, self.ranges, packed)

    def engine(self, packed: bool, optimized: bool) -> np.ndarray:
        return logits_of(self.blob(packed), self.batch, packed, optimized)


@pytest.fixture(scope="module", params=range(len(SIZES)), ids=list(SIZES))
def case(request: pytest.FixtureRequest, projections: bool) -> Case:
    return Case(request.param, projections, **list(SIZES.values())[request.param])


@pytest.fixture(scope="module")
def every() -> Case:
    """The small configuration with all its tensors rounded."""
    return Case(0, False)


def test_logits_as_written(case: Case, packed: bool) -> None:
    """Without optimizations the engine does what the reference does, but in float32.

    A value that lies within float32's error of the middle between two steps may go to the other one, which the rest of
    its sequence then shows: about one sequence in a hundred of these has such a value.
    """
    off = case.engine(packed, optimized=False) - case.logits
    assert strays(off, case.batch) <= 2
    assert rms(off) < 0.1 * rms(case.logits - case.plain)


def test_logits_as_run(case: Case, packed: bool) -> None:
    """With ONNX Runtime's optimizations biases may be rounded too (to int32), so that some values go to the next step.

    Such a value moves by one step, and rounding itself moves every value by up to half a step: what is added to the
    logits' error stays below that error, though a flip in one layer leads to many in the next.
    """
    found, error = case.engine(packed, optimized=True), rms(case.logits - case.plain)
    assert rms(found - case.logits) < error
    assert 0.5 * error < rms(found - case.plain) < 1.5 * error
    assert error < 0.2 * case.plain.std()


def test_every_rounding_counts(every: Case) -> None:
    """Or the comparisons above would show little: they tell whether a tensor is rounded, and by which range."""
    assert set(every.ranges) == set(TENSORS)
    for name in TENSORS:
        changed = strays(every.without(name) - every.logits, every.batch)
        assert (changed == 0) if name == FINAL else (changed >= 12), name


def test_biases_flip_few_values_of_the_first_projection(every: Case, packed: bool) -> None:
    """By one step, and fewer than one in a hundred: before any flip is carried on."""
    model = onnx.load_from_string(every.blob(packed))
    name = f"{LAYER}.attention.self.qkv"
    model.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}.rounded", onnx.TensorProto.FLOAT, None))
    feed = layout_of(packed).feed(every.batch)
    as_run, as_written = (
        session(model.SerializeToString(), optimized).run([f"{name}.rounded"], feed)[0] for optimized in (True, False)
    )
    steps = np.abs(as_run - as_written) * 127 / every.ranges[name]
    assert steps.max() < 1.001
    assert (steps > 0.5).mean() < 0.01
    assert len(np.unique(np.rint(as_run * 127 / every.ranges[name]))) > 100  # of 256


# What is rounded where, in the ONNX model

# Tensors that are rounded though no projection reads them → what does.
OTHERS = {
    False: {"qkv": "attention.self.heads", "probabilities": "attention.self.context_by_head"},
    True: {"qkv": "attention.self.unpacked", "probabilities": "attention.self.context_by_head"},
}


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


def test_placement(packed: bool, projections: bool) -> None:
    amax = ranges.of_projections(EVERY, SITES) if projections else EVERY
    weights = weights_of(random_model(small_config()))
    model = Inspected(blob_of(weights, small_config(), amax, packed))

    readers = {source: f"{name}.product" for name, source in PROJECTIONS.items()}
    if not projections:
        for layer in (LAYER, NEXT):
            readers |= {f"{layer}.attention.self.{part}": f"{layer}.{where}" for part, where in OTHERS[packed].items()}
            readers |= {f"{layer}.{part}.dense": f"{layer}.{part}.LayerNorm.sum" for part in ("attention.output", "output")}
    found = model.rounded_tensors()
    assert {source: model.readers(result) for source, result in found.items()} == {k: {v} for k, v in readers.items()}
    for source, result in found.items():
        assert model.scale(result) == pytest.approx(amax[source] / 127, rel=1e-6)

    # Residuals travel unrounded: besides what rounds it, only the next sum reads a layer norm's output.
    assert model.readers("bert.embeddings") == {"bert.embeddings.int8", f"{LAYER}.attention.output.LayerNorm.sum"}
    norm = f"{LAYER}.attention.output.LayerNorm"
    assert model.readers(norm) == {f"{norm}.int8", f"{LAYER}.output.LayerNorm.sum"}
    assert model.readers(FINAL) == {"qa_outputs.product"}


def test_weights_are_int8_by_output_channel(packed: bool, projections: bool) -> None:
    model = random_model(small_config(), 1)
    amax = ranges.of_projections(EVERY, SITES) if projections else EVERY
    found = Inspected(blob_of(weights_of(model), small_config(), amax, packed))
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
