"""TensorRT engines against ONNX Runtime ones of the same weights, and what the GPU alone can refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import engine
from helpers.benchmark import random_batch
from helpers.calibrator import calibrate
from helpers.config import BertConfig
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.graphs import Int8
from helpers.sessions import Session
from helpers.sessions.layouts import Packed, Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.transforms import prune
from helpers.weights import BertWeights, random_weights
from helpers.windows import Batch

pytestmark = pytest.mark.gpu

WIDE = BertConfig(200, 128, 2, 2, 256, 512)  # heads of 64
NARROW = BertConfig(200, 96, 2, 3, 256, 512)  # heads of 32, which float16 pads


def lively(config: BertConfig, seed: int = 1, scale: float = 4, scale_of_scores: float = 4) -> BertWeights:
    """Random weights that are large enough for attention to prefer some tokens over others."""

    def size(name: str) -> np.float32:
        return np.float32(1 if "LayerNorm" in name else scale_of_scores if ".query." in name or ".key." in name else scale)

    return BertWeights.from_tensors({name: array * size(name) for name, array in random_weights(config, seed).tensors().items()})


def noise(found: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of what differs, in standard deviations of what is expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / expected.var()))


def ragged(size: int, length: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, size)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = generator.integers(0, 200, (size, length)).astype(np.int32)
    return Batch(ids * mask, generator.integers(0, 2, (size, length)).astype(np.int32) * mask, mask)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def build(weights: BertWeights, config: BertConfig, options: BuildOptions, warnings: list[str]) -> bytes:
    """An engine whose sizes have been looked at first, as builder.py does."""
    weights = engine.fit(weights, config, "tensorrt", options.fp16 or options.int8 is not None)
    engine.check_kernels(options, config, weights, warnings.append)
    return engine.build(weights, config, "tensorrt", options, warnings.append)


class Engines:
    """Builds each engine once a test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(
        self, config: BertConfig, profiles: list[Profile], warnings: list[str], fp16: bool = False, packed: bool = False
    ) -> Path:
        path = self.folder / f"{config.hidden_size}-{profiles}-{fp16}-{packed}".replace(" ", "")
        if not path.exists():
            options = BuildOptions(profiles, packed=packed, fp16=fp16, strict=not fp16)
            path.write_bytes(build(lively(config), config, options, warnings))
        return path

    def reference(self, config: BertConfig) -> Session:
        path = self.folder / f"{config.hidden_size}.onnx"
        path.write_bytes(engine.build_onnx(lively(config), config, BuildOptions([Profile(64, 512)])))
        return OnnxRuntimeSession(path)


@pytest.fixture(scope="module", autouse=True)
def quick_builds() -> Iterator[None]:
    """The first kernel that works, not the fastest: these tests ask what engines compute, not how fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "OPTIMIZATION_LEVEL", 0)
        yield


@pytest.fixture(scope="module")
def engines(folder: Path) -> Engines:
    return Engines(folder)


def error(session: Session, reference: Session, batches: list[Batch]) -> float:
    """The largest difference at tokens that are not padding, over the largest logit."""
    worst = 0.0
    for batch, ours, theirs in zip(batches, session.stream(batches), reference.stream(batches)):
        seen = batch.input_mask.astype(bool)
        worst = max(worst, float(np.abs(ours - theirs)[seen].max() / np.abs(theirs[seen]).max()))
    return worst


@pytest.mark.parametrize("config", [WIDE, NARROW], ids=["heads64", "heads32"])
@pytest.mark.parametrize("fp16, bound", [(False, 1e-4), (True, 2e-2)], ids=["float32", "float16"])
@pytest.mark.parametrize("length", [96, 200, 384], ids=str)
def test_logits_equal_onnxruntime(engines: Engines, config: BertConfig, fp16: bool, bound: float, length: int) -> None:
    warnings: list[str] = []
    path = engines.build(config, [Profile(4, length)], warnings, fp16)
    batches = [ragged(size, length, seed) for seed, size in enumerate((4, 1, 3, 4, 2, 4))]
    assert error(engine.open_session(path, "tensorrt", None), engines.reference(config), batches) < bound
    slow = [text for text in warnings if "fused attention has no kernel" in text]
    assert len(slow) == (1 if fp16 and length == 200 else 0), warnings


@pytest.mark.parametrize("fp16, bound", [(False, 1e-4), (True, 2e-2)], ids=["float32", "float16"])
def test_several_profiles_in_one_engine(engines: Engines, fp16: bool, bound: float) -> None:
    profiles = [Profile(1, 64), Profile(8, 64), Profile(1, 128), Profile(8, 128)]
    session = engine.open_session(engines.build(WIDE, profiles, [], fp16), "auto", None)
    assert session.layout.profiles == profiles
    batches = [ragged(size, length, size) for size, length in ((8, 128), (1, 64), (5, 64), (1, 128), (8, 64), (2, 128))]
    assert error(session, engines.reference(WIDE), batches) < bound
    with pytest.raises(InputError, match="a batch of 9 × 64 tokens fits none"):
        list(session.stream([ragged(9, 64, 0)]))


@pytest.mark.parametrize("config", [WIDE, NARROW], ids=["heads64", "heads32"])
def test_packed_equals_onnxruntime(engines: Engines, config: BertConfig) -> None:
    profiles = [Profile(2, 384), Profile(8, 384)]
    session = engine.open_session(engines.build(config, profiles, [], fp16=True, packed=True), "tensorrt", None)
    assert isinstance(session.layout, Packed)
    assert session.layout.profiles == profiles
    lengths = [[384] * 8, [1], [1] * 48, [64] * 48, [384, 1, 300], [5, 77, 130, 64, 65], [384] * 2, [200, 257, 12]]
    batches = [random_batch(each, max(each), 200, seed) for seed, each in enumerate(lengths)]
    assert error(session, engines.reference(config), batches) < 2e-2


INT8_CONFIG = BertConfig(200, 768, 2, 12, 1536, 512)  # a hidden size that every int8 plugin takes


@pytest.fixture(scope="module")
def int8_model() -> tuple[BertWeights, dict[str, float]]:
    weights = random_weights(INT8_CONFIG, 2)
    windows = [random_batch([length], length, 200, length) for length in (40, 128, 77, 101)]
    return weights, calibrate(weights, INT8_CONFIG, windows)


@pytest.mark.parametrize(
    "layout, flags",
    [
        ("padded", (False, False, False)),
        ("padded", (True, False, False)),
        ("padded", (False, True, False)),
        ("padded", (True, True, False)),
        ("padded", (True, True, True)),
        ("packed", (True, True, False)),
        ("interleaved", (True, True, False)),
    ],
    ids=["projections", "imh", "iln", "imh-iln", "imh-iln-g", "packed", "interleaved"],
)
def test_int8_is_close_to_float32(
    int8_model: tuple[BertWeights, dict[str, float]], tmp_path: Path, layout: str, flags: tuple[bool, bool, bool]
) -> None:
    weights, ranges = int8_model
    options = BuildOptions(
        [Profile(4, 128)],
        packed=layout != "padded",
        interleaved=layout == "interleaved",
        fp16=True,
        int8=Int8(ranges, *flags),
        strict=layout == "padded",
    )
    (tmp_path / "int8").write_bytes(build(weights, INT8_CONFIG, options, []))
    (tmp_path / "float").write_bytes(engine.build_onnx(weights, INT8_CONFIG, BuildOptions([Profile(4, 128)])))
    session = engine.open_session(tmp_path / "int8", "tensorrt", None)
    reference = engine.open_session(tmp_path / "float", "onnxruntime", None)
    batch = random_batch([128, 5, 77, 128], 128, 200, 9)
    seen = batch.input_mask.astype(bool)
    ours, theirs = next(session.stream([batch]))[seen], next(reference.stream([batch]))[seen]
    assert 1e-4 < noise(ours, theirs) < 0.15  # 8 bits are neither float32 nor noise


MEGATRON_SHAPES = {
    "2 layers of 768": BertConfig(200, 768, 2, 12, 1536, 512),
    "24 layers of 1024": BertConfig(200, 1024, 24, 16, 4096, 512),
}


@pytest.mark.parametrize("config", MEGATRON_SHAPES.values(), ids=MEGATRON_SHAPES)
def test_megatron_is_as_near_to_float32_as_its_rounding(config: BertConfig, tmp_path: Path) -> None:
    """As near to float32 as the same rounding is on ONNX Runtime, where it is 0.12 for 2 layers and 0.23 for 24."""
    weights = lively(config, 2, 2, 3)  # residuals matter too
    windows = [random_batch([length], length, 200, length) for length in (40, 128, 77)]
    int8 = Int8(calibrate(weights, config, windows, megatron=True), True, True)
    options = BuildOptions([Profile(4, 128)], packed=True, interleaved=True, megatron=True, fp16=True, int8=int8)
    engine.check_kernels(options, config, weights, pytest.fail)
    batches = [random_batch(lengths, max(lengths), 200, 9) for lengths in ([128, 5, 77, 128], [1], [64] * 8)]

    def logits(name: str, backend: str, options: BuildOptions) -> np.ndarray:
        path = tmp_path / name
        path.write_bytes(engine.build(weights, config, backend, options, print))
        session = engine.open_session(path, backend, None)
        return np.concatenate([found[b.input_mask == 1] for b, found in zip(batches, session.stream(batches))])

    expected = logits("float32", "onnxruntime", replace(options, int8=None))
    bert = logits("bert", "onnxruntime", replace(options, int8=None, megatron=False))
    on_cpu = logits("int8", "onnxruntime", options)
    found = logits("tensorrt", "tensorrt", options)
    ours, theirs, between = noise(found, expected), noise(on_cpu, expected), noise(found, on_cpu)
    alike = min(float(np.corrcoef(found[:, i], expected[:, i])[0, 1]) for i in (0, 1))
    print(f"noise of TensorRT {ours:.4f}, of ONNX Runtime {theirs:.4f}, between them {between:.4f}; correlation {alike:.4f}")
    assert 1e-3 < ours < 1.5 * theirs + 0.02
    assert between < 2 * theirs + 0.02
    assert alike > 0.9
    assert noise(bert, expected) > 3 * theirs  # or the bounds would not tell one network from the other


def test_packed_refuses_what_does_not_fit(engines: Engines) -> None:
    session = engine.open_session(engines.build(WIDE, [Profile(2, 384), Profile(8, 384)], [], True, packed=True), "auto", None)
    for lengths, message in (
        ([384] * 9, "9 sequences of 3456 tokens"),
        ([1] * 49, "49 sequences of 49 tokens"),
        ([385], "1 sequences of 385 tokens, the longest of 385, do not fit the engine"),
    ):
        with pytest.raises(InputError, match=message):
            list(session.stream([random_batch(lengths, max(lengths), 200, 0)]))


def test_length_512_in_float32_and_511_in_float16(engines: Engines) -> None:
    for length, fp16, bound in ((512, False, 1e-4), (511, True, 2e-2)):
        session = engine.open_session(engines.build(WIDE, [Profile(2, length)], [], fp16), "tensorrt", None)
        assert error(session, engines.reference(WIDE), [ragged(2, length, 1)]) < bound


def test_sparse_equals_dense(tmp_path: Path) -> None:
    """A pruned model, with kernels for 2:4 sparsity and without."""
    weights = prune(lively(WIDE))
    engines = {}
    for sparse in (False, True):
        path = tmp_path / f"{sparse}.engine"
        path.write_bytes(build(weights, WIDE, BuildOptions([Profile(4, 128)], fp16=True, sparse=sparse), []))
        engines[sparse] = engine.open_session(path, "tensorrt", None)
    (tmp_path / "onnx").write_bytes(engine.build_onnx(weights, WIDE, BuildOptions([Profile(4, 128)])))
    reference = OnnxRuntimeSession(tmp_path / "onnx")
    batches = [ragged(size, 128, size) for size in (4, 1, 3)]
    assert error(engines[True], engines[False], batches) < 2e-2
    assert error(engines[True], reference, batches) < 2e-2


def test_weight_beyond_float16() -> None:
    weights = lively(WIDE)
    weights.layers[1].output.weight[3, 4] = -1e5
    build(weights, WIDE, BuildOptions([Profile(1, 64)]), [])
    with pytest.raises(InputError, match=r"^bert.encoder.layer.1.output.dense.weight holds 100000, .* build without --fp16$"):
        build(weights, WIDE, BuildOptions([Profile(1, 64)], fp16=True), [])


def test_workspace_too_small_says_what_is_needed() -> None:
    options = BuildOptions([Profile(64, 512)], workspace_mib=1)
    with pytest.raises(InputError, match=r"a workspace of 1 MiB is too small.*need \d+ MiB.*raise -w"):
        engine.build(lively(WIDE), WIDE, "tensorrt", options, print)


def test_damaged_and_foreign_engines(engines: Engines, tmp_path: Path) -> None:
    whole = engines.build(WIDE, [Profile(4, 64)], [], fp16=True).read_bytes()
    path = tmp_path / "cut"
    for keep in (5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="cut cannot be loaded, build it again"):
            engine.open_session(path, "auto", None)
    path.write_bytes(b"ftrt" + bytes(1000))
    with pytest.raises(InputError, match="cannot be loaded, build it again"):
        engine.open_session(path, "auto", None)


def test_engine_of_another_version_or_gpu(engines: Engines, tmp_path: Path) -> None:
    path = tmp_path / "engine"
    options = BuildOptions([Profile(4, 64)], fp16=True)
    description = engine.new_description("tensorrt", options, tmp_path, tmp_path, 200, True)
    engine.save(path, engines.build(WIDE, [Profile(4, 64)], [], fp16=True).read_bytes(), description)
    assert engine.open_session(path, "auto", engine.describe(path)).backend == "tensorrt"
    for changes in ({"version": "8.4.3"}, {"gpu": "NVIDIA A30"}):
        fields = json.loads(engine.description_path(path).read_text())
        engine.description_path(path).write_text(json.dumps({**fields, **changes}))
        with pytest.raises(InputError, match=next(iter(changes.values())) + ".*here are TensorRT"):
            engine.open_session(path, "auto", engine.describe(path))
        engine.description_path(path).write_text(json.dumps(fields))


def test_useless_timing_cache_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"not a timing cache")
    warnings: list[str] = []
    options = BuildOptions([Profile(1, 64)], fp16=True, timing_cache=cache)
    engine.build(lively(WIDE), WIDE, "tensorrt", options, warnings.append)
    assert [f"timing cache {cache} is not of TensorRT" in text for text in warnings] == [True]
    warnings.clear()
    engine.build(lively(WIDE), WIDE, "tensorrt", options, warnings.append)
    assert warnings == []


def test_out_of_gpu_memory_says_what_was_asked_for(engines: Engines) -> None:
    from helpers import trt

    path = engines.build(WIDE, [Profile(4, 64)], [], fp16=True)
    cuda = trt.cuda()
    taken = []
    size = 1 << 36
    while size >= 1 << 20:
        try:
            taken.append(cuda.mem_alloc(size))
        except cuda.MemoryError:
            size >>= 1
    try:
        with pytest.raises(InputError, match=r"out of GPU memory: .* need .* MiB, free are"):
            sessions = [engine.open_session(path, "auto", None) for _ in range(50)]
            del sessions
    finally:
        for memory in taken:
            memory.free()
