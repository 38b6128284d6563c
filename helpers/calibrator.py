"""Activation ranges for int8 without quantization-aware training: run real text in float32 and look.

The float32 network runs on ONNX Runtime, on the CPU, whichever backend the engine is for: it is the same network
(helpers/bert.py), its tensors have the names that ranges go by, windows need no padding, and no second TensorRT
engine has to be built. See Wu et al., 2020, arXiv:2004.09602, for calibration by percentile.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers import answer, squad
from helpers.bert import bert_qa
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_json
from helpers.ranges import PROBABILITIES, is_added, is_gelu, quantizers
from helpers.tokenization import Tokenizer
from helpers.weights import BertWeights
from helpers.windows import Batch, fill

# A range is the mean over windows of a tensor's largest absolute value in each; docs/benchmarks.md has what else was
# tried. What is added to a residual, and GELU's output, have a few values far beyond all others, which are cut off.
CUT_QUANTILE = 0.99999


def windows(path: Path, count: int, sequence_length: int, tokenizer: Tokenizer) -> list[Batch]:
    """`count` windows of one sequence each, spread evenly over a SQuAD file. Raises InputError where it has fewer."""
    encoded = answer.encode_squad(*squad.read(path), tokenizer, answer.Options(sequence_length))
    if len(encoded.windows) < count:
        raise InputError(f"SQuAD file {path} has {len(encoded.windows)} windows, fewer than --calib-num {count}")
    chosen = [encoded.windows[i * len(encoded.windows) // count] for i in range(count)]
    return [fill(encoded, [window], window.length) for window in chosen]


def calibrate(weights: BertWeights, config: BertConfig, batches: Iterable[Batch], megatron: bool = False) -> dict[str, float]:
    """The range of each tensor that int8 needs, by the network's names. `batches` are windows without padding."""
    import onnxruntime

    from helpers.graphs.onnx import PaddedOnnxGraph

    heads = config.num_attention_heads
    graph = PaddedOnnxGraph(heads, weights.head_size(heads), config.layer_norm_eps, megatron=megatron)
    bert_qa(graph, weights)
    names = list(quantizers(config.num_hidden_layers, megatron))
    graph.expose(names)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.model({}), settings, providers=["CPUExecutionProvider"])

    found: list[list[float]] = []
    for batch in batches:
        values = [np.abs(value).ravel() for value in session.run(names, batch._asdict())]
        found.append([quantile(value, CUT_QUANTILE if is_added(n) or is_gelu(n) else 1.0) for n, value in zip(names, values)])
    over_windows = zip(names, np.mean(found, 0), np.max(found, 0))
    ranges = {name: highest if is_gelu(name) else mean for name, mean, highest in over_windows}
    # A probability may always be 1, and rarely is: what was seen would cut off every decided attention.
    ranges |= {name: 1.0 for name in names if name.endswith(PROBABILITIES)}
    return {name: max(float(amax), float(np.finfo(np.float32).tiny)) for name, amax in ranges.items()}


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
    return digest.hexdigest()


def read_cache(path: Path, expected: str, num_layers: int, warn: Callable[[str], None]) -> dict[str, float] | None:
    """The ranges in a cache file, or None where there is none, or none of this model and text (with a warning)."""
    if not path.exists():
        return None
    try:
        cache: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {str(name): float(amax) for name, amax in cache["ranges"].items()}
        if cache["stamp"] != expected:
            reason = "of another model, sequence length or text"
        elif found.keys() != quantizers(num_layers).keys() or not all(0 < amax < math.inf for amax in found.values()):
            reason = "damaged"
        else:
            return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        reason = "not one of this project"
    warn(f"calibration cache {path} is {reason}: ignored, and replaced after calibration")
    return None


def write_cache(path: Path, ranges: dict[str, float], computed_for: str) -> None:
    """Writes ranges and their stamp atomically."""
    write_json(path, {"stamp": computed_for, "ranges": ranges})
