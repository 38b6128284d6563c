"""TensorRT engines against ONNX Runtime ones of the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import engine_file
from helpers.backends.base import Session
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.commands.perf import random_batch
from helpers.config import BertConfig
from helpers.layouts import Batch, Packed, Profile
from helpers.quantization.calibration import calibrate
from helpers.quantization.sparsity import prune
from helpers.sites import bert_sites
from helpers.weights import BertWeights, random_weights
from tests.batches import onnx_blob
from tests.tensorrt_engines import NARROW, WIDE, Engines, Heard, build, lively, opened, ragged, request_for

pytestmark = pytest.mark.gpu

PRECISIONS = pytest.mark.parametrize(("fp16", "bound"), [(False, 1e-4), (True, 2e-2)], ids=["float32", "float16"])
HEADS = pytest.mark.parametrize("config", [WIDE, NARROW], ids=["heads64", "heads32"])


def error(session: Session, reference: Session, batches: list[Batch]) -> float:
    """The largest difference, over the largest logit."""
    pairs = zip(session.stream(batches), reference.stream(batches))
    return max(float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs)


def noise(found: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of what differs, in standard deviations of what is expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / expected.var()))


def reference_of(weights: BertWeights, config: BertConfig, path: Path) -> Session:
    path.write_bytes(onnx_blob(weights, config, [Profile(64, 512)]))
    return OnnxRuntimeSession(path)


# Padded and packed


@HEADS
@PRECISIONS
@pytest.mark.parametrize("length", [96, 200, 384], ids=str)
def test_logits_equal_onnxruntime(engines: Engines, config: BertConfig, fp16: bool, bound: float, length: int) -> None:
    heard = Heard()
    path = engines.build(config, [Profile(4, length)], fp16, progress=heard)
    batches = [ragged(size, length, seed) for seed, size in enumerate((4, 1, 3, 4, 2, 4))]
    assert error(opened(path, "tensorrt"), engines.reference(config), batches) < bound
    slow = [text for text in heard.warnings if "fused attention has no kernel" in text]
    assert len(slow) == (1 if fp16 and length == 200 else 0), heard.warnings


@PRECISIONS
def test_several_profiles_in_one_engine(engines: Engines, fp16: bool, bound: float) -> None:
    profiles = [Profile(1, 64), Profile(8, 64), Profile(1, 128), Profile(8, 128)]
    session = opened(engines.build(WIDE, profiles, fp16))
    assert session.layout.profiles == profiles
    batches = [ragged(size, length, size) for size, length in ((8, 128), (1, 64), (5, 64), (1, 128), (8, 64), (2, 128))]
    assert error(session, engines.reference(WIDE), batches) < bound


@HEADS
def test_packed_equals_onnxruntime(engines: Engines, config: BertConfig) -> None:
    profiles = [Profile(2, 384), Profile(8, 384)]
    session = opened(engines.build(config, profiles, fp16=True, packed=True), "tensorrt")
    assert isinstance(session.layout, Packed)
    assert session.layout.profiles == profiles
    lengths = [[384] * 8, [1], [1] * 48, [64] * 48, [384, 1, 300], [5, 77, 130, 64, 65], [384] * 2, [200, 257, 12]]
    batches = [random_batch(each, 200, seed) for seed, each in enumerate(lengths)]
    assert error(session, engines.reference(config), batches) < 2e-2


def test_length_512_in_float32_and_511_in_float16(engines: Engines) -> None:
    for length, fp16, bound in ((512, False, 1e-4), (511, True, 2e-2)):
        session = opened(engines.build(WIDE, [Profile(2, length)], fp16), "tensorrt")
        assert error(session, engines.reference(WIDE), [ragged(2, length, 1)]) < bound


# Int8

INT8_CONFIG = BertConfig(200, 768, 2, 12, 1536, 512, hidden_act="gelu_new")  # a hidden size that every int8 plugin takes


@pytest.fixture(scope="module")
def int8_model() -> tuple[BertWeights, dict[str, float]]:
    weights = random_weights(INT8_CONFIG, 2)
    windows = [random_batch([length], 200, length) for length in (40, 128, 77, 101)]
    return weights, calibrate(weights, INT8_CONFIG, bert_sites(INT8_CONFIG.num_hidden_layers), windows)


@pytest.mark.parametrize(
    ("layout", "flags"),
    [
        ("padded", ()),
        ("padded", ("int8_attention",)),
        ("padded", ("int8_skip_layer_norm",)),
        ("padded", ("int8_attention", "int8_skip_layer_norm")),
        ("padded", ("int8_attention", "int8_skip_layer_norm", "output_gemm")),
        ("packed", ()),
        ("interleaved", ()),
    ],
    ids=["projections", "imh", "iln", "imh-iln", "imh-iln-g", "packed", "interleaved"],
)
def test_int8_is_close_to_float32(
    int8_model: tuple[BertWeights, dict[str, float]], tmp_path: Path, layout: str, flags: tuple[str, ...]
) -> None:
    weights, ranges = int8_model
    request = request_for(
        [Profile(4, 128)],
        packed=layout != "padded",
        interleaved=layout == "interleaved",
        fp16=True,
        int8=True,
        strict=layout == "padded",
        **dict.fromkeys(flags, True),
    )
    engine_file.save(tmp_path / "int8", build(weights, INT8_CONFIG, request, ranges=ranges))
    batch = random_batch([128, 5, 77, 128], 200, 9)
    [ours] = opened(tmp_path / "int8", "tensorrt").stream([batch])
    [theirs] = reference_of(weights, INT8_CONFIG, tmp_path / "float32").stream([batch])
    assert 1e-4 < noise(ours, theirs) < 0.15  # 8 bits are neither float32 nor noise


MEGATRON_SHAPES = {
    "2 layers of 768": INT8_CONFIG,
    "24 layers of 1024": BertConfig(200, 1024, 24, 16, 4096, 512, hidden_act="gelu_new"),
}


@pytest.mark.parametrize("config", MEGATRON_SHAPES.values(), ids=MEGATRON_SHAPES)
def test_megatron_is_as_near_to_float32_as_its_rounding(config: BertConfig, tmp_path: Path) -> None:
    """As near to float32 as the same rounding is on ONNX Runtime, where it is 0.12 for 2 layers and 0.23 for 24."""
    weights = lively(config, 2, 2, 3)  # residuals matter too
    windows = [random_batch([length], 200, length) for length in (40, 128, 77)]
    ranges = calibrate(weights, config, bert_sites(config.num_hidden_layers, megatron=True), windows)
    profiles = [Profile(4, 128)]
    request = request_for(profiles, packed=True, interleaved=True, megatron=True, fp16=True, int8=True)
    batches = [random_batch(lengths, 200, 9) for lengths in ([128, 5, 77, 128], [1], [64] * 8)]

    def logits(name: str, blob: bytes) -> np.ndarray:
        (tmp_path / name).write_bytes(blob)
        return np.concatenate(list(opened(tmp_path / name).stream(batches)))

    expected = logits("float32", onnx_blob(weights, config, profiles, packed=True, megatron=True))
    bert = logits("bert", onnx_blob(weights, config, profiles, packed=True))
    on_cpu = logits("int8", onnx_blob(weights, config, profiles, packed=True, ranges=ranges, megatron=True))
    found = logits("tensorrt", bytes(build(weights, config, request, Heard(pytest.fail), ranges).blob))
    ours, theirs, between = noise(found, expected), noise(on_cpu, expected), noise(found, on_cpu)
    alike = min(float(np.corrcoef(found[:, i], expected[:, i])[0, 1]) for i in (0, 1))
    print(f"noise of TensorRT {ours:.4f}, of ONNX Runtime {theirs:.4f}, between them {between:.4f}; correlation {alike:.4f}")
    assert 1e-3 < ours < 1.5 * theirs + 0.02
    assert between < 2 * theirs + 0.02
    assert alike > 0.9
    assert noise(bert, expected) > 3 * theirs  # or the bounds would not tell one network from the other


def test_sparse_equals_dense(tmp_path: Path) -> None:
    """A pruned model, with kernels for 2:4 sparsity and without."""
    weights = prune(lively(WIDE))
    sessions = {}
    for sparse in (False, True):
        path = tmp_path / f"{sparse}.engine"
        engine_file.save(path, build(weights, WIDE, request_for([Profile(4, 128)], fp16=True, sparse=sparse)))
        sessions[sparse] = opened(path, "tensorrt")
    reference = reference_of(weights, WIDE, tmp_path / "onnx")
    batches = [ragged(size, 128, size) for size in (4, 1, 3)]
    assert error(sessions[True], sessions[False], batches) < 2e-2
    assert error(sessions[True], reference, batches) < 2e-2


# Layer norm


def test_epsilon_of_ordinary_activations(tmp_path: Path) -> None:
    """Where variances are about 1, whatever small epsilon the plugins have is as good as the checkpoint's."""
    tensors = lively(WIDE).tensors()
    ordinary = {name: array * np.float32(7 if "_embeddings" in name else 1) for name, array in tensors.items()}
    weights, batches = BertWeights.from_tensors(ordinary), [ragged(size, 128, size) for size in (4, 1, 3)]
    word, position, token_type = weights.embeddings.tables()
    sums = word + position[0] + token_type[0]
    assert 0.5 < np.median(sums.var(1)) < 2
    reference = reference_of(weights, WIDE, tmp_path / "1e-12")
    engine_file.save(tmp_path / "engine", build(weights, WIDE, request_for([Profile(4, 128)], strict=True)))
    assert error(opened(tmp_path / "engine", "tensorrt"), reference, batches) < 1e-4
    coarse = reference_of(weights, replace(WIDE, layer_norm_eps=1e-2), tmp_path / "1e-2")
    assert error(coarse, reference, batches) > 2e-4  # or no epsilon would show
