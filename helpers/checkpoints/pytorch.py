"""PyTorch state dicts, safetensors files and Hugging Face folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers.checkpoints import pickles
from helpers.checkpoints.assembly import assemble
from helpers.checkpoints.contents import PICKLE, SAFETENSORS, TORCH, kind_of
from helpers.checkpoints.folder import FOLDER_FILES, find_file
from helpers.checkpoints.tensors import Tensors, add, widened
from helpers.checkpoints.writing import MARK, contents, narrowed
from helpers.config import BertConfig
from helpers.errors import InputError, listed
from helpers.files import write_folder
from helpers.precision import FLOAT16
from helpers.reading import parse_json, read_object
from helpers.weights import BertWeights

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
LEAST_RANGE, LARGEST_RANGE = 2.0**-24, FLOAT16.largest  # float16's numbers, in which int8 networks compute the rest
LONGEST_HEADER = 16 << 20  # bytes of a safetensors file; that of a model of 1,000 layers takes some 2 MiB


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a state dict (flat, or nested under `model` or `state_dict`), a safetensors file, the index of several files of
    either kind, or a folder with one of these.

    Raises:
        InputError: the file is missing, damaged, of another format, or would run code when it is read; a tensor is missing
            or has another shape than `config` asks for, or is of no floats.
    """
    path = find_file(path)
    return from_names(read_index(path) if path.suffix == ".json" else read_file(path), config, path)


def save(folder: Path, weights: BertWeights, config: BertConfig, tokenizer: Path) -> None:
    """Fills a folder as Hugging Face does: configuration, a copy of the tokenizer and the weights; whole or not at all.

    Args:
        tokenizer: one file of it, or a folder that has them.
    """
    write_folder(folder, contents({FOLDER_FILES[0]: [dumps(weights, config)]}, config, tokenizer))


def dumps(weights: BertWeights, config: BertConfig) -> bytes:
    """A safetensors file: float16 weights, float32 ranges, under Hugging Face's names."""
    import safetensors.numpy

    tensors = {config.family.tensor_name(name, config): narrowed(array) for name, array in weights.tensors().items()}
    ranges = {f"{name}._amax": np.float32(amax).reshape(1) for name, amax in weights.ranges.items()}
    return safetensors.numpy.save({**tensors, **ranges}, {"format": "pt", "note": MARK})


def from_names(tensors: Tensors, config: BertConfig, path: Path) -> BertWeights:
    """BertWeights from arrays under the file's names, which are Hugging Face's or an older spelling of them."""
    spelling = {canonical(name): name for name in tensors.dtypes}
    named: dict[str, np.ndarray] = {}
    for name, array in tensors.arrays.items():
        add(named, canonical(name), array, path)
    prefix = "module." if any(name.startswith("module.") for name in tensors.dtypes) else ""
    old = any(name.endswith(("LayerNorm.gamma", "LayerNorm.beta")) for name in tensors.dtypes)

    def spelled(name: str) -> str:
        if name in spelling:
            return spelling[name]
        if old:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return prefix + name

    return assemble(named, config, path, tensors.dtypes, spelled, read_ranges(tensors.arrays, path))


def canonical(name: str) -> str:
    """Today's Hugging Face name, given an older spelling (gamma, beta) or a wrapped model's (module.)."""
    name = re.sub(r"^module\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(r"matmul_([qkva])_input", lambda m: {"q": "qv_a", "k": "qv_b", "v": "av_b", "a": "av_a"}[m[1]] + "_input", name)


def read_ranges(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, float]:
    """The activation ranges among a file's tensors: quantizer name, without `._amax`, → absolute maximum.

    Ranges of weights are left out: TensorRT derives a scale for each output channel itself.
    """
    ranges: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        quantizer = canonical(name)[: -len("._amax")]
        if not name.endswith("._amax") or quantizer.endswith("_weight_quantizer"):
            continue
        if np.size(array) != 1 or not np.isfinite(array).all() or np.min(array) <= 0:
            found = " ".join(f"{array}"[:60].split())
            raise InputError(
                f"{path}: range {name[:200]} must be one positive number, found shape {list(np.shape(array))}: {found}"
            )
        if not LEAST_RANGE <= np.min(array) <= LARGEST_RANGE:
            span = f"{LEAST_RANGE:.1g} to {LARGEST_RANGE:,.0f}"
            raise InputError(
                f"{path}: range {name[:200]} is {np.min(array):.3g}, which is none of float16's numbers, {span}",
                "export the checkpoint again",
            )
        add(ranges, quantizer, np.reshape(array, ()), path)
    return {name: float(amax) for name, amax in ranges.items()}


# Files


def read_index(path: Path) -> Tensors:
    """The tensors of the files that an index names, which lie beside it."""
    table = read_object(path, "").get("weight_map")
    if not (isinstance(table, dict) and all(isinstance(name, str) for name in table.values())):
        raise InputError(f"{path} is not a whole index of a checkpoint's files", "fetch it again, or name the checkpoint")
    names = sorted(set(table.values()))
    if not all(os.path.basename(name) == name for name in names):
        raise InputError(f"{path} names files outside of its folder", "fetch it again")
    missing = [ascii(name)[1:-1][:60] for name in names if not os.path.isfile(path.parent / name)]
    if missing:
        raise InputError(f"{path} names {len(missing)} files that are not beside it: {listed(missing)}", "fetch them too")
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for part in names:
        found = read_file(path.parent / part)
        dtypes.update(found.dtypes)
        for name, array in found.arrays.items():
            add(arrays, name, array, path)
    return Tensors(arrays, dtypes)


def read_file(path: Path) -> Tensors:
    """The tensors of one file, which lie in it and are not copied where their dtype allows."""
    kind = kind_of(path, SAFETENSORS, TORCH, PICKLE)
    return read_safetensors(path) if kind is SAFETENSORS else pickles.read(path, kind)


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, mapped; bfloat16, which NumPy lacks, widened to float32."""
    import safetensors

    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if start > LONGEST_HEADER:
            raise ValueError(f"its header has {start - 8} bytes")
        with safetensors.safe_open(str(path), framework="numpy"):  # checks the header: all lies within the file
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as e:
        raise InputError(f"{path} is not a whole safetensors file: {str(e)[:200]}") from e
    header = parse_json(data[8:start].tobytes(), f"{path}, its header,")
    shared = header.pop("__metadata__", {})

    def entry(told: Mapping[str, Any]) -> np.ndarray | str:
        dtype, shape, (begin, end) = told["dtype"], told["shape"], told["data_offsets"]
        raw = data[start + begin : start + end]
        if dtype == "BF16":
            return widened(raw.view(np.uint16)).reshape(shape)
        if dtype in FLOATS:
            return np.require(raw.view(FLOATS[dtype]), requirements="A").reshape(shape)
        return spelled_out(dtype)

    try:
        tensors = {name: entry(told) for name, told in header.items()}
    except ValueError as e:  # more dimensions than NumPy has
        raise InputError(f"{path} is not a whole safetensors file: {e}") from e
    # Tensors that share their numbers are stored once: safetensors' save_model notes the other names.
    return Tensors.of({**{name: tensors[other] for name, other in shared.items() if other in tensors}, **tensors})


def spelled_out(dtype: str) -> str:
    """A dtype's usual name: int8 for I8, float8_e4m3 for F8_E4M3."""
    kinds = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
    found = re.fullmatch(r"([IUFC])(\d+.*)", dtype)
    return f"{kinds[found[1]]}{found[2]}".lower() if found else dtype.lower()
