"""Batches of random tokens, what sessions and Hugging Face's model make of them, and how far two results are apart."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from helpers import backends
from helpers.backends.base import Network
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.config import BertConfig
from helpers.layouts import Batch, Profile, bounds_of
from helpers.precision import choose
from helpers.progress import Progress
from helpers.request import BuildRequest
from helpers.weights import BertWeights


def onnx_blob(
    weights: BertWeights,
    config: BertConfig,
    profiles: Sequence[Profile],
    packed: bool = False,
    ranges: Mapping[str, float] | None = None,
    megatron: bool = False,
) -> bytes:
    """The ONNX engine of a network, in int8 where there are ranges."""
    sites = config.family.sites(config, megatron)
    network = Network(config, weights, sites, choose(fp16=False, int8=ranges is not None), ranges or {})
    request = BuildRequest("pytorch", Path("none"), tuple(profiles), packed=packed)
    return bytes(backends.find("onnxruntime").compile(network, request, Progress()).blob)


def session_of(weights: BertWeights, config: BertConfig, folder: Path, packed: bool = False) -> OnnxRuntimeSession:
    path = folder / "model.engine"
    path.write_bytes(onnx_blob(weights, config, [Profile(5, config.max_position_embeddings)], packed))
    return OnnxRuntimeSession(path)


def run(session: Any, batch: Batch) -> np.ndarray:
    [logits] = session.stream([batch])
    return logits


def sequences(array: np.ndarray, batch: Batch) -> list[np.ndarray]:
    """What stands at the tokens of each sequence."""
    return np.split(array, batch.cu_seqlens[1:-1])


def alone(batch: Batch, index: int) -> Batch:
    """One sequence of a batch."""
    ids, segments = (sequences(array, batch)[index] for array in (batch.input_ids, batch.segment_ids))
    return Batch(ids, segments, bounds_of([len(ids)]))


def padded(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, segment ids and mask [B, S], one row after the other; padding is token 0 of segment 0."""
    shape = (len(batch.lengths), batch.longest)
    ids, segments, mask = (np.zeros(shape, np.int32) for _ in range(3))
    for row, (some_ids, some_segments) in enumerate(zip(sequences(batch.input_ids, batch), sequences(batch.segment_ids, batch))):
        ids[row, : len(some_ids)], segments[row, : len(some_ids)], mask[row, : len(some_ids)] = some_ids, some_segments, 1
    return ids, segments, mask


def theirs(model: Any, batch: Batch) -> np.ndarray:
    """What Hugging Face's model gives, [T, W], or [B, W] where it gives one for each sequence."""
    import torch

    ids, segments, mask = (torch.from_numpy(array).long() for array in padded(batch))
    kinds = {"token_type_ids": segments} if "token_type_ids" in inspect.signature(model.forward).parameters else {}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, **kinds)
    if hasattr(found, "start_logits"):
        tokens = torch.stack((found.start_logits, found.end_logits), -1)
    else:
        tokens = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return tokens.numpy() if tokens.ndim == 2 else tokens.numpy()[mask.numpy() == 1]


def of_lengths(lengths: Sequence[int], config: BertConfig, seed: int = 0) -> Batch:
    """Random tokens and segments in sequences of these lengths."""
    generator = np.random.default_rng(seed)
    kinds = max(1, config.type_vocab_size)
    ids, segments = (generator.integers(0, n, sum(lengths), np.int32) for n in (config.vocab_size, kinds))
    return Batch(ids, segments, bounds_of(lengths))


def ragged(config: BertConfig, size: int, length: int, seed: int) -> Batch:
    """Random tokens and segments; lengths from one token to `length`."""
    lengths = np.random.default_rng(seed).integers(1, length + 1, size)
    return of_lengths(lengths.tolist(), config, seed)


def difference(found: np.ndarray, expected: np.ndarray, batch: Batch) -> float:
    """The largest absolute difference of a token's logit."""
    assert found.shape == expected.shape == (len(batch.input_ids), 2)
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max())


def rounded(x: Any, amax: float | None) -> Any:
    return x if amax is None else (x * 127 / amax).round().clamp(-128, 127) * amax / 127


def session(blob: bytes, optimized: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def rms(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).mean()))


def strays(x: np.ndarray, batch: Batch) -> int:
    """Sequences of which some logit is off by more than float32 explains."""
    return sum(bool((np.abs(part) > 1e-3).any()) for part in sequences(x, batch))
