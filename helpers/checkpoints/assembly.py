"""What every loader ends with: a file's tensors, held against its configuration, become BertWeights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Callable

import numpy as np

from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights, tensor_shapes


def assemble(
    named: Mapping[str, np.ndarray],
    config: BertConfig,
    path: Path,
    present: Iterable[str],
    spelled: Callable[[str], str] = str,
    ranges: Mapping[str, float] | None = None,
) -> BertWeights:
    """BertWeights from the tensors of a file.

    Args:
        named: arrays of any float dtype under the family's Hugging Face names; further names are ignored.
        present: all names that the file has, in its own spelling.
        spelled: turns a Hugging Face name into the file's own, for messages.
        ranges: quantizer name → absolute maximum.

    Raises:
        InputError: as `check_tensors` and `check_depth`.
    """
    shapes, tensor_name = tensor_shapes(config), config.family.tensor_name
    # As the file spells the encoder's layers: a part beside it may number its own as it likes.
    layers = re.escape(spelled(tensor_name("bert.encoder.layer.0.output.dense.bias")).rpartition("0")[0])
    numbers = [int(number) for name in present for number in re.findall(rf"{layers}(\d+)[./]", name)]
    check_depth(max(numbers, default=-1) + 1, config, str(path))
    arrays = dict(config.family.constants(shapes)) | {
        name: named[tensor_name(name)] for name in shapes if tensor_name(name) in named
    }
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which check_tensors reports
        floats = {name: np.asarray(array, np.float32, order="C") for name, array in arrays.items()}
    check_tensors(floats, config, str(path), lambda name: spelled(tensor_name(name)))
    return BertWeights.from_tensors(floats, ranges)


def check_tensors(named: Mapping[str, np.ndarray], config: BertConfig, source: str, spelled: Callable[[str], str] = str) -> None:
    """Holds tensors against a configuration.

    Args:
        named: arrays under Hugging Face names; further names are ignored.
        source: the file, for messages.
        spelled: turns a Hugging Face name into the file's own, for messages.

    Raises:
        InputError: lists every missing tensor, or every wrong shape, or every tensor with NaN or infinity.
    """
    shapes = tensor_shapes(config)
    spelling = {name: spelled(name) for name in shapes}  # several may be parts of one fused tensor of the file
    missing = dict.fromkeys(spelling[name] for name in shapes if name not in named)
    if missing:
        raise InputError(f"{source} lacks {len(missing)} of {len(set(spelling.values()))} tensors: {', '.join(missing)}")
    wrong = [
        f"{spelling[name]}: expected {list(shape)}, found {list(named[name].shape)}"
        for name, shape in shapes.items()
        if named[name].shape != shape
    ]
    if wrong:
        raise InputError(f"{source} does not fit its configuration: {'; '.join(wrong)}")
    odd = [spelling[name] for name in shapes if not np.isfinite(named[name]).all()]
    if odd:
        raise InputError(f"{source} holds NaN or infinity in {', '.join(odd)}")


def check_depth(depth: int, config: BertConfig, source: str) -> None:
    """Raises InputError where a model has more layers than its configuration; fewer show as missing tensors."""
    if depth > config.num_hidden_layers:
        raise InputError(f"{source} has {depth} encoder layers, its configuration {config.num_hidden_layers}")
