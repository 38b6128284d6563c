"""Engine files on ONNX Runtime: saved, described, recognised, opened, and how windows are scheduled on them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import MISSING, asdict, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import engine
from helpers.engine import BuildOptions, Description
from helpers.errors import InputError
from helpers.graphs.onnx import OPSET
from helpers.sessions.layouts import LENGTH_CLASSES, Layout, Packed, Padded, Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.weights import random_weights
from helpers.windows import Batch
from tests.models import small_config

PROFILES = [Profile(4, 16), Profile(8, 16), Profile(3, 32), Profile(1, 64)]
TENSORRT_IS_HERE = importlib.util.find_spec("tensorrt") is not None


def build(profiles: list[Profile]) -> bytes:
    config = small_config()
    return engine.build_onnx(random_weights(config), config, BuildOptions(profiles))


@pytest.fixture(scope="module")
def blob() -> bytes:
    return build(PROFILES)


@pytest.fixture
def saved(tmp_path: Path, blob: bytes) -> Path:
    """An engine with its description."""
    path = tmp_path / "small.engine"
    engine.save(path, blob, describing(PROFILES))
    return path


def describing(profiles: list[Profile], **changes: Any) -> Description:
    options = BuildOptions(profiles, fp16=True)
    made = engine.new_description("onnxruntime", options, Path("model.ckpt"), Path("vocab.txt"), 60, True)
    return Description(**{**asdict(made), **changes})


# Saved and described


def test_save_and_describe(saved: Path, blob: bytes) -> None:
    assert sorted(path.name for path in saved.parent.iterdir()) == ["small.engine", "small.engine.json"]
    assert saved.read_bytes() == blob
    assert engine.describe(saved) == describing(PROFILES, size=len(blob))
    assert json.loads(engine.description_path(saved).read_text(encoding="utf-8"))["size"] == len(blob)


def test_what_a_description_says(saved: Path) -> None:
    found = engine.describe(saved)
    assert found is not None
    assert (found.backend, found.version, found.gpu, found.compute_capability) == ("onnxruntime", f"opset {OPSET}", None, None)
    assert found.precision == "float32"  # whatever was asked for
    assert (found.profiles, found.vocab_size, found.lower_case) == ([[4, 16], [8, 16], [3, 32], [1, 64]], 60, True)
    assert Path(found.checkpoint) == Path("model.ckpt").resolve()
    assert Path(found.vocab_file) == Path("vocab.txt").resolve()


def test_save_replaces_both(saved: Path) -> None:
    other = build([Profile(2, 8)]) + b"\x72\x00"  # field 14 without content
    engine.save(saved, other, describing([Profile(2, 8)], lower_case=False))
    assert saved.read_bytes() == other
    assert engine.describe(saved) == describing([Profile(2, 8)], lower_case=False, size=len(other))


def test_a_save_that_fails_leaves_no_description_of_another_engine(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "small.engine"
    path.mkdir()
    (path / "kept").touch()
    engine.description_path(path).write_text("{}")
    with pytest.raises(InputError, match=r"cannot write .*small.engine: "):
        engine.save(path, blob, describing(PROFILES))
    assert [each.name for each in tmp_path.iterdir()] == ["small.engine"]


def test_an_engine_without_a_description(saved: Path) -> None:
    engine.description_path(saved).unlink()
    assert engine.describe(saved) is None
    assert engine.describe(saved.with_name("none")) is None


def test_a_description_of_another_size(saved: Path, blob: bytes) -> None:
    for content in (blob[:-1], blob + b"\0", b""):
        saved.write_bytes(content)
        with pytest.raises(InputError) as error:
            engine.describe(saved)
        assert str(error.value) == (
            f"engine {saved} has {len(content)} bytes, but small.engine.json says {len(blob)}: "
            "it is truncated or was replaced; build it again"
        )


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"5", b'"text"', b"{}", b"\xff\xfe", b'{"size": 1}'])
def test_a_description_that_is_none(saved: Path, content: bytes) -> None:
    engine.description_path(saved).write_bytes(content)
    with pytest.raises(InputError, match=r"small.engine.json does not describe an engine \(.+\): remove it"):
        engine.describe(saved)


def check_malformed(saved: Path, changes: dict[str, Any], without: str = "") -> None:
    path = engine.description_path(saved)
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    values.pop(without, None)
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"small.engine.json does not describe an engine \(.+\): remove it"):
        engine.describe(saved)


@pytest.mark.parametrize("name", [field.name for field in fields(Description) if field.default is MISSING])
def test_a_description_that_lacks_something(saved: Path, name: str) -> None:
    check_malformed(saved, {}, without=name)


def test_a_description_that_says_more(saved: Path) -> None:
    check_malformed(saved, {"colour": "red"})


@pytest.mark.parametrize("profiles", [[], None, 5, [1, 2], [[1]], [[1, 2, 3]], [["a", 2]], [[None, 2]]])
def test_a_description_with_malformed_profiles(saved: Path, profiles: Any) -> None:
    check_malformed(saved, {"profiles": profiles})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_file", None),
        ("vocab_file", 5),
        ("vocab_size", "60"),
        ("vocab_size", None),
        ("lower_case", "false"),
        ("lower_case", None),
        ("profiles", [[0, 16]]),
        ("profiles", [[4, 0]]),
    ],
)
def test_a_description_with_a_value_of_the_wrong_kind(saved: Path, name: str, value: Any) -> None:
    """These are what scripts rely on."""
    check_malformed(saved, {name: value})


# Recognised


def test_recognise_an_onnx_model(saved: Path) -> None:
    assert engine.recognise(saved) == "onnxruntime"


@pytest.mark.parametrize("magic", [b"ftrt", b"ptrt"])
def test_recognise_a_plan(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "plan"
    path.write_bytes(magic + bytes(100))
    assert engine.recognise(path) == "tensorrt"


@pytest.mark.parametrize("content", [b"", b"ftr", b"trtf", b"PK\x03\x04", b"# text\n", b"\0\x08", b"{}"])
def test_what_is_not_an_engine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for call in (lambda: engine.recognise(path), lambda: engine.open_session(path, "auto", None)):
        with pytest.raises(InputError, match=f"^{path} is not an engine: it is neither a TensorRT plan nor an ONNX model$"):
            call()


def test_an_engine_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as error:
            engine.open_session(path, "auto", None)
        assert str(error.value) == f"engine {path} cannot be read: {reason}; build one with builder.py"


# Opened


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_open_session(saved: Path, backend: str) -> None:
    session = engine.open_session(saved, backend, engine.describe(saved))
    assert isinstance(session, OnnxRuntimeSession)
    assert (session.backend, session.layout.profiles) == ("onnxruntime", PROFILES)
    assert all(isinstance(profile, Profile) for profile in session.layout.profiles)
    assert session.layout.max_sequence_length == 64
    assert session.version and session.device

    batch = Batch(*(np.ones((2, 5), np.int32) for _ in range(3)))
    [first, second] = session.stream([batch, batch])
    assert (first.shape, first.dtype) == ((2, 5, 2), np.dtype(np.float32))
    np.testing.assert_array_equal(first, second)
    assert 0 < session.timed(batch)() < 10_000
    assert list(session.stream([])) == []


def test_an_engine_of_another_backend(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        engine.open_session(saved, "tensorrt", engine.describe(saved))
    assert (
        str(error.value) == f"{saved} is an engine of onnxruntime, not of tensorrt: build one with builder.py --backend tensorrt"
    )
    plan = tmp_path / "plan"
    plan.write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(InputError, match=r"plan is an engine of tensorrt, not of onnxruntime: build one"):
        engine.open_session(plan, "onnxruntime", None)


@pytest.mark.skipif(TENSORRT_IS_HERE, reason="for machines without TensorRT")
@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_a_plan_without_tensorrt(tmp_path: Path, backend: str) -> None:
    plan = tmp_path / "plan"
    plan.write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(InputError, match=f"^{plan} is a TensorRT engine, but TensorRT cannot be imported .*pip install"):
        engine.open_session(plan, backend, None)


@pytest.mark.skipif(TENSORRT_IS_HERE, reason="for machines without TensorRT")
def test_backends_without_tensorrt() -> None:
    assert engine.choose_backend("auto") == "onnxruntime"
    assert engine.choose_backend("onnxruntime") == "onnxruntime"
    with pytest.raises(InputError, match="TensorRT cannot be imported"):
        engine.choose_backend("tensorrt")


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_truncated_engine(tmp_path_factory: pytest.TempPathFactory, blob: bytes, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "small.engine"
    path.write_bytes(blob[: data.draw(st.integers(1, len(blob) - 1))])
    with pytest.raises(InputError, match=f"^{path} is not a whole ONNX engine of this project, build it again: "):
        engine.open_session(path, "auto", None)


def altered(blob: bytes, properties: dict[str, str]) -> bytes:
    model = onnx.load_from_string(blob)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"author": "x"},
        {"profiles": ""},
        {"profiles": "5"},
        {"profiles": "[1]"},
        {"profiles": "[[1, 2, 3]]"},
        {"profiles": "[]"},
    ],
)
def test_an_onnx_model_of_another_project(tmp_path: Path, blob: bytes, properties: dict[str, str]) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(altered(blob, {"profiles": "[[1, 8]]"}))
    assert engine.open_session(path, "auto", None).layout.profiles == [Profile(1, 8)]
    path.write_bytes(altered(blob, properties))
    assert engine.recognise(path) == "onnxruntime"
    with pytest.raises(InputError, match=f"^{path} is not a whole ONNX engine of this project, build it again: "):
        engine.open_session(path, "auto", None)


# Scheduled


def check_schedule(layout: Layout, lengths: list[int], batch_size: int | None) -> list[tuple[list[int], int]]:
    batches = [(list(indexes), length) for indexes, length in layout.schedule(lengths, batch_size)]
    assert sorted(i for indexes, _ in batches for i in indexes) == list(range(len(lengths)))
    order = [lengths[i] for indexes, _ in batches for i in indexes]
    assert order == sorted(order, reverse=True)
    for indexes, length in batches:
        assert 1 <= len(indexes) <= (batch_size or len(lengths))
        assert max(lengths[i] for i in indexes) <= length <= layout.max_sequence_length
    return batches


def empty(size: int, length: int) -> Batch:
    return Batch(*(np.ones((size, length), np.int32) for _ in range(3)))


LENGTHS = st.lists(st.integers(1, 64), max_size=40)
BATCH_SIZES = st.none() | st.integers(1, 10)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, blob: bytes) -> OnnxRuntimeSession:
    path = tmp_path_factory.mktemp("session") / "small.engine"
    path.write_bytes(blob)
    return OnnxRuntimeSession(path)


@given(lengths=LENGTHS, batch_size=BATCH_SIZES)
@example([], None)
@example([64] * 3, None)
@settings(deadline=None, max_examples=150)
def test_schedule(session: OnnxRuntimeSession, lengths: list[int], batch_size: int | None) -> None:
    batches = check_schedule(session.layout, lengths, batch_size)
    for indexes, length in batches:
        assert length == max(lengths[i] for i in indexes)  # not a token more than is needed
    for indexes, length in batches[:-1]:  # as large as the engine takes
        most = max(size for size, longest in PROFILES if longest >= length)
        assert len(indexes) == min(most, batch_size or most)
    shapes = [(len(indexes), length) for indexes, length in batches]
    assert [logits.shape for logits in session.stream(empty(*shape) for shape in shapes)] == [(*shape, 2) for shape in shapes]


@given(
    lengths=LENGTHS,
    batch_size=BATCH_SIZES,
    sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3),
    longest=st.sets(st.integers(1, 64), max_size=3),
)
@settings(deadline=None, max_examples=150)
def test_schedule_by_profiles(lengths: list[int], batch_size: int | None, sizes: set[int], longest: set[int]) -> None:
    """As TensorRT has it: a profile for each batch size and each sequence length that sequences are padded to."""
    layout = Padded([Profile(*profile) for profile in product(sizes, longest | {64})], any_length=False)
    for indexes, length in check_schedule(layout, lengths, batch_size):
        assert length == min(each for each in longest | {64} if each >= max(lengths[i] for i in indexes))
        assert len(indexes) <= max(sizes)
        feed = layout.feed(empty(len(indexes), length))
        size, padded = layout.profiles[layout.profile(feed)]
        assert (size, padded) == (min(each for each in sizes if each >= len(indexes)), length)


def test_schedule_by_hand(session: OnnxRuntimeSession) -> None:
    lengths = [5, 33, 17, 5, 20, 6, 18, 3]
    assert session.layout.schedule(lengths) == [([1], 33), ([4, 6, 2], 20), ([5, 0, 3, 7], 6)]
    assert session.layout.schedule(lengths, 2) == [([1], 33), ([4, 6], 20), ([2, 5], 17), ([0, 3], 5), ([7], 3)]
    padded = Padded([Profile(5, 64), Profile(5, 8)], any_length=False)
    assert padded.schedule(lengths) == [([1, 4, 6, 2, 5], 64), ([0, 3, 7], 8)]
    assert [session.layout.max_batch_size(length) for length in (1, 16, 17, 32, 33, 64)] == [8, 8, 3, 3, 1, 1]


def test_a_window_that_is_too_long(session: OnnxRuntimeSession) -> None:
    with pytest.raises(InputError, match=r"of 65 tokens does not fit the engine's longest.*, 64: lower -s$"):
        session.layout.schedule([3, 65, 64])


@pytest.mark.parametrize("shape", [(9, 16), (4, 17), (2, 33), (1, 65)])
def test_a_batch_that_the_engine_was_not_built_for(session: OnnxRuntimeSession, shape: tuple[int, int]) -> None:
    with pytest.raises(
        InputError, match=f"a batch of {shape[0]} × {shape[1]} tokens fits none of the engine's profiles, 4 × 16, "
    ):
        list(session.stream([empty(*shape)]))


# Packed


@given(lengths=st.lists(st.integers(1, 300), max_size=40), batch_size=BATCH_SIZES, sizes=st.sets(st.integers(1, 9), min_size=1))
@settings(deadline=None, max_examples=150)
def test_packed_schedule(lengths: list[int], batch_size: int | None, sizes: set[int]) -> None:
    layout = Packed([Profile(size, 300) for size in sizes])
    for indexes, length in check_schedule(layout, lengths, batch_size):
        own = [lengths[i] for i in indexes]
        assert (length, sum(own) <= 300 * max(sizes)) == (max(own), True)
        assert len({min(c for c in LENGTH_CLASSES if c >= n) for n in own}) == 1  # no sequence is computed as a longer class
        mask = (np.arange(length) < np.array(own)[:, None]).astype(np.int32)
        size, _ = layout.profiles[layout.profile(layout.feed(empty(*mask.shape)._replace(input_mask=mask)))]
        assert size == min(s for s in sizes if 300 * s >= sum(own) and max(s, 300 * s // 64) >= len(own))  # the tightest


def test_packed_schedule_by_hand() -> None:
    layout = Packed([Profile(1, 128), Profile(2, 128)])  # 256 tokens, 4 sequences
    assert layout.schedule([]) == []
    assert layout.schedule([128, 128, 97]) == [([0, 1], 128), ([2], 97)]  # all tokens are used
    assert layout.schedule([5, 70, 64, 96, 1, 97]) == [([5], 97), ([3, 1], 96), ([2, 0, 4], 64)]
    assert layout.schedule([4, 3, 2, 6, 5]) == [([3, 4, 0, 1], 6), ([2], 2)]
    assert layout.schedule([4, 3, 2, 6, 5], 2) == [([3, 4], 6), ([0, 1], 4), ([2], 2)]
    classes = Packed([Profile(16, 384)]).schedule([65, 97, 129, 193, 257, 64, 96, 128, 192, 256, 384])
    assert classes == [([10, 4], 384), ([9, 3], 256), ([8, 2], 192), ([7, 1], 128), ([6, 0], 96), ([5], 64)]
    with pytest.raises(InputError, match=r"of 129 tokens does not fit the engine's longest.*, 128: lower -s$"):
        layout.schedule([3, 129])


def test_tensorrt_is_told_the_shapes_that_a_layout_takes() -> None:
    def shapes(layout: Layout, lengths: list[int]) -> dict[str, tuple[int, ...]]:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        feed = layout.feed(empty(*mask.shape)._replace(input_mask=mask))
        assert layout.profile(feed) == 0
        return {name: array.shape for name, array in feed.items()}

    profile = Profile(2, 128)
    packed, padded = Packed([profile]), Padded([profile], any_length=False)
    least, best, short = (shapes(packed, lengths) for lengths in ([1], [128] * 2, [64] * 4))
    expected = {name: (least[name], best[name], max(best[name], short[name])) for name in packed.inputs}
    assert engine.profile_shapes(profile, packed=True) == expected
    least, best = shapes(padded, [128]), shapes(padded, [128] * 2)
    assert engine.profile_shapes(profile, packed=False) == {name: (least[name], best[name], best[name]) for name in padded.inputs}


def test_packed_batches_by_hand() -> None:
    layout = Packed([Profile(2, 8)])
    mask = np.array([[1, 1, 1], [1, 0, 0]], np.int32)
    batch = Batch(np.array([[5, 6, 7], [8, 9, 9]], np.int32), np.array([[0, 1, 1], [0, 3, 3]], np.int32), mask)
    feed = layout.feed(batch)
    assert tuple(feed) == layout.inputs
    assert [array.tolist() for array in feed.values()][:3] == [[5, 6, 7, 8], [0, 1, 1, 0], [0, 3, 4]]
    assert (feed["max_seqlen"].shape, {str(array.dtype) for array in feed.values()}) == ((3,), {"int32"})
    logits = layout.logits(np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32), batch)
    assert logits.tolist() == [[[1, 5], [2, 6], [3, 7]], [[4, 8], [0, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_seqlens": [0, 3, 5]}, "cu_seqlens must rise from 0 to the number of tokens, 4, "),
        ({"cu_seqlens": [1, 3, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0, 3, 3, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0, 5, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0]}, "cu_seqlens must rise from 0 "),
        ({"segment_ids": [0, 0, 0]}, "segment_ids has 3 tokens, input_ids 4: they must agree"),
        ({"max_seqlen": [0, 0]}, "a sequence of 3 tokens is longer than max_seqlen, 2"),
        ({"max_seqlen": [0] * 9}, "2 sequences of 4 tokens, the longest of 9, do not fit the engine, which takes 2 of 16 tokens"),
    ],
)
def test_packed_inputs_that_do_not_agree(changes: dict[str, list[int]], message: str) -> None:
    layout = Packed([Profile(2, 8)])
    good = {"input_ids": [1] * 4, "segment_ids": [0] * 4, "cu_seqlens": [0, 3, 4], "max_seqlen": [0] * 3}
    assert layout.profile({name: np.array(values, np.int32) for name, values in good.items()}) == 0
    with pytest.raises(InputError) as error:
        layout.profile({name: np.array(values, np.int32) for name, values in {**good, **changes}.items()})
    assert str(error.value).startswith(message)
