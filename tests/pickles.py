"""Megatron pickles: a small model, and pickles that run code when they are read."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import arrays_of, random_model, small_config
from tests.quantized import QUANTIZERS, SUMS

CONFIG = small_config()
FUSED = "bert.encoder.layers.0.attention.self.query_key_value"
OUTPUT = "bert.encoder.layers.1.output.dense.weight"
FINAL_OUTPUT = "bert.encoder.layers.1.output.LayerNorm.output_quantizer"

EXPECTED = arrays_of(random_model(CONFIG))  # what a loader must give, by Hugging Face's names
RANGES = {name: 1.0 + i for i, name in enumerate((*QUANTIZERS, *(name for [name] in SUMS.values())))}


def megatron_arrays() -> dict[str, np.ndarray]:
    """The model under Megatron's names, and a range of its own for every quantizer."""
    found = {}
    for name, array in EXPECTED.items():
        if ".query." in name:
            array = np.concatenate([EXPECTED[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("query", "query_key_value")
        if not re.search(r"\.(key|value)\.", name):
            found[name.replace("encoder.layer.", "encoder.layers.")] = array
    for name, amax in RANGES.items():
        name = name.replace("encoder.layer.", "encoder.layers.").replace("self.query.", "self.query_key_value.")
        found[f"{FINAL_OUTPUT if 'final' in name else name}._amax"] = np.array([amax], np.float32)
    return found


ARRAYS = megatron_arrays()


def dump(path: Path, state: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(state, protocol))
    return path


# Code

CANARY = "canary"
TOUCH = f"touch {CANARY}"


class Call:
    """Pickled, it asks for a call when it is read; `state` is set upon what that gives."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced
