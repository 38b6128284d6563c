"""Calibration: the ranges that are found on text, the windows of it that are looked at, and the file that keeps ranges."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.layouts import Batch, Profile
from helpers.progress import Progress, T
from helpers.quantization import calibration, ranges
from helpers.request import Calibration
from helpers.sites import bert_sites
from helpers.tokenization import Template
from helpers.weights import BertWeights, random_weights
from tests.batches import of_lengths, onnx_blob, rms, theirs
from tests.inputs import write_squad
from tests.models import VOCAB, random_model, small_config, weights_of
from tests.quantized import LAYER, SITES, SITES_WITH_SUMS, SIZES, SUMS, TENSORS, largest, logits_of, tensors_of
from tests.wordpieces import letters

CONFIG = small_config()
TOKENIZER = letters()


def model_of(weights: BertWeights, config: BertConfig = CONFIG, segment: int = 1) -> calibration.Model:
    return calibration.Model(config, weights, SITES, TOKENIZER, Template(passage_segment=segment))


MODEL = model_of(random_weights(CONFIG))


# Ranges


@pytest.mark.parametrize("size", SIZES)
def test_calibrate(size: str) -> None:
    config = small_config(**SIZES[size])
    sites = bert_sites(config.num_hidden_layers)
    model = random_model(config, 7)
    batches = [of_lengths([length], config, length) for length in (5, 40, 17)]
    seen = [tensors_of(model, batch) for batch in batches]
    expected = {}
    for name in ranges.quantizers(sites):
        if name.endswith(".probabilities"):
            expected[name] = 1.0
            continue
        values = [np.sort(np.abs(window[name]), axis=None) for window in seen]
        # Of fewer than 100 000 values 99.999 % are all but the largest.
        place = -2 if name.endswith((".output.dense", ".gelu")) else -1
        over_windows = np.max if name.endswith(".gelu") else np.mean
        expected[name] = float(over_windows([sorted_[place] for sorted_ in values]))
        assert values[0][-1] > 1.0001 * values[0][-2] or place == -1  # else the two rules could not be told apart
    found = calibration.calibrate(weights_of(model), config, sites, iter(batches))
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(type(amax) is float for amax in found.values())
    assert len(set(found.values())) == len(found) - config.num_hidden_layers + 1  # no two were swapped


def test_calibrated_sums() -> None:
    """Megatron's network is another one behind the first sum, whose range is that of the embeddings added up."""
    weights, batch = weights_of(random_model(CONFIG, 6)), of_lengths([30], CONFIG, 1)
    found = calibration.calibrate(weights, CONFIG, SITES_WITH_SUMS, [batch])
    assert set(found) == {*TENSORS, *SUMS}
    word, position, token_type = weights.embeddings.tables()
    summed = word[batch.input_ids] + position[:30] + token_type[batch.segment_ids]
    assert found["bert.embeddings.sum"] == pytest.approx(largest(summed), rel=1e-5)
    plain = calibration.calibrate(weights, CONFIG, SITES, [batch])
    assert set(plain) == set(TENSORS)
    assert plain["bert.embeddings"] == found["bert.embeddings"]
    assert plain[f"{LAYER}.attention.output.LayerNorm"] != pytest.approx(found[f"{LAYER}.attention.output.LayerNorm"], rel=1e-3)


@pytest.mark.parametrize("projections", [False, True], ids=["all", "projections"])
def test_calibrate_where_a_tensor_is_zero(projections: bool) -> None:
    """A range stays above zero, and an engine that has it does not divide by zero."""
    model = random_model(CONFIG, 3)
    with torch.no_grad():
        for part in ("intermediate.dense", "attention.output.dense"):
            for parameter in model.get_submodule(f"{LAYER}.{part}").parameters():
                parameter.zero_()
    weights, batch = weights_of(model), of_lengths([9], CONFIG)
    found = calibration.calibrate(weights, CONFIG, SITES, [batch])
    assert 0 < found[f"{LAYER}.intermediate.gelu"] < 1e-30
    assert 0 < found[f"{LAYER}.attention.output.dense"] < 1e-30
    assert min(found.values()) > 0
    amax = ranges.of_projections(found, SITES) if projections else found
    blob, expected = onnx_blob(weights, CONFIG, [Profile(64, 64)], ranges=amax), theirs(model, batch)
    for optimized in (False, True):
        logits = logits_of(blob, batch, False, optimized)
        assert 0 < rms(logits - expected) < 0.2 * expected.std()


def test_quantile() -> None:
    shuffled = np.random.default_rng(0).permutation(300_051).astype(np.float32)
    assert calibration.quantile(shuffled, 1.0) == 300_050
    assert calibration.quantile(shuffled, 0.99999) == 300_046  # 300 050 · 0.99999 = 300 046.9995
    assert calibration.quantile(shuffled[:1], 0.99999) == shuffled[0]
    assert calibration.quantile(np.array([5, 3, 9, 1]), 0.5) == 3
    assert calibration.CUT_QUANTILE == 0.99999


# Windows


def spelled(batch: Batch) -> str:
    """The window's text, and checks that it is one, of tokens that the network takes."""
    batch.check()
    assert len(batch.lengths) == 1
    assert {array.dtype.name for array in batch} == {"int32"}
    return " ".join(VOCAB[i] for i in batch.input_ids)


@pytest.mark.parametrize(
    ("count", "asked"), [(1, "a"), (2, "af"), (3, "adg"), (4, "acfh"), (7, "abcefhi"), (9, "abcdefghi"), (10, "abcdefghij")]
)
@pytest.mark.parametrize("segment", [1, 0])
def test_windows_are_spread_over_the_file(tmp_path: Path, count: int, asked: str, segment: int) -> None:
    path = write_squad(tmp_path / "squad.json", ("x y", "abcd"), ("z", "efghij"))
    batches = calibration.windows(Calibration(path, count), model_of(MODEL.weights, segment=segment), 32)
    passages = {letter: "x y" if letter in "abcd" else "z" for letter in "abcdefghij"}
    assert [spelled(batch) for batch in batches] == [f"[CLS] {letter} [SEP] {passages[letter]} [SEP]" for letter in asked]
    assert [batch.segment_ids.tolist() for batch in batches] == [
        [0, 0, 0, *[segment] * (3 if letter in "abcd" else 2)] for letter in asked
    ]


def test_windows_of_a_long_passage(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "squad.json", ("a b c d e f g h i", ["q"]))
    shown = [spelled(batch) for batch in calibration.windows(Calibration(path, 3), MODEL, 8)]  # room for four at a time
    assert shown == [f"[CLS] q [SEP] {part} [SEP]" for part in ("a b c d", "e f g h", "i")]


def test_too_few_windows(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "squad.json", ("x y", "abcd"))
    assert len(calibration.windows(Calibration(path, 4), MODEL, 32)) == 4
    with pytest.raises(InputError, match=r"^SQuAD file .*squad\.json has 4 windows, fewer than 5: lower calib_num$"):
        calibration.windows(Calibration(path, 5), MODEL, 32)
    with pytest.raises(InputError, match="absent"):
        calibration.windows(Calibration(tmp_path / "absent.json", 1), MODEL, 32)


# Cache

FOUND = {name: 0.1 + i / 3 for i, name in enumerate(TENSORS)}


@pytest.fixture
def told() -> list[str]:
    return []


def test_cache_round_trip(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "cache"
    assert calibration.read_cache(path, "stamp", SITES, told.append) is None
    calibration.write_cache(path, FOUND, "stamp")
    assert calibration.read_cache(path, "stamp", SITES, told.append) == FOUND
    assert told == []
    assert list(tmp_path.iterdir()) == [path]


def test_stale_cache(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "cache"
    calibration.write_cache(path, FOUND, "old")
    assert calibration.read_cache(path, "new", SITES, told.append) is None
    assert told == [
        f"calibration cache {path} is of another model, sequence length or text: ignored, and replaced after calibration"
    ]
    calibration.write_cache(path, FOUND, "new")
    assert calibration.read_cache(path, "new", SITES, told.append) == FOUND
    assert len(told) == 1


OTHERS = {
    "TensorRT's": b"TRT-8600-EntropyCalibration2\n",
    "cut short": b'{"stamp": "stamp", "ranges": {"x": 1.0}',
    "no UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "null": b"null",
    "an empty object": b"{}",
    "no ranges": b'{"stamp": "stamp"}',
    "no stamp": b'{"ranges": {"x": 1.0}}',
    "more": b'{"stamp": "stamp", "ranges": {"x": 1.0}, "version": 1}',
    "a list of ranges": b'{"stamp": "stamp", "ranges": [1.0]}',
    "a number for a stamp": b'{"stamp": 1, "ranges": {}}',
    "a stamp twice": b'{"stamp": "a", "stamp": "b", "ranges": {}}',
    "a configuration": json.dumps(CONFIG.to_dict()).encode(),
    "weights": bytes(1000),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file_is_not_replaced(tmp_path: Path, told: list[str], content: bytes) -> None:
    path, text = tmp_path / "cache", write_squad(tmp_path / "squad.json", ("x y", "abcd"))
    path.write_bytes(content)
    for use in (
        lambda: calibration.check_cache(path),
        lambda: calibration.read_cache(path, "stamp", SITES, told.append),
        lambda: calibration.find(Calibration(text, 3, path), MODEL, 32, Progress()),
        lambda: calibration.find(Calibration(tmp_path / "absent", 3, path), MODEL, 32, Progress()),  # before anything else
    ):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value).startswith(f"{path} is not a calibration cache, and would be replaced by one")
        assert str(error.value).isprintable()
    assert path.read_bytes() == content
    assert told == []


def test_no_cache(tmp_path: Path, told: list[str]) -> None:
    """An empty file has nothing to lose; a folder, or a pipe, is none."""
    path = tmp_path / "cache"
    for _ in ("absent", "empty"):
        assert calibration.check_cache(path) is None
        assert calibration.read_cache(path, "stamp", SITES, told.append) is None
        path.touch()
    path.unlink()
    for make, remove in ((os.mkdir, os.rmdir), (os.mkfifo, os.unlink)):
        make(path)
        with pytest.raises(InputError, match=f"^{path} is not a calibration cache: name another file$"):
            calibration.check_cache(path)
        remove(path)


@pytest.mark.parametrize(
    "change",
    [
        {"bert.embeddings": float("nan")},
        {"bert.embeddings": 0.0},
        {"bert.embeddings": float("inf")},
        {"bert.embeddings": -1.0},
        {"bert.embeddings": "wide"},
        {"bert.embeddings": None},
        {"bert.embeddings": 10**400},
        {"x": 1.0},
        dict.fromkeys(SUMS, 1.0),
    ],
    ids=["NaN", "zero", "infinity", "negative", "text", "null", "beyond floats", "another tensor", "Megatron's sums"],
)
def test_damaged_cache(tmp_path: Path, told: list[str], change: dict[str, Any]) -> None:
    path = tmp_path / "cache"
    calibration.write_cache(path, {**FOUND, **change}, "stamp")
    assert calibration.read_cache(path, "stamp", SITES, told.append) is None
    assert told == [f"calibration cache {path} is damaged: ignored, and replaced after calibration"]


def test_stamp(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    weights = random_weights(CONFIG)
    path = write_squad(tmp_path / "squad.json", (text, "abcd"))

    def stamped(
        weights: BertWeights = weights,
        path: Path = path,
        count: int = 3,
        length: int = 24,
        config: BertConfig = CONFIG,
        segment: int = 1,
    ) -> str:
        model = model_of(weights, config, segment)
        return calibration.stamp(weights, config, calibration.windows(Calibration(path, count), model, length))

    tensors = weights.tensors()
    bias = tensors["qa_outputs.bias"] + np.array([0, 1e-6], np.float32)
    stamps = [
        stamped(),
        stamped(BertWeights.from_tensors({**tensors, "qa_outputs.bias": bias})),
        stamped(random_weights(CONFIG, seed=1)),
        stamped(path=write_squad(tmp_path / "text.json", (text.replace("dog", "cat"), "abcd"))),
        stamped(path=write_squad(tmp_path / "question.json", (text, "bbcd"))),
        stamped(count=4),
        stamped(count=2),
        stamped(length=25),
        stamped(config=small_config(layer_norm_eps=1e-6)),
        stamped(config=small_config(hidden_act="gelu")),  # the other form
        stamped(config=small_config(model_type="roberta")),
        stamped(segment=0),
    ]
    assert len(set(stamps)) == len(stamps)
    assert stamped() == stamps[0]
    assert stamped(BertWeights.from_tensors({name: array.copy() for name, array in tensors.items()})) == stamps[0]


# All of it


class Watched(Progress):
    """Counts the windows that were run."""

    windows = 0

    def bar(self, items: Sequence[T], what: str, unit: str) -> Iterator[T]:
        self.windows += len(items)
        return super().bar(items, what, unit)


def test_find(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ranges are found once for each model, text and length; in Python the cache's warnings go to a log."""
    path = write_squad(tmp_path / "squad.json", ("the quick brown fox jumps", "ab"), ("over the lazy dog", "cd"))
    model, other = (random_weights(CONFIG, seed) for seed in (0, 1))
    watched = Watched()

    def find(weights: BertWeights, cache: Path | None = None, length: int = 32) -> tuple[dict[str, float], int]:
        """The ranges, and the windows that were run for them."""
        before = watched.windows
        wanted = Calibration(path, 3, cache)
        return calibration.find(wanted, model_of(weights), length, watched), watched.windows - before

    def expected(weights: BertWeights, length: int = 32) -> dict[str, float]:
        batches = calibration.windows(Calibration(path, 3), MODEL, length)
        return calibration.calibrate(weights, CONFIG, SITES, batches)

    cache = tmp_path / "cache"
    assert [find(model) for _ in range(2)] == [(expected(model), 3)] * 2
    assert [find(model, cache) for _ in range(2)] == [(expected(model), 3), (expected(model), 0)]
    assert caplog.messages == []
    assert [find(other, cache) for _ in range(2)] == [(expected(other), 3), (expected(other), 0)]
    assert find(other, cache, 20) == (expected(other, 20), 3)
    assert [(record.name, record.levelno) for record in caplog.records] == [("helpers", logging.WARNING)] * 2
    assert all("calibration cache" in message for message in caplog.messages)


def test_find_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError) as e:
        calibration.find(Calibration(tmp_path / "absent.json"), MODEL, 32, Progress())
    assert str(e.value) == (
        f"int8 needs text to calibrate with, but {tmp_path}/absent.json does not exist: "
        "name a SQuAD file with squad_json, or take a checkpoint with activation ranges"
    )
