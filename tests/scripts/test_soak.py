"""scripts/soak.py: what it finds of an engine that stays as it is, and of one that does not."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.layouts import Packed, Padded, Profile
from tests.inputs import read
from tests.running import ROOT, refused, run, succeeds

pytestmark = pytest.mark.usefixtures("no_tensorrt")

SCRIPT = "scripts/soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", ROOT / SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("engine", ["padded.engine", "packed.engine"])
def test_an_engine_that_stays_as_it_is(small: Path, tmp_path: Path, engine: str) -> None:
    printed = succeeds(SCRIPT, f"-e {small / engine} --seconds 1 --json out.json", tmp_path)
    found = read(tmp_path / "out.json")
    assert re.fullmatch(
        rf"{found['batches']} batches in {found['seconds']} s, every one as the first time; the host's memory grew by "
        rf"{found['host_grew_bytes']} bytes from {found['host_bytes']}\n",
        printed,
    )
    assert (found["changed_batches"], found["gpu_bytes"], found["runtime"]) == ([], None, "onnxruntime")
    assert found["batches"] >= 100 and found["batches"] % 50 == 0 and found["measured"] >= 2
    assert 0 <= found["host_grew_bytes"] <= 1 << 20 < found["host_bytes"]


@pytest.fixture
def each_batch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets every batch's logits go through another one, with their number."""

    def change(function: Any) -> None:
        count, stream = 0, OnnxRuntimeSession.stream

        def changed(self: OnnxRuntimeSession, batches: Iterable[Any]) -> Iterator[np.ndarray]:
            nonlocal count
            for logits in stream(self, batches):
                count += 1
                yield function(logits, count)

        monkeypatch.setattr(OnnxRuntimeSession, "stream", changed)

    return change


def test_a_leak(small: Path, each_batch: Any) -> None:
    kept = []

    def leak(logits: np.ndarray, count: int) -> np.ndarray:
        kept.append(np.ones(1 << 17, np.uint8))  # 6 MiB a round
        return logits

    each_batch(leak)
    done = run(SCRIPT, "-e padded.engine --seconds 0", small)
    assert (done.returncode, done.stdout) == (1, "")
    match = re.fullmatch(r"error: the host's memory grew by (\d+) bytes from \d+, over \d+ batches in .* s\n", done.stderr)
    assert match and 5 << 20 < int(match[1]) < 20 << 20


def test_one_bit(small: Path, each_batch: Any) -> None:
    """Of a logit of one batch, in the second round."""

    def flip(logits: np.ndarray, count: int) -> np.ndarray:
        if count == 60:
            logits[0, 0] = np.nextafter(logits[0, 0], np.inf)
        return logits

    each_batch(flip)
    done = run(SCRIPT, "-e packed.engine --seconds 0", small)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: 1 of 50 batches had other logits than the first time, over ")


FLAT: dict[str, Any] = {"changed_batches": [], "host_bytes": 5, "host_grew_bytes": 1 << 20, "gpu_bytes": 7, "gpu_moved_bytes": 0}


def test_the_memory_of_a_gpu_is_flat_to_the_byte(soak: ModuleType) -> None:
    assert soak.drifts(FLAT) == []
    assert soak.drifts({**FLAT, "gpu_moved_bytes": 1}) == ["the GPU's memory moved by 1 bytes about 7"]
    assert len(soak.drifts({**FLAT, "gpu_moved_bytes": 1, "host_grew_bytes": (1 << 20) + 1, "changed_batches": [3]})) == 3


@pytest.mark.parametrize(
    "layout",
    [
        Padded([Profile(2, 32), Profile(4, 64)], any_length=True),
        Padded([Profile(2, 32), Profile(4, 64)], any_length=False),
        Packed([Profile(1, 64), Profile(4, 64)]),
    ],
)
def test_batches_are_ragged_and_fit(soak: ModuleType, layout: Any) -> None:
    batches = list(soak.ragged(layout, 60, 2, 1))
    assert (len(batches), batches[0].lengths.tolist()) == (50, [64] * 4)
    for batch in batches:
        layout.profile(batch)
    assert len({tuple(batch.lengths) for batch in batches}) > 40
    assert {len(batch.lengths) for batch in batches} == {1, 2, 3, 4}
    again = list(soak.ragged(layout, 60, 2, 1))
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(batches, again))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-e absent --seconds 1", "engine absent cannot be read"),
        ("-e padded.engine --seconds -1", "argument --seconds"),
        ("-e padded.engine --json padded.engine", "output padded.engine is read as well"),
        ("-e padded.engine --json model/vocab.txt", "output model/vocab.txt is read as well"),
        ("-e padded.engine --enable-graph", "which the runtime extension does not run"),
    ],
)
def test_refused(small: Path, args: str, says: str) -> None:
    refused(SCRIPT, args, small, says)
