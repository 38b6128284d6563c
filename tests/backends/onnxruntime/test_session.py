"""ONNX engines loaded and run, and what is refused of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.errors import InputError
from helpers.layouts import Packed, Padded, Profile
from helpers.scheduling import schedule
from helpers.weights import random_weights
from tests.batches import of_lengths, onnx_blob, run
from tests.models import small_config

CONFIG = small_config()
WEIGHTS = random_weights(CONFIG)
PROFILES = [Profile(4, 16), Profile(8, 16), Profile(3, 32), Profile(1, 64)]
PACKED_PROFILES = [Profile(1, 64), Profile(4, 64)]  # up to 256 tokens of 4 sequences


@pytest.fixture(scope="module")
def blob() -> bytes:
    return onnx_blob(WEIGHTS, CONFIG, PROFILES)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, blob: bytes) -> OnnxRuntimeSession:
    return opened(tmp_path_factory.mktemp("session") / "padded.engine", blob)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeSession:
    path = tmp_path_factory.mktemp("session") / "packed.engine"
    return opened(path, onnx_blob(WEIGHTS, CONFIG, PACKED_PROFILES, packed=True))


def opened(path: Path, blob: bytes) -> OnnxRuntimeSession:
    path.write_bytes(blob)
    return OnnxRuntimeSession(path)


def test_what_an_engine_tells_of_itself(session: OnnxRuntimeSession, packed: OnnxRuntimeSession) -> None:
    assert isinstance(session.layout, Padded)
    assert isinstance(packed.layout, Packed)
    assert session.layout.any_length
    for each, profiles in ((session, PROFILES), (packed, PACKED_PROFILES)):
        assert (each.backend, each.runtime, each.layout.profiles) == ("onnxruntime", "onnxruntime", profiles)
        assert all(isinstance(profile, Profile) for profile in each.layout.profiles)
        assert each.layout.max_sequence_length == 64
        assert each.vocab_size == CONFIG.vocab_size
        assert each.version and each.device


def test_an_engine_runs(session: OnnxRuntimeSession, packed: OnnxRuntimeSession) -> None:
    batch = of_lengths([5, 2], CONFIG)
    for each in (session, packed):
        first, second = each.stream([batch, batch])
        assert (first.shape, first.dtype) == ((7, 2), np.dtype(np.float32))
        np.testing.assert_array_equal(first, second)
        start = time.perf_counter()
        milliseconds = each.timed(batch)()
        assert 0 < milliseconds <= 1e3 * (time.perf_counter() - start)
        assert list(each.stream([])) == []


def test_batches_are_drawn_one_by_one(session: OnnxRuntimeSession) -> None:
    """However many there are, they need not lie in memory at once."""
    drawn: list[int] = []
    batches = (drawn.append(i) or of_lengths([3], CONFIG, i) for i in range(5))  # type: ignore[func-returns-value]
    stream = session.stream(batches)
    assert drawn == []
    next(stream)
    assert drawn == [0]


def test_a_closed_session(tmp_path: Path, blob: bytes) -> None:
    session = opened(tmp_path / "small.engine", blob)
    assert len(run(session, of_lengths([3], CONFIG)))
    session.close()
    session.close()  # as often as its users like
    with pytest.raises(AttributeError):
        run(session, of_lengths([3], CONFIG))


@given(lengths=st.lists(st.integers(1, 64), max_size=40), batch_size=st.none() | st.integers(1, 10))
@example([], None)
@example([64] * 3, None)
@settings(max_examples=75)
def test_scheduled_batches_run(
    session: OnnxRuntimeSession, packed: OnnxRuntimeSession, lengths: list[int], batch_size: int | None
) -> None:
    for each in (session, packed):
        shapes = [[lengths[i] for i in indexes] for indexes in schedule(lengths, each.layout, batch_size)]
        found = each.stream(of_lengths(own, CONFIG) for own in shapes)
        assert [logits.shape for logits in found] == [(sum(own), 2) for own in shapes]


# Refused


@given(data=st.data())
@settings(max_examples=40)
def test_a_truncated_engine(tmp_path_factory: pytest.TempPathFactory, blob: bytes, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "small.engine"
    path.write_bytes(blob[: data.draw(st.integers(1, len(blob) - 1))])
    with pytest.raises(InputError, match=f"^{path} is not a whole ONNX engine of this project, build it again: "):
        OnnxRuntimeSession(path)


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
        {"profiles": "[[0, 8]]"},
        {"profiles": "[[1, -8]]"},
        {"profiles": "[[1, 8.5]]"},
        {"profiles": "[[true, 8]]"},
        {"profiles": '[["1", 8]]'},
        {"profiles": '["18"]'},
        {"profiles": '{"1": 8}'},
        {"profiles": "[[1, 4294967296]]"},
        {"profiles": "[" * 100_000},
        {"profiles": "[[1, 8]]", "vocab_size": "0"},
        {"profiles": "[[1, 8]]", "vocab_size": "many"},
        {"profiles": "[[1, 8]]", "vocab_size": "9" * 5000},
    ],
    ids=lambda properties: str(properties)[:60],
)
def test_an_onnx_model_of_another_project(tmp_path: Path, blob: bytes, properties: dict[str, str]) -> None:
    def altered(properties: dict[str, str]) -> bytes:
        model = onnx.load_from_string(blob)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, properties)
        return model.SerializeToString()

    path = tmp_path / "other.onnx"
    session = opened(path, altered({"profiles": "[[1, 8]]"}))
    assert (session.layout.profiles, session.vocab_size) == ([Profile(1, 8)], None)
    path.write_bytes(altered(properties))
    with pytest.raises(InputError, match=f"^{path} is not a whole ONNX engine of this project, build it again: "):
        OnnxRuntimeSession(path)


INT32, INT64, FLOAT = (int(getattr(onnx.TensorProto, name)) for name in ("INT32", "INT64", "FLOAT"))
Values = dict[str, tuple[int, list[Any]]]
PADDED: Values = {name: (INT32, ["batch", "sequence"]) for name in ("input_ids", "segment_ids", "input_mask")}
LOGITS: Values = {"logits": (FLOAT, ["batch", "sequence", 2])}
FOREIGN: dict[str, tuple[Values, Values]] = {
    "no inputs": ({}, LOGITS),
    "images": ({"pixel_values": (FLOAT, ["batch", 3, 224, 224])}, {"features": (FLOAT, ["batch", 768])}),
    "other names": ({"input_ids": PADDED["input_ids"], "attention_mask": PADDED["input_mask"]}, LOGITS),
    "one more": ({**PADDED, "position_ids": (INT32, ["batch", "sequence"])}, LOGITS),
    "of 64 bits": ({name: (INT64, shape) for name, (_, shape) in PADDED.items()}, LOGITS),
    "of one axis": ({name: (INT32, ["tokens"]) for name in PADDED}, LOGITS),
    "packed of two axes": (
        {name: (INT32, ["a", "b"]) for name in ("input_ids", "segment_ids", "cu_seqlens", "max_seqlen")},
        {"logits": (FLOAT, [2, "tokens"])},
    ),
    "two outputs": (PADDED, {"start": (FLOAT, ["batch", "sequence"]), "end": (FLOAT, ["batch", "sequence"])}),
    "another output": (PADDED, {"scores": LOGITS["logits"]}),
    "of no floats": (PADDED, {"logits": (INT32, ["batch", "sequence", 2])}),
    "too many axes": (PADDED, {"logits": (FLOAT, ["batch", "sequence", 2, 1])}),
    "no axes": (PADDED, {"logits": (FLOAT, [])}),
}


@pytest.mark.parametrize(("inputs", "outputs"), FOREIGN.values(), ids=FOREIGN)
def test_an_engine_s_properties_on_another_model(tmp_path: Path, inputs: Values, outputs: Values) -> None:
    """Whatever runs it would fail at the first batch."""
    helper, path = onnx.helper, tmp_path / "other.onnx"
    nodes = []
    for name, (kind, shape) in outputs.items():
        dims = [2 if type(each) is str else each for each in shape]
        value = helper.make_tensor(name, kind, dims, vals=[0] * int(np.prod(dims)))
        nodes.append(helper.make_node("Constant", [], [name], value=value))
    ends: Any = [[helper.make_tensor_value_info(name, *told) for name, told in each.items()] for each in (inputs, outputs)]
    model = helper.make_model(helper.make_graph(nodes, "other", *ends), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.helper.set_model_props(model, {"profiles": "[[1, 8]]", "vocab_size": "60"})
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=f"^{path} is not a whole ONNX engine of this project, build it again: ") as error:
        OnnxRuntimeSession(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("shape", [(9, 16), (4, 17), (2, 33), (1, 65)])
def test_a_batch_that_the_engine_was_not_built_for(session: OnnxRuntimeSession, shape: tuple[int, int]) -> None:
    with pytest.raises(
        InputError, match=f"a batch of {shape[0]} × {shape[1]} tokens fits none of the engine's profiles, 4 × 16, "
    ):
        run(session, of_lengths([shape[1]] * shape[0], CONFIG))
    assert len(run(session, of_lengths([16] * 8, CONFIG))) == 128  # and the session is still good


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([64] * 4 + [1], "5 sequences of 257 tokens, the longest of 64, do not fit the engine, which takes 4 of 256 tokens"),
        ([65], "1 sequences of 65 tokens, the longest of 65, do not fit the engine, which takes 4 of 256 tokens"),
    ],
)
def test_a_packed_batch_that_the_engine_was_not_built_for(packed: OnnxRuntimeSession, lengths: list[int], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}, the longest of 64$"):
        run(packed, of_lengths(lengths, CONFIG))
    assert len(run(packed, of_lengths([64] * 4, CONFIG))) == 256


@pytest.mark.parametrize("lengths", [[0], [3, 0, 4], [0, 5], []])
def test_an_empty_sequence(session: OnnxRuntimeSession, packed: OnnxRuntimeSession, lengths: list[int]) -> None:
    for each in (session, packed):
        with pytest.raises(InputError, match=r"^cu_seqlens must rise from 0"):
            run(each, of_lengths(lengths, CONFIG))
