"""Megatron-LM state dicts: a pickled dictionary from name to array."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.checkpoints import pytorch
from helpers.checkpoints.assembly import assemble
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes
from helpers.weights import BertWeights

FUSED = "query_key_value"  # rows [3, N, D], in this order
PARTS = ("query", "key", "value")
FINAL_RANGE = "bert.encoder.final_input_quantizer"
# What torch.save writes begins with one of these: a zip file's head, or, before PyTorch 1.6, a number pickled.
TORCH_SAVE = (b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a pickle of arrays or tensors, or what torch.save wrote, without running any code that it holds.

    Raises:
        InputError: the file is missing, damaged, or asks for anything but arrays; a tensor is missing or has another
            shape than `config` asks for; a range is not one positive number.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(14)
    except OSError as e:
        raise InputError(f"checkpoint {path} cannot be read: {e.strerror}") from e
    tensors = pytorch.read_state_dict(path) if head.startswith(TORCH_SAVE) else read_pickle(path)
    depth = config.num_hidden_layers
    spelling = {hugging_face_name(name, depth): name for name in tensors if "scale" not in name}
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
        megatron = megatron_name(name, depth)
        return spelling.get(name) or spelling.get(hugging_face_name(megatron, depth), megatron)

    return assemble(named, config, path, tensors, spelled, pytorch.read_ranges(named, path))


def save(path: Path, weights: BertWeights) -> None:
    """Writes a pickle that `load` reads: float16 weights, float32 ranges, under Megatron's names."""
    named = weights.tensors()
    tensors: dict[str, np.ndarray] = {}
    for name, array in named.items():
        if ".query." in name:
            array = np.concatenate([named[name.replace(".query.", f".{part}.")] for part in PARTS])
        if not re.search(r"\.(key|value)\.", name):
            tensors[megatron_name(name, len(weights.layers))] = array.astype(np.float16)
    for name, amax in weights.ranges.items():
        tensors[f"{megatron_name(name, len(weights.layers))}._amax"] = np.float32(amax).reshape(1)
    write_bytes(path, pickle.dumps(tensors, protocol=4))


def megatron_name(name: str, num_layers: int) -> str:
    """The Megatron name of a Hugging Face one."""
    name = name.replace(FINAL_RANGE, f"bert.encoder.layer.{num_layers - 1}.output.LayerNorm.output_quantizer")
    return re.sub(r"\.(query|key|value)\.", f".{FUSED}.", name).replace("encoder.layer.", "encoder.layers.")


def hugging_face_name(name: str, num_layers: int) -> str:
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
        if isinstance(state, dict) and isinstance(state.get("model"), dict):
            state = state["model"]
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}, not a dictionary (name → array)")
        arrays = {name: as_array(value) for name, value in state.items() if isinstance(name, str)}
    except InputError as e:
        raise InputError(f"{path} is not a pickle that can be read safely: {e}") from e
    except Exception as e:  # a damaged pickle can raise whatever its parts raise
        raise InputError(f"{path} is not a whole pickle of arrays: {pytorch.reason(e)}") from e
    return {name: array for name, array in arrays.items() if array is not None}


def as_array(value: Any) -> np.ndarray | None:
    """A float array or tensor as a NumPy array; None for anything else."""
    if isinstance(value, PickledArray):
        return value.array
    if hasattr(value, "detach"):
        return value.detach().float().contiguous().numpy() if value.is_floating_point() else None
    return np.float32(value).reshape(1) if isinstance(value, float) else None


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds dictionaries, NumPy arrays and PyTorch tensors, and refuses every other name a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        found = torch_parts().get(asked) if module.split(".")[0] == "torch" else PARTS_OF_PICKLES.get(asked)
        if found is None:
            asked = ascii(f"{module}.{name}")[1:-1]  # a name may hold anything, even what a terminal obeys
            raise InputError(f"it asks for {asked}, which no array needs")
        return found


class StateDict(dict[str, Any]):
    """Stands for an OrderedDict, of which a PyTorch module's has notes beside its entries."""

    def __setstate__(self, state: Any) -> None:
        pass


class PickledDtype:
    """Stands for numpy.dtype. NumPy's own takes any state, such as one that turns an array's bytes into pointers."""

    order: Any = "="

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1]

    def read(self, data: Any, shape: Sequence[int], order: Any) -> np.ndarray | None:
        """The array [shape] that `data` holds, or None where its elements are not floats."""
        if not re.fullmatch(r"f\d+", self.code):
            return None
        return np.frombuffer(data, np.dtype(self.code).newbyteorder(self.order)).reshape(shape, order=order)


class PickledArray:
    """Stands for a NumPy array, which is made empty first and then given its content."""

    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, data = state
        self.array = dtype.read(data, shape, "F" if fortran else "C")

    @classmethod
    def scalar(cls, dtype: PickledDtype, data: bytes) -> PickledArray:
        return cls.buffer(data, dtype, (1,), "C")

    @classmethod
    def buffer(cls, data: Any, dtype: PickledDtype, shape: Sequence[int], order: str, *_: Any) -> PickledArray:
        made = cls()
        made.array = dtype.read(data, shape, order)
        return made


PARTS_OF_PICKLES: Mapping[str, Any] = {
    "collections.OrderedDict": StateDict,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # protocol 2 writes bytes as text
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledDtype,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy.core.multiarray.scalar": PickledArray.scalar,
    "numpy.core.numeric._frombuffer": PickledArray.buffer,
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

    def tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
        whole = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
        return whole.as_strided(size, stride, offset)  # which stays within the storage, as _rebuild_tensor does not

    return {
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.storage._load_from_bytes": storage,
    }
