"""The C++ extension and build/perf: built with CMake, then against the PyCUDA session, bit for bit."""

from __future__ import annotations

import gc
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
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import builder
import inference
import inference_c
from helpers import engine
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.sessions import cuda_graph
from helpers.sessions.cuda_graph import CudaGraphSession
from helpers.sessions.layouts import Profile
from helpers.windows import Batch
from tests.test_tensorrt import NARROW, WIDE, Engines, ragged

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/minilm-l6-squad"
NVCC = shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
needs_cuda = pytest.mark.skipif(not NVCC, reason="the CUDA toolkit is not installed")


def cmake(folder: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    """Configures a build in a folder, with no TensorRT but the one that a definition names."""
    command = ["cmake", str(ROOT), f"-DPYTHON_EXECUTABLE={sys.executable}", *(f"-D{text}" for text in definitions)]
    # PYTHONHOME is of the Python under test; a CMake from pip is a script for another one.
    environment = {name: value for name, value in os.environ.items() if name not in ("TENSORRT_ROOT", "PYTHONHOME")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension and perf, built as the README says."""
    if not os.environ.get("TENSORRT_ROOT"):
        pytest.skip("TENSORRT_ROOT does not name a TensorRT with headers and libraries")
    if shutil.which("cmake") is None or not NVCC:
        pytest.skip("CMake and the CUDA toolkit are needed to build the extension")
    folder = tmp_path_factory.mktemp("build")
    done = cmake(folder, f"TensorRT_ROOT={os.environ['TENSORRT_ROOT']}")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["make", "-j2"], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return folder


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
    monkeypatch.setattr(cuda_graph, "BUILD", tmp_path)
    (tmp_path / "infer_c").mkdir()  # a folder of sources is no module
    with pytest.raises(InputError, match=r"build it: mkdir -p build; cd build; cmake \.\. -DPYTHON_EXECUTABLE="):
        cuda_graph.extension.__wrapped__()
    (tmp_path / f"infer_c{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    with pytest.raises(InputError, match=r"cannot be loaded .*LD_LIBRARY_PATH"):
        cuda_graph.extension.__wrapped__()


def test_inference_c_refuses_other_engines(tmp_path: Path) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(b"\x08\x08")
    for backend in ("auto", "onnxruntime", "tensorrt"):
        with pytest.raises(InputError, match="TensorRT engines only: use inference"):
            inference_c.open_session(path, backend, None, enable_graph=True)
    with pytest.raises(InputError, match="cannot be read"):
        inference_c.open_session(tmp_path / "none", "auto", None, enable_graph=True)


# With a GPU


@pytest.fixture(scope="module")
def extension(built: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graph, "BUILD", built)
        yield cuda_graph.extension()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, extension: Any) -> Iterator[Engines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "OPTIMIZATION_LEVEL", 0)
        yield Engines(tmp_path_factory.mktemp("engines"))


PROFILES = [Profile(2, 64), Profile(8, 64), Profile(8, 128)]
KINDS = pytest.mark.parametrize(
    "packed, fp16", [(False, False), (False, True), (True, True)], ids=["float32", "float16", "packed"]
)
GRAPH = pytest.mark.parametrize("graph", [False, True], ids=["plain", "graph"])


@pytest.fixture(scope="module")
def padded(engines: Engines) -> Path:
    return engines.build(WIDE, [Profile(4, 64)], [], fp16=True)


@pytest.fixture(scope="module")
def packed_engine(engines: Engines) -> Path:
    return engines.build(WIDE, [Profile(4, 64)], [], fp16=True, packed=True)


@pytest.fixture(scope="module")
def twins(engines: Engines) -> Path:
    """An engine for two threads, also where TensorRT gives a profile to one context only."""
    path = engines.build(WIDE, [Profile(4, 64), Profile(4, 64)], [], fp16=True)
    options = BuildOptions([Profile(4, 64), Profile(4, 64)], fp16=True)
    description = engine.new_description("tensorrt", options, path, path, WIDE.vocab_size, True)
    engine.save(path, path.read_bytes(), description)
    return path


def same(ours: CudaGraphSession, theirs: Any, batches: list[Batch]) -> None:
    for batch, found, expected in zip(batches, ours.stream(batches), theirs.stream(batches)):
        assert found.dtype == expected.dtype == np.float32
        assert np.array_equal(found, expected), batch.input_ids.shape


@pytest.mark.gpu
@KINDS
@GRAPH
def test_logits_equal_pycuda_bit_for_bit(engines: Engines, packed: bool, fp16: bool, graph: bool) -> None:
    """Over more shapes than graphs are kept; each comes thrice with other inputs: warm-up, capture, replay."""
    path = engines.build(WIDE, PROFILES, [], fp16, packed)
    ours, theirs = CudaGraphSession(path, graph), engine.open_session(path, "tensorrt", None)
    assert (ours.version, ours.device, ours.backend) == (theirs.version, theirs.device, theirs.backend)
    assert type(ours.layout) is type(theirs.layout)
    assert ours.layout.profiles == theirs.layout.profiles
    shapes = [(size, length) for length in (64, 128) for size in range(1, 9)]
    np.random.default_rng(0).shuffle(shapes)
    same(ours, theirs, [ragged(*shape, seed) for shape in shapes for seed in range(3)])
    same(ours, theirs, [ragged(*shape, seed) for seed in range(3, 6) for shape in shapes])
    same(ours, theirs, [ragged(*shape, seed) for seed in range(6, 12) for shape in shapes[:4]])


@pytest.mark.gpu
@GRAPH
def test_heads_that_were_padded_and_lengths_without_fused_attention(engines: Engines, graph: bool) -> None:
    for config, fp16, length in ((NARROW, True, 64), (WIDE, True, 200), (NARROW, False, 96)):
        path = engines.build(config, [Profile(4, length)], [], fp16)
        batches = [ragged(size, length, seed) for seed in range(3) for size in (4, 1, 3)]
        same(CudaGraphSession(path, graph), engine.open_session(path, "tensorrt", None), batches)


def padded_feed(size: int = 4, length: int = 64, seed: int = 0) -> list[np.ndarray]:
    return list(ragged(size, length, seed))


def packed_feed() -> list[np.ndarray]:
    """Two sequences, of 10 and of 54 tokens."""
    ids = np.arange(64, dtype=np.int32)
    return [ids, ids // 32, np.array([0, 10, 64], np.int32), np.zeros(54, np.int32)]


@pytest.mark.gpu
@GRAPH
def test_what_the_extension_tells(extension: Any, padded: Path, packed_engine: Path, graph: bool) -> None:
    ours = extension.bert_inf(str(padded), 4, 64, graph)
    assert (ours.profiles, ours.packed) == ([(4, 64)], False)
    assert ours.device_memory > 0
    for size in (1, 4):
        ours.prepare(size)
        assert ours.run(*padded_feed(size)).shape == (size, 64, 2)
        assert 0 < ours.time(*padded_feed(size)) < 100
    ours = extension.bert_inf(packed_engine, max_batch_size=4, max_sequence_length=64, enable_graph=graph)
    assert (ours.profiles, ours.packed) == ([(4, 64)], True)
    ours.prepare(4)
    assert ours.run(*packed_feed()).shape == (2, 64)
    assert 0 < ours.time(*packed_feed()) < 100
    assert 0 < CudaGraphSession(padded, graph).timed(ragged(4, 64, 0))() < 100


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
    from helpers import trt

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    free, total = trt.cuda().mem_get_info()
    return pages * resource.getpagesize(), total - free


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
        list(CudaGraphSession(padded, graph).stream([Batch(*big)]))
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
    path = engines.build(WIDE, PROFILES, [], fp16=True)
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
            CudaGraphSession(path, True)
    with pytest.raises(InputError, match="No such file"):
        CudaGraphSession(tmp_path / "none", False)


@pytest.mark.gpu
@GRAPH
def test_inference_c_answers_as_inference_does(
    engines: Engines, graph: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "qa.engine"
    builder.main(["-pt", str(MODEL), "-o", str(path), "-s", "128", "-b", "4", "--fp16"])
    passage = "TensorRT is a high performance deep learning inference platform that delivers low latency."
    asked = ["-e", str(path), "-p", passage, "-q", "What is TensorRT?"]
    capsys.readouterr()
    inference.main(asked)
    expected = capsys.readouterr().out.splitlines()
    inference_c.main([*asked, "--enable-graph"] if graph else asked)
    found = capsys.readouterr().out.splitlines()
    assert found[3:] == expected[3:]
    assert "high performance" in found[3]


def perf(built: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(built / "perf"), *map(str, arguments)], capture_output=True, encoding="utf-8")


TIMES = "".join(
    rf"\t{name}: \d+\.\d{{3}} ms\n" for name in ("Total time", "Average", "Median", "95th percentile", "99th percentile")
)
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
    throughput = r"\tThroughput: \d+\.\d sequences/s on 2 threads\n" if threads == 2 else ""
    rows = "".join(
        rf"Running {20 * threads} iterations with Batch Size: {size}, Sequence Length: 64\n{TIMES}{throughput}" for size in (1, 4)
    )
    assert re.fullmatch(HEADER + rows, done.stdout), done.stdout
    command = [sys.executable, str(ROOT / "perf.py"), *arguments, str(tmp_path / "theirs.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "theirs"))
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
    path = tmp_path / "packed.engine"
    options = BuildOptions([Profile(4, 64)], fp16=True, packed=True)
    description = engine.new_description("tensorrt", options, path, path, WIDE.vocab_size, True)
    engine.save(path, packed_engine.read_bytes(), description)
    done = perf(built, "-e", path, "-s", 64, "-b", 4, "-b", 2, "-i", 5, "--enable_graph", "--json", tmp_path / "figures.json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["packed"], figures["precision"]) == (True, "float16")
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
