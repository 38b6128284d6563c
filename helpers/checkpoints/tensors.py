"""The tensors of a file, by the names that it has for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.errors import InputError


class Tensors(NamedTuple):
    """What a file holds: `arrays` of any float dtype, and the `dtypes` of all of its tensors, those that are no floats too."""

    arrays: Mapping[str, np.ndarray]
    dtypes: Mapping[str, str]

    @classmethod
    def of(cls, entries: Mapping[str, np.ndarray | str]) -> Tensors:
        """Of arrays, and the dtypes of what is none of floats."""
        arrays = {name: entry for name, entry in entries.items() if not isinstance(entry, str)}
        return cls(arrays, {name: entry if isinstance(entry, str) else entry.dtype.name for name, entry in entries.items()})


def add(named: dict[str, np.ndarray], name: str, array: np.ndarray, source: Path) -> None:
    """Adds an array under a name; a file may have it twice, by two spellings or in two parts.

    Raises:
        InputError: another one has that name.
    """
    if not np.array_equal(named.setdefault(name, array), array, equal_nan=True):
        raise InputError(f"{source} has {name[:200]} twice, with different numbers", "keep the one that the model was trained to")


def widened(bits: np.ndarray) -> np.ndarray:
    """float32 of bfloat16, which NumPy lacks: its bits are the upper half of float32's."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
