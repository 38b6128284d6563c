"""The C++ extension and build/perf: built with CMake, then against the PyCUDA session, bit for bit."""

from __future__ import annotations

import importlib.machinery
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

import inference
import inference_c
from helpers import backends
from helpers.backends.tensorrt import extension as extension_module
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.extension import ExtensionSession
from helpers.config import SEQUENCE_CLASSIFICATION, BertConfig
from helpers.errors import InputError
from helpers.layouts import Batch, Packed, Padded, Profile
from helpers.reader import Reader
from tests.backends.tensorrt.building import NVCC, cmake, perf
from tests.batches import of_lengths
from tests.batches import padded as rows_of
from tests.running import MODEL, refused, succeeds
from tests.tensorrt_engines import NARROW, OTHER_TASKS, WIDE, Engines, gpu_memory, held_and_left, opened, ragged

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
needs_cuda = pytest.mark.skipif(not NVCC, reason="the CUDA toolkit is not installed")


# Without a GPU


def test_both_targets_compile_and_link(built: Path) -> None:
    assert os.access(built / "perf", os.X_OK)
    assert importlib.machinery.PathFinder.find_spec("infer_c", [str(built)]) is not None


def fails(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """CMake stopped, and said so; it wraps its lines."""
    assert done.returncode != 0
    for text in says:
        assert text in " ".join(done.stderr.split())


def imitation(folder: Path, *files: str) -> Path:
    """A TensorRT of empty files."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@needs_cmake
def test_cmake_says_what_is_missing_of_tensorrt(tmp_path: Path) -> None:
    root = imitation(tmp_path / "tensorrt", "lib/libnvinfer.so.8")
    (tmp_path / "build").mkdir()
    done = cmake(tmp_path / "build", f"TensorRT_ROOT={root}")
    fails(done, f"NvInfer.h not found in {root}", "-DTensorRT_ROOT", "TENSORRT_ROOT", "The wheel of pip holds no headers")
    imitation(root, "include/NvInfer.h")
    fails(cmake(tmp_path / "build", f"TensorRT_ROOT={root}"), f"libnvinfer_plugin not found in {root}", "-DTensorRT_ROOT")


@needs_cmake
@pytest.mark.parametrize("pattern", ["lib/lib{}.so", "lib64/lib{}.so", "lib/lib{}.so.8", "lib{}.so.8"], ids=str)
def test_where_cmake_finds_tensorrt(tmp_path: Path, pattern: str) -> None:
    files = [pattern.format(name) for name in ("nvinfer", "nvinfer_plugin")]
    root = imitation(tmp_path / "tensorrt", "include/NvInfer.h", *files)
    (tmp_path / "build").mkdir()
    done = cmake(tmp_path / "build", f"TensorRT_ROOT={root}", "CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON")
    assert f"TensorRT: {root}/include, {root}/{files[0]}, {root}/{files[1]}" in done.stdout
    fails(done, "CUDA toolkit not found", "-DCUDAToolkit_ROOT")


@needs_cmake
@needs_cuda
def test_cmake_says_what_is_missing_of_python(tmp_path: Path) -> None:
    root = imitation(tmp_path / "tensorrt", "include/NvInfer.h", "lib/libnvinfer.so", "lib/libnvinfer_plugin.so")
    for folder, definition, says in (
        ("a", "CMAKE_DISABLE_FIND_PACKAGE_pybind11=ON", f"pybind11 not found for {sys.executable}"),
        ("b", "PYTHON_EXECUTABLE=/no/python", "Python /no/python cannot be run: name one with -DPYTHON_EXECUTABLE"),
    ):
        (tmp_path / folder).mkdir()
        fails(cmake(tmp_path / folder, f"TensorRT_ROOT={root}", definition), says)


def test_extension_that_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_module, "BUILD", tmp_path)
    (tmp_path / "infer_c").mkdir()  # a folder of sources is no module
    with pytest.raises(InputError, match=r"build it, mkdir -p build; cd build; cmake \.\. -DPYTHON_EXECUTABLE="):
        extension_module.extension.__wrapped__()
    (tmp_path / f"infer_c{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    with pytest.raises(InputError, match=r"cannot be loaded .*LD_LIBRARY_PATH"):
        extension_module.extension.__wrapped__()


def test_other_engines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(b"\x08\x08")
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(InputError, match="of onnxruntime, which the runtime extension does not run: use inference"):
            backends.open_engine(path, backend, "extension", enable_graph=True)
    with pytest.raises(InputError, match="is an engine of onnxruntime, not of tensorrt"):
        backends.open_engine(path, "tensorrt", "extension", enable_graph=True)
    with pytest.raises(InputError, match="cannot be read"):
        backends.open_engine(tmp_path / "none", "auto", "extension", enable_graph=True)


@pytest.mark.parametrize("script", ["perf.py", "perf_varseqlen.py"])
def test_graphs_are_the_extensions_alone(script: str, tmp_path: Path) -> None:
    """Which is said before the engine is looked for."""
    args = "-e absent.engine --runtime pycuda --enable-graph"
    refused(script, args, tmp_path, "--enable-graph needs --runtime extension, not pycuda")
    refused(script, "-e absent.engine --runtime cuda", tmp_path, "argument --runtime: invalid choice: 'cuda'")
    refused(script, "-e absent.engine --runtime extension --enable-graph", tmp_path, "absent.engine cannot be read")


# With a GPU


@pytest.fixture(scope="module")
def extension(built: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension_module, "BUILD", built)
        yield extension_module.extension()


PROFILES = [Profile(2, 64), Profile(8, 64), Profile(8, 128)]
KINDS = pytest.mark.parametrize(
    ("packed", "fp16"), [(False, False), (False, True), (True, True)], ids=["float32", "float16", "packed"]
)
GRAPH = pytest.mark.parametrize("graph", [False, True], ids=["plain", "graph"])


@pytest.fixture(scope="module")
def padded(engines: Engines) -> Path:
    return engines.build(WIDE, [Profile(4, 64)], fp16=True)


@pytest.fixture(scope="module")
def packed_engine(engines: Engines) -> Path:
    return engines.build(WIDE, [Profile(4, 64)], fp16=True, packed=True)


@pytest.fixture(scope="module")
def twins(engines: Engines) -> Path:
    """An engine for two threads, also where TensorRT gives a profile to one context only."""
    return engines.build(WIDE, [Profile(4, 64), Profile(4, 64)], fp16=True)


def same(ours: ExtensionSession, theirs: Any, batches: list[Batch]) -> None:
    for batch, found, expected in zip(batches, ours.stream(batches), theirs.stream(batches)):
        assert found.dtype == expected.dtype == np.float32
        assert np.array_equal(found, expected), batch.lengths


def shuffled(size: int, length: int, seed: int) -> Batch:
    """Other tokens and another order of the same lengths: of one shape, whatever the seed, padded or packed."""
    lengths = np.random.default_rng(seed).permutation(ragged(size, length, 0).lengths).tolist()
    return of_lengths(lengths, WIDE, seed)


@pytest.mark.gpu
@KINDS
@GRAPH
def test_logits_equal_pycuda_bit_for_bit(engines: Engines, extension: Any, packed: bool, fp16: bool, graph: bool) -> None:
    """Over more shapes than graphs are kept; each comes thrice with other inputs: warm-up, capture, replay."""
    path = engines.build(WIDE, PROFILES, fp16, packed)
    ours, theirs = ExtensionSession(path, graph), opened(path, "tensorrt", runtime="pycuda")
    assert (ours.version, ours.device, ours.backend) == (theirs.version, theirs.device, theirs.backend)
    assert (ours.runtime, theirs.runtime) == ("extension", "pycuda")
    assert type(ours.layout) is type(theirs.layout) is (Packed if packed else Padded)
    assert ours.layout.profiles == theirs.layout.profiles == PROFILES
    shapes = [(size, length) for length in (64, 128) for size in range(1, 9)]
    np.random.default_rng(0).shuffle(shapes)
    same(ours, theirs, [shuffled(*shape, seed) for shape in shapes for seed in range(3)])
    same(ours, theirs, [shuffled(*shape, seed) for seed in range(3, 6) for shape in shapes])
    same(ours, theirs, [shuffled(*shape, seed) for seed in range(6, 12) for shape in shapes[:4]])
    same(ours, theirs, [ragged(*shape, seed) for seed in range(12, 14) for shape in shapes])


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_graphs_of_the_fastest_kernels_in_any_order(extension: Any, tmp_path: Path, packed: bool) -> None:
    """Kernels that small models are not built with may leave something in a context's memory from run to run."""
    sizes = "-s 384 -b 32" if packed else "-s 128 -s 384 -b 1 -b 32"
    succeeds("builder_varseqlen.py" if packed else "builder.py", f"-pt {MODEL} -o one.engine --fp16 {sizes}", tmp_path)
    ours, theirs = ExtensionSession(tmp_path / "one.engine", True), opened(tmp_path / "one.engine", runtime="pycuda")
    generator = np.random.default_rng(0)
    batches = []
    for seed in range(20):
        size, longest = generator.choice([1, 3, 15, 32]), generator.choice([128, 384])
        batches.append(of_lengths(generator.integers(1, longest, size, endpoint=True).tolist(), BertConfig.load(MODEL), seed))
    for _ in range(4):
        generator.shuffle(batches)
        same(ours, theirs, batches)


@pytest.mark.gpu
@GRAPH
def test_heads_that_were_padded_and_lengths_without_fused_attention(engines: Engines, extension: Any, graph: bool) -> None:
    for config, fp16, length in ((NARROW, True, 64), (WIDE, True, 200), (NARROW, False, 96)):
        path = engines.build(config, [Profile(4, length)], fp16)
        batches = [ragged(size, length, seed) for seed in range(3) for size in (4, 1, 3)]
        same(ExtensionSession(path, graph), opened(path, "tensorrt"), batches)


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@OTHER_TASKS
def test_outputs_of_other_tasks(built: Path, extension: Any, tmp_path: Path, task: str, labels: str, packed: bool) -> None:
    config = replace(WIDE, task=task, labels=tuple(labels))
    path = Engines(tmp_path).build(config, PROFILES, fp16=True, packed=packed)
    pooled, width, theirs = task == SEQUENCE_CLASSIFICATION, len(labels) or config.hidden_size, opened(path, runtime="pycuda")
    shapes = [(8, 128), (1, 64), (8, 64), (3, 128)]
    batches = [shuffled(*shape, seed) for shape in shapes for seed in range(4)]  # warm-up, once more, capture, replay
    batches += [of_lengths([1] * 16, WIDE)] * (3 * packed)  # as many as a packed batch takes
    for graph in (False, True):
        ours = ExtensionSession(path, graph)
        assert (ours.layout.width, ours.layout.pooled) == (theirs.layout.width, theirs.layout.pooled) == (width, pooled)
        same(ours, theirs, batches)
    ours = extension.bert_inf(path)
    feed, rows = (packed_feed(), (width, 64)) if packed else (padded_feed(2), (2, 64, width))
    assert ours.run(*feed).shape == ((2, width) if pooled else rows)
    with pytest.raises(ValueError, match="must have"):  # before the shape of its output is asked for
        ours.run(feed[0][None], *feed[1:])
    done = perf(built, "-e", path, "-s", 64, "-b", 2, "-b", 8, "-i", 3, "--end-to-end", "--enable_graph")
    assert (done.returncode, done.stderr) == (0, "")


def padded_feed(size: int = 4, length: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Token ids, segment ids and mask."""
    return list(rows_of(ragged(size, length, seed)))


def packed_feed() -> list[np.ndarray]:
    """Two sequences, of 10 and of 54 tokens."""
    ids = np.arange(64, dtype=np.int32)
    return [ids, ids // 32, np.array([0, 10, 64], np.int32), np.zeros(54, np.int32)]


@pytest.mark.gpu
@GRAPH
def test_what_the_extension_tells(extension: Any, padded: Path, packed_engine: Path, graph: bool) -> None:
    ours = extension.bert_inf(str(padded), 4, 64, graph)
    assert (ours.profiles, ours.packed, ours.width, ours.pooled) == ([(4, 64)], False, 2, False)
    assert ours.device_memory > 0
    for size in (1, 4):
        ours.prepare(size)
        assert ours.run(*padded_feed(size)).shape == (size, 64, 2)
        assert 0 < ours.time(*padded_feed(size)) < 100
    ours = extension.bert_inf(packed_engine, max_batch_size=4, max_sequence_length=64, enable_graph=graph)
    assert (ours.profiles, ours.packed, ours.width, ours.pooled) == ([(4, 64)], True, 2, False)
    ours.prepare(4)
    assert ours.run(*packed_feed()).shape == (2, 64)
    assert 0 < ours.time(*packed_feed()) < 100
    assert 0 < ExtensionSession(padded, graph).timed(ragged(4, 64, 0))() < 100


@pytest.mark.gpu
@GRAPH
def test_timing_leaves_the_logits_alone(extension: Any, padded: Path, graph: bool) -> None:
    ours = extension.bert_inf(padded, enable_graph=graph)
    feeds = [padded_feed(size, seed=seed) for seed in range(3) for size in (1, 4)]
    expected = [ours.run(*feed) for feed in feeds]
    for feed, logits in zip(feeds, expected):
        ours.time(*feeds[0])
        ours.time(*feed)
        assert np.array_equal(ours.run(*feed), logits)


@pytest.mark.gpu
@GRAPH
def test_two_threads_on_one_engine(extension: Any, twins: Path, graph: bool) -> None:
    first = extension.bert_inf(twins, enable_graph=graph)
    second = extension.bert_inf(first.engine, enable_graph=graph)
    feeds = [padded_feed(size, seed=seed) for seed in range(4) for size in (1, 2, 4)]
    expected = {id(one): [one.run(*feed) for feed in feeds] for one in (first, second)}

    def work(one: Any) -> bool:
        return all(np.array_equal(one.run(*feed), logits) for _ in range(100) for feed, logits in zip(feeds, expected[id(one)]))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (first, second))) == [True, True]


@pytest.mark.gpu
def test_threads_may_share_one_object(extension: Any, padded: Path) -> None:
    """They take turns."""
    ours = extension.bert_inf(padded, enable_graph=True)
    feeds = [padded_feed(size) for size in (1, 2, 3, 4)]
    expected = [ours.run(*feed) for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        for number, logits in enumerate(pool.map(lambda i: ours.run(*feeds[i % 4]), range(400))):
            assert np.array_equal(logits, expected[number % 4])


def memory() -> tuple[int, int]:
    """Bytes in use by this process on the host, and by all on the GPU."""
    on_gpu = gpu_memory()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), on_gpu


@pytest.mark.gpu
def test_ten_thousand_replays_take_no_memory(extension: Any, padded: Path) -> None:
    ours = extension.bert_inf(padded, enable_graph=True)
    feeds = itertools.cycle([padded_feed(size) for size in (1, 4)])
    for _ in range(100):
        ours.run(*next(feeds))
    before = memory()
    for _ in range(10_000):
        ours.run(*next(feeds))
    host, device = (now - then for now, then in zip(memory(), before))
    assert host < 4 << 20
    assert device <= 0


@pytest.mark.gpu
def test_sessions_give_their_memory_back(extension: Any, padded: Path) -> None:
    def once() -> None:
        ours = extension.bert_inf(padded, enable_graph=True)
        for size in (1, 2, 3, 4):
            ours.prepare(size)

    for _ in range(3):
        once()
    before = memory()
    for _ in range(20):
        once()
    host, device = (now - then for now, then in zip(memory(), before))
    assert host < 32 << 20
    assert device <= 8 << 20


@pytest.mark.gpu
@GRAPH
def test_padded_arguments_that_are_refused(extension: Any, padded: Path, graph: bool) -> None:
    ours = extension.bert_inf(padded, enable_graph=graph)
    ids, segments, mask = padded_feed()
    expected = ours.run(ids, segments, mask)
    big = padded_feed(5)
    for arrays, message in (
        ((ids.astype(np.int64), segments, mask), "input_ids must be an array of int32, not of int64"),
        ((ids, segments, mask.astype(np.float32)), "input_mask must be an array of int32, not of float32"),
        ((ids, segments, mask.astype(">i4")), "input_mask must be an array of int32"),
        ((ids[0], segments, mask), r"input_ids must have two axes, \[B, S\], not 1"),
        ((ids, segments[:3], mask), "segment_ids must have the shape of input_ids"),
        ((ids, segments, mask[:, :32].copy()), "input_mask must have the shape of input_ids"),
        ((np.asfortranarray(ids), segments, mask), "input_ids must be C-contiguous"),
        ((ids, np.repeat(segments, 2, 1)[:, ::2], mask), "segment_ids must be C-contiguous"),
        (tuple(big), "a batch of 5 × 64 tokens fits none of the engine's profiles, 4 × 64"),
        (tuple(array[:, :32].copy() for array in (ids, segments, mask)), "a batch of 4 × 32 tokens fits none"),
        (tuple(array[:0] for array in (ids, segments, mask)), "a batch of 0 × 64 tokens fits none"),
        (tuple(packed_feed()), "the engine is padded: give input_ids, segment_ids, input_mask"),
    ):
        for call in (ours.run, ours.time):
            with pytest.raises(ValueError, match=message):
                call(*arrays)
    with pytest.raises(TypeError):
        ours.run(ids.tolist(), segments, mask)
    with pytest.raises(TypeError):
        ours.run(ids)
    for size in (0, -1, 5):
        with pytest.raises(ValueError, match=r"batch_size must be from 1|fits none"):
            ours.prepare(size)
    with pytest.raises(InputError, match="a batch of 5 × 64 tokens fits none"):
        list(ExtensionSession(padded, graph).stream([ragged(5, 64, 0)]))
    assert np.array_equal(ours.run(ids, segments, mask), expected)


@pytest.mark.gpu
@GRAPH
def test_packed_arguments_that_are_refused(extension: Any, packed_engine: Path, graph: bool) -> None:
    ours = extension.bert_inf(packed_engine, enable_graph=graph)
    ids, segments, bounds, longest = packed_feed()
    expected = ours.run(ids, segments, bounds, longest)
    rising = "cu_seqlens must rise from 0 to the number of tokens, 64"

    def ending(*numbers: int) -> np.ndarray:
        return np.array(numbers, np.int32)

    for arrays, message in (
        ((ids, segments, bounds.astype(np.int64), longest), "cu_seqlens must be an array of int32, not of int64"),
        ((ids, segments[:63], bounds, longest), "segment_ids must have the shape of input_ids"),
        ((ids[None], segments, bounds, longest), "input_ids must have one axis, not 2"),
        ((ids, segments, ending(1, 10, 64), longest), rising),
        ((ids, segments, ending(0, 10, 63), longest), rising),
        ((ids, segments, ending(0, 64, 64), longest), rising),
        ((ids, segments, ending(0, 70, 64), longest), rising),
        ((ids, segments, ending(0), longest), rising),
        ((ids, segments, ending(), longest), rising),
        ((ids, segments, bounds, longest[:53]), "a sequence of 54 tokens is longer than max_seqlen, 53"),
        ((ids, segments, bounds, np.zeros(65, np.int32)), "the longest of 65 fits none of the engine's profiles, 4 × 64"),
        (tuple(padded_feed()), "the engine is packed: give input_ids, segment_ids, cu_seqlens, max_seqlen"),
    ):
        for call in (ours.run, ours.time):
            with pytest.raises(ValueError, match=message):
                call(*arrays)
    assert np.array_equal(ours.run(ids, segments, bounds, longest), expected)


@pytest.mark.gpu
def test_limits_below_the_engines(extension: Any, engines: Engines) -> None:
    path = engines.build(WIDE, PROFILES, fp16=True)
    ours = extension.bert_inf(path, 4, 64, True)
    assert ours.run(*padded_feed(4)).shape == (4, 64, 2)
    for size, length in ((5, 64), (4, 128)):
        with pytest.raises(ValueError, match="above max_batch_size or max_sequence_length"):
            ours.run(*padded_feed(size, length))
    for limits in ((9, 64), (1, 129), (1, 65), (0, 63), (-1, 64), (1, -64)):
        with pytest.raises(ValueError, match=r"fit none of the engine's profiles, 2 × 64, 8 × 64, 8 × 128|must be from 0"):
            extension.bert_inf(path, *limits, True)


@pytest.mark.gpu
def test_engines_that_cannot_be_loaded(extension: Any, padded: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        extension.bert_inf(tmp_path / "none", 1, 64, True)
    with pytest.raises(IsADirectoryError):
        extension.bert_inf(tmp_path, 1, 64, True)
    whole, path = padded.read_bytes(), tmp_path / "cut"
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"ftrt" + bytes(1000), b"no engine"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cut cannot be loaded, build it again"):
            extension.bert_inf(path, 1, 64, True)
        with pytest.raises(InputError, match="cut cannot be loaded, build it again"):
            ExtensionSession(path, True)
    with pytest.raises(InputError, match="No such file"):
        ExtensionSession(tmp_path / "none", False)


# Closed


@pytest.mark.gpu
@GRAPH
@pytest.mark.parametrize(("kind", "feed"), [("padded", padded_feed), ("packed_engine", packed_feed)], ids=["padded", "packed"])
def test_what_is_closed(request: pytest.FixtureRequest, extension: Any, kind: str, feed: Callable[[], Any], graph: bool) -> None:
    ours = extension.bert_inf(request.getfixturevalue(kind), enable_graph=graph)
    for _ in range(3):
        ours.run(*feed())
    for _ in range(2):  # the second time does no harm
        ours.close()
    for name, arguments in (("run", feed()), ("time", feed()), ("prepare", [1])):
        with pytest.raises(RuntimeError, match=r"^this bert_inf is closed$"):
            getattr(ours, name)(*arguments)
    for name in ("engine", "profiles", "packed", "width", "pooled", "device_memory"):
        with pytest.raises(RuntimeError, match=r"^this bert_inf is closed$"):
            getattr(ours, name)
    assert ours.version.startswith("8.")
    assert ours.device == runtime.gpu()[0]


@pytest.mark.gpu
@GRAPH
def test_one_of_two_on_an_engine_is_closed(extension: Any, twins: Path, graph: bool) -> None:
    first = extension.bert_inf(twins, enable_graph=graph)
    second = extension.bert_inf(first.engine, enable_graph=graph)
    feed = padded_feed()
    expected = first.run(*feed)
    first.close()
    for _ in range(3):
        assert np.array_equal(second.run(*feed), expected)


@pytest.mark.gpu
@GRAPH
def test_closing_waits_for_calls_under_way(extension: Any, padded: Path, graph: bool) -> None:
    """A call on another thread ends well, or finds it closed."""
    ours = extension.bert_inf(padded, enable_graph=graph)
    feed = padded_feed()
    expected = ours.run(*feed)

    def work(_: int) -> object:
        try:
            return np.array_equal(ours.run(*feed), expected)
        except RuntimeError as e:
            return str(e)

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(work, i) for i in range(400)]
        assert results[20].result() is True
        ours.close()
        found = {result.result() for result in results}
    assert {True} <= found <= {True, "this bert_inf is closed"}
    assert work(0) == "this bert_inf is closed"


@pytest.mark.gpu
@GRAPH
def test_close_gives_the_memory_back(engines: Engines, extension: Any, graph: bool) -> None:
    path = engines.build(WIDE, [Profile(64, 384)])  # in float32 the scores of attention take much
    batches = [ragged(size, 384, seed) for size in (64, 63) for seed in range(3)]

    def work() -> Callable[[], object]:
        session = ExtensionSession(path, graph)
        assert len(list(session.stream(batches))) == 6
        session.timed(batches[0])()
        return session.close

    held, left = held_and_left(work)
    assert held > 32 << 20
    assert left <= 8 << 20


@pytest.mark.gpu
@GRAPH
def test_reader_gives_the_memory_back(extension: Any, bundled: Path, graph: bool) -> None:
    def work() -> Callable[[], object]:
        with Reader.open(bundled, runtime="extension", enable_graph=graph) as reader:
            assert reader.session.runtime == "extension"
            assert reader.answer("What is the capital of France?", "Paris is the capital of France.").text == "Paris"
        with pytest.raises(RuntimeError, match="this bert_inf is closed"):
            reader.answer("What is the capital of France?", "Paris is the capital of France.")
        return reader.close  # which keeps it, and has nothing left to do

    held, left = held_and_left(work)
    assert held <= 8 << 20 and left <= 8 << 20


# Scripts


@pytest.mark.gpu
@GRAPH
def test_inference_c_answers_as_inference_does(
    extension: Any, bundled: Path, graph: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    passage = "TensorRT is a high performance deep learning inference platform that delivers low latency."
    asked = ["-e", str(bundled), "-p", passage, "-q", "What is TensorRT?"]
    inference.main(asked)
    expected = capsys.readouterr().out.splitlines()
    inference_c.main([*asked, "--enable-graph"] if graph else asked)
    found = capsys.readouterr().out.splitlines()
    assert found[3:] == expected[3:]
    assert "high performance" in found[3]


TIMES = "".join(
    rf"\t{name}: \d+\.\d{{3}} ms\n" for name in ("Total time", "Average", "Median", "95th percentile", "99th percentile")
)
RUNTIMES = {
    "": ("pycuda", False),
    "--runtime pycuda": ("pycuda", False),
    "--runtime extension": ("extension", False),
    "--enable-graph": ("extension", True),
    "--runtime extension --enable-graph": ("extension", True),
}


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [*RUNTIMES, "--runtime extension --end-to-end", "--enable-graph --end-to-end"], ids=str)
@pytest.mark.parametrize("kind", ["padded", "packed_engine"])
def test_perf_py_tells_what_ran(request: pytest.FixtureRequest, extension: Any, kind: str, flags: str, tmp_path: Path) -> None:
    path, name = request.getfixturevalue(kind), runtime.gpu()[0]
    ran, graph = RUNTIMES[flags.replace(" --end-to-end", "")]
    arguments = ["-e", str(path), "-s", "64", "-b", "1", "-b", "4", "-i", "5", "-w", "3", "--json", "figures.json"]
    printed = succeeds("perf.py", [*arguments, *flags.split()], tmp_path)
    first, rest = printed.split("\n", 1)
    assert first == f"Timing {path} with {ran} on {name}" + (", CUDA graphs" if graph else "")
    rows = "".join(rf"Running 5 iterations with Batch Size: {size}, Sequence Length: 64\n{TIMES}" for size in (1, 4))
    assert re.fullmatch(rows, rest), rest
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["runtime"], figures["enable_graph"], figures["end_to_end"]) == (ran, graph, "--end-to-end" in flags)
    assert (figures["backend"], figures["device"], figures["precision"]) == ("tensorrt", name, "float16")
    assert figures["packed"] == (kind == "packed_engine")
    assert [row["batch_size"] for row in figures["results"]] == [1, 4]
    assert all(0 < row["median_ms"] <= row["p99_ms"] for row in figures["results"])


@pytest.mark.gpu
def test_perf_py_needs_what_it_is_asked_to_time(padded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyCUDA does not stand in for an extension that is not built."""
    monkeypatch.setattr(extension_module, "BUILD", tmp_path / "none")
    monkeypatch.setattr(extension_module, "extension", extension_module.extension.__wrapped__)
    arguments = ["-e", str(padded), "-s", "64", "-i", "1", "-w", "0"]
    for flag in ("--runtime=extension", "--enable-graph"):
        refused("perf.py", [*arguments, flag], tmp_path, "the extension infer_c is not in", "build it, mkdir -p build")
    assert " with pycuda on " in succeeds("perf.py", arguments, tmp_path)


HEADER = r"Engine: .*\nDevice: .*\nVersions: TensorRT 8\..*\nDevice memory: \d+\.\d MiB of activations.*\nTiming: .*\n"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "flags", ["", "--enable_graph", "--end-to-end", "--enable_graph --end-to-end --threads 2", "--threads 2"], ids=str
)
def test_perf_prints_and_writes_what_perf_py_does(built: Path, twins: Path, flags: str, tmp_path: Path) -> None:
    arguments = ["-e", str(twins), "-s", "64", "-b", "1", "-b", "4", "-i", "20", "-w", "2", "-r", "7", "--json"]
    done = perf(built, *arguments, tmp_path / "ours.json", *flags.split())
    assert (done.returncode, done.stderr) == (0, "")
    threads = 2 if "--threads" in flags else 1

    def rows(iterations: int, throughput: str = "") -> str:
        sizes = (f"Batch Size: {size}, Sequence Length: 64" for size in (1, 4))
        return "".join(rf"Running {iterations} iterations with {size}\n{TIMES}{throughput}" for size in sizes)

    throughput = r"\tThroughput: \d+\.\d sequences/s on 2 threads\n" if threads == 2 else ""
    assert re.fullmatch(HEADER + rows(20 * threads, throughput), done.stdout), done.stdout
    printed = succeeds("perf.py", [*arguments, str(tmp_path / "theirs.json")], tmp_path)
    assert re.fullmatch(r"Timing .* with pycuda on .*\n" + rows(20), printed), printed
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "theirs"))
    assert [*ours][:3] == [*theirs][:3] == ["backend", "runtime", "version"]
    assert (ours.pop("runtime"), theirs.pop("runtime")) == ("perf", "pycuda")
    extra = {name: ours.pop(name) for name in ("enable_graph", "end_to_end", "threads", "device_memory")}
    assert (theirs.pop("enable_graph"), theirs.pop("end_to_end")) == (False, False)
    assert extra.pop("device_memory") > 0
    assert extra == {"enable_graph": "graph" in flags, "end_to_end": "end-to-end" in flags, "threads": threads}
    for row in ours["results"]:
        assert ("sequences_per_s" in row) == (threads == 2)
        row.pop("sequences_per_s", None)
        assert row["iterations"] == 20 * threads
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["total_ms"]
        assert row["average_ms"] == pytest.approx(row["total_ms"] / row["iterations"], abs=1e-3)
    assert [[*row] for row in ours["results"]] == [[*row] for row in theirs["results"]]
    assert {**ours, "results": None} == {**theirs, "results": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.json", "theirs.json"]


@pytest.mark.gpu
def test_perf_times_packed_engines(built: Path, packed_engine: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "figures.json"
    done = perf(built, "-e", packed_engine, "-s", 64, "-b", 4, "-b", 2, "-i", 5, "--enable_graph", "--json", json_file)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(json_file.read_text())
    assert (figures["runtime"], figures["packed"], figures["precision"]) == ("perf", True, "float16")
    assert [row["batch_size"] for row in figures["results"]] == [4, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("kind", ["padded", "packed_engine"])
def test_compute_sanitizer_finds_nothing(built: Path, request: pytest.FixtureRequest, tool: str, kind: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    # Calls that TensorRT makes to find out what is there, and that may fail, are no errors.
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
    command += ["--report-api-errors", "no"] if tool == "memcheck" else []
    command += [str(built / "perf"), "-e", str(request.getfixturevalue(kind)), "-s", "64", "-b", "2", "-i", "3"]
    done = subprocess.run([*command, "--enable_graph", "--end-to-end"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "RACECHECK SUMMARY: 0 hazards" in done.stdout, done.stdout


@pytest.mark.gpu
def test_what_perf_refuses(built: Path, twins: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(twins.read_bytes()[:-1])
    for arguments, says in (
        ((), "the following arguments are required: -e/--engine"),
        (("-e", twins, "-b", 0), "argument --batch-size: must be a whole number from 1, not '0'"),
        (("-e", twins, "-i", "x"), "argument --iterations: must be a whole number from 1, not 'x'"),
        (("-e", twins, "-d", -1), "argument --duration: must be a number of seconds from 0, not '-1'"),
        (("-e", twins, "--graph"), "unrecognized arguments: --graph"),
        (("-e", twins, "-b"), "argument -b: expected one argument"),
        (("-e", twins, "-s", 64, "-b", 5), "a batch of 5 × 64 tokens fits none of the engine's profiles, 4 × 64, 4 × 64"),
        (("-e", twins, "-s", 63), "a batch of 1 × 63 tokens fits none"),
        (("-e", tmp_path / "none"), "none cannot be used: No such file or directory"),
        (("-e", tmp_path / "cut"), "cut cannot be loaded, build it again"),
        (("-e", twins, "--json", tmp_path / "none/figures.json"), "cannot write"),
        (("-e", twins, "--json", tmp_path), "cannot write"),
    ):
        done = perf(built, *arguments)
        assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
    done = perf(built, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
