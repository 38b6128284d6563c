"""Megatron-LM state dicts: a pickled dictionary from name to array."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers.checkpoints import pytorch
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes
from helpers.weights import BertWeights, assemble

FUSED = "query_key_value"  # rows [3, N, D], in this order
PARTS = ("query", "key", "value")
FINAL_RANGE = "bert.encoder.final_input_quantizer"


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a pickle of arrays or tensors, or what torch.save wrote, without running any code that it holds.

    Raises:
        InputError: the file is missing, damaged, or asks for anything but arrays; a tensor is missing or has another
            shape than `config` asks for; a range is not one positive number.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(2)
    except OSError as e:
        raise InputError(f"checkpoint {path} cannot be read: {e.strerror}") from e
    tensors = pytorch.read_state_dict(path) if head == b"PK" else read_pickle(path)
    depth = config.num_hidden_layers
    spelling = {ours(name, depth): name for name in tensors if "scale" not in name}
    named: dict[str, np.ndarray] = {}
    for name, written in spelling.items():
        array = tensors[written]
        prefix, fused, kind = name.partition(f"{FUSED}.")
        if not fused:
            named[name] = array
        elif kind.endswith("_amax"):
            named.update({f"{prefix}{part}.{kind}": array for part in PARTS})
        elif array.shape[:1] == (3 * config.hidden_size,):
            named.update({f"{prefix}{part}.{kind}": rows for part, rows in zip(PARTS, np.split(array, 3))})
        else:
            raise InputError(f"{path}: {written} must have {3 * config.hidden_size} rows, found shape {list(array.shape)}")

    def spelled(name: str) -> str:
        megatron = theirs(name, depth)
        return spelling.get(ours(megatron, depth), megatron)

    return assemble(named, config, path, tensors, spelled, pytorch.read_ranges(named, path))


def save(path: Path, weights: BertWeights) -> None:
    """Writes a pickle that `load` reads: float16 weights, float32 ranges, under Megatron's names."""
    named = weights.tensors()
    tensors: dict[str, np.ndarray] = {}
    for name, array in named.items():
        if ".query." in name:
            array = np.concatenate([named[name.replace(".query.", f".{part}.")] for part in PARTS])
        if not re.search(r"\.(key|value)\.", name):
            tensors[theirs(name, len(weights.layers))] = array.astype(np.float16)
    for name, amax in weights.ranges.items():
        tensors[f"{theirs(name, len(weights.layers))}._amax"] = np.float32(amax).reshape(1)
    write_bytes(path, pickle.dumps(tensors, protocol=4))


def theirs(name: str, num_layers: int) -> str:
    """The Megatron name of a Hugging Face one."""
    name = name.replace(FINAL_RANGE, f"bert.encoder.layer.{num_layers - 1}.output.LayerNorm.output_quantizer")
    return re.sub(r"\.(query|key|value)\.", f".{FUSED}.", name).replace("encoder.layer.", "encoder.layers.")


def ours(name: str, num_layers: int) -> str:
    """The Hugging Face name of a Megatron one; the fused projection, which has none, keeps its own."""
    name = pytorch.canonical(name).replace("encoder.layers.", "encoder.layer.").replace("dense_act.", "dense.")
    name = re.sub(r"^bert\.embeddings?[._]", "bert.embeddings.", name)
    name = re.sub(r"embeddings\.(word|position|token_?type)_embeddings?\.", r"embeddings.\1_embeddings.", name)
    name = name.replace("tokentype_", "token_type_")
    return name.replace(f"bert.encoder.layer.{num_layers - 1}.output.LayerNorm.output_quantizer", FINAL_RANGE)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The float arrays of a pickled dictionary. Raises InputError where it holds, or asks for, anything else."""
    try:
        with open(path, "rb") as file:
            state = ArrayUnpickler(file).load()
    except InputError as e:
        raise InputError(f"{path} is not a pickle that can be read safely: {e}") from e
    except Exception as e:  # a damaged pickle can raise whatever its parts raise
        text = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{path} is not a whole pickle of arrays: {text}") from e
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not a dictionary (name → array)")
    arrays = {name: as_array(value) for name, value in state.items() if isinstance(name, str)}
    return {name: array for name, array in arrays.items() if array is not None}


def as_array(value: Any) -> np.ndarray | None:
    """A float array or tensor as a NumPy array; None for anything else."""
    if hasattr(value, "detach") and hasattr(value, "is_floating_point"):
        value = value.detach().float().numpy() if value.is_floating_point() else None
    if isinstance(value, (float, np.floating)):
        value = np.float32(value).reshape(1)
    return value if isinstance(value, np.ndarray) and value.dtype.kind == "f" else None


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds dictionaries, NumPy arrays and PyTorch tensors, and refuses every other name a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        found = allowed(module.replace("numpy._core", "numpy.core"), name)
        if found is None:
            raise InputError(f"it asks for {module}.{name}, which no array needs")
        return found


def allowed(module: str, name: str) -> Any:
    """What stands for a global of a pickle, or None where arrays do not need it."""
    asked = f"{module}.{name}"
    if asked == "collections.OrderedDict":
        return dict
    if asked == "_codecs.encode":  # protocol 2 writes bytes as text
        return lambda text, encoding: text.encode("latin1")
    if module.startswith("numpy"):
        return numpy_parts().get(asked)
    if module.startswith("torch"):
        return torch_parts().get(asked)
    return None


def numpy_parts() -> Mapping[str, Any]:
    """What rebuilds NumPy arrays; where it lives differs between versions, so it is taken from arrays themselves."""
    array = np.zeros(1, np.float32)
    return {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray._reconstruct": array.__reduce__()[0],
        "numpy.core.multiarray.scalar": array[0].__reduce__()[0],
        "numpy.core.numeric._frombuffer": array.__reduce_ex__(5)[0],
    }


def torch_parts() -> Mapping[str, Any]:
    """What rebuilds PyTorch tensors."""
    try:
        import torch
    except ImportError as e:
        raise InputError(
            f"it holds PyTorch tensors, and reading them needs PyTorch: pip install -r requirements-convert.txt ({e})"
        ) from e

    def storage(data: bytes) -> Any:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    return {
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch.storage._load_from_bytes": storage,
    }
