"""Activation ranges for int8 without quantization-aware training: run real text in float32 and look.

The float32 network runs on the CPU (backends.observer), whichever backend the engine is for: it is the same network
(helpers/bert.py), windows need no padding, and no second engine has to be built. See Wu et al., 2020, arXiv:2004.09602,
for calibration by percentile.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_json
from helpers.layouts import Batch
from helpers.progress import Progress
from helpers.qa import squad
from helpers.qa.windows import Options, encode
from helpers.quantization.ranges import quantizers
from helpers.reading import read_object
from helpers.request import Calibration
from helpers.sites import ADDED, Part, Site, Sites
from helpers.tokenization import Template, Tokenizer
from helpers.weights import BertWeights

# A range is the mean over windows of a tensor's largest absolute value in each; docs/benchmarks.md has what else was
# tried. What is added to a residual, and GELU's output, have a few values far beyond all others, which are cut off.
CUT_QUANTILE = 0.99999
CUT = ADDED | {Part.ACTIVATION}


class Model(NamedTuple):
    """What is calibrated, and how it reads text."""

    config: BertConfig
    weights: BertWeights
    sites: Sites
    tokenizer: Tokenizer
    template: Template


def find(wanted: Calibration, model: Model, sequence_length: int, progress: Progress) -> dict[str, float]:
    """The range of each tensor that int8 needs, by its site's name: found before and kept, or found now and kept.

    Raises:
        InputError: there is no text, or too little; another file is where the cache should be.
    """
    if wanted.cache:
        check_cache(wanted.cache)
    if not wanted.squad_json.exists():
        raise InputError(
            f"int8 needs text to calibrate with, but {wanted.squad_json} does not exist",
            "name a SQuAD file with {squad_json}, or take a checkpoint with activation ranges",
        )
    config, weights, sites, *_ = model
    batches = windows(wanted, model, sequence_length)
    computed_for = stamp(weights, config, batches)
    if wanted.cache:
        cached = read_cache(wanted.cache, computed_for, sites, progress.warn)
        if cached:
            return cached
    found = calibrate(weights, config, sites, progress.bar(batches, "Calibrating", " windows"))
    if wanted.cache:
        write_cache(wanted.cache, found, computed_for)
    return found


def windows(wanted: Calibration, model: Model, sequence_length: int) -> list[Batch]:
    """Windows of one sequence each, spread evenly over a SQuAD file. Raises InputError where it has fewer."""
    passages, questions = squad.read(wanted.squad_json)
    texts, passage_of = [q.text for q in questions], [q.passage for q in questions]
    encoded = encode(passages, texts, passage_of, model.tokenizer, model.template, Options(sequence_length))
    count, total = wanted.windows, len(encoded.windows)
    if total < count:
        raise InputError(f"SQuAD file {wanted.squad_json} has {total} windows, fewer than {count}", "lower {calib_num}")
    return [encoded.batch([encoded.windows[i * total // count]]) for i in range(count)]


def calibrate(weights: BertWeights, config: BertConfig, sites: Sites, batches: Iterable[Batch]) -> dict[str, float]:
    """The range of each tensor that int8 needs, by its site's name, over batches of one sequence each."""
    from helpers import backends  # which know of calibration themselves

    seen = [site for site in sites if site.quantizers]

    def amax(site: Site, value: np.ndarray) -> float:
        return quantile(np.abs(value).ravel(), CUT_QUANTILE if site.part in CUT else 1.0)

    found = [
        [amax(site, value) for site, value in zip(seen, values)]
        for values in backends.observer().observe(weights, config, sites, seen, batches)
    ]

    def over_windows(site: Site, mean: float, highest: float) -> float:
        # A probability may always be 1, and rarely is: what was seen would cut off every decided attention.
        if site.part is Part.PROBABILITIES:
            return 1.0
        return max(float(highest if site.part is Part.ACTIVATION else mean), float(np.finfo(np.float32).tiny))

    return {site.name: over_windows(site, *each) for site, *each in zip(seen, np.mean(found, 0), np.max(found, 0))}


def quantile(values: np.ndarray, fraction: float) -> float:
    """The value that `fraction` of `values` [n] do not exceed."""
    rank = int(fraction * (values.size - 1))
    return float(values.max() if fraction == 1 else np.partition(values, rank)[rank])


def stamp(weights: BertWeights, config: BertConfig, batches: Sequence[Batch]) -> str:
    """What a calibration depends on, in one number: the model, the text and its windows, the method."""
    digest = hashlib.sha256(repr((config, CUT_QUANTILE, "mean, GELU maximum")).encode())
    for array in weights.tensors().values():
        digest.update(np.ascontiguousarray(array).data)
    for batch in batches:
        digest.update(batch.input_ids.data)
        digest.update(batch.segment_ids.data)
    return digest.hexdigest()


def check_cache(path: Path) -> dict[str, Any] | None:
    """What a cache file holds, of whatever model; None where there is none yet, or an empty file.

    Raises:
        InputError: another file is there, which calibration must not replace.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return None
    if not path.is_file():
        raise InputError(f"{path} is not a calibration cache", "name another file")
    try:
        cache = read_object(path, "")
    except InputError as e:
        raise InputError(f"{path} is not a calibration cache, and would be replaced by one: {e}", "name another file") from e
    if not (cache.keys() == {"stamp", "ranges"} and isinstance(cache["stamp"], str) and isinstance(cache["ranges"], dict)):
        raise InputError(f"{path} is not a calibration cache, and would be replaced by one", "name another file")
    return cache


def read_cache(path: Path, expected: str, sites: Sites, warn: Callable[[str], None]) -> dict[str, float] | None:
    """The ranges in a cache file, or None where there is none, or none of this model and text (with a warning).

    Raises:
        InputError: as `check_cache`.
    """
    cache = check_cache(path)
    if cache is None:
        return None
    found = cache["ranges"]
    whole = found.keys() == quantizers(sites).keys() and all(type(a) is float and 0 < a < math.inf for a in found.values())
    if cache["stamp"] == expected and whole:
        return dict(found)
    reason = "damaged" if cache["stamp"] == expected else "of another model, sequence length or text"
    warn(f"calibration cache {path} is {reason}: ignored, and replaced after calibration")
    return None


def write_cache(path: Path, ranges: dict[str, float], computed_for: str) -> None:
    """Writes ranges and their stamp atomically."""
    write_json(path, {"stamp": computed_for, "ranges": ranges})
