"""Megatron-LM state dicts: a pickled dictionary from name to array."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np

from helpers.checkpoints import pickles, pytorch
from helpers.checkpoints.assembly import assemble
from helpers.checkpoints.contents import PICKLE, TEXT, TORCH, UNKNOWN, kind_of
from helpers.checkpoints.tensors import add
from helpers.checkpoints.writing import MARK, narrowed
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes
from helpers.weights import BertWeights

FUSED = "query_key_value"  # rows [3, N, D], in this order
PARTS = ("query", "key", "value")
FINAL_RANGE = "bert.encoder.final_input_quantizer"


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a pickle of arrays or tensors, or what torch.save wrote, without running any code that it holds.

    Raises:
        InputError: the file is missing, damaged, or asks for anything but arrays; a tensor is missing or has another
            shape than `config` asks for; a range is not one positive number.
    """
    kind = kind_of(path, PICKLE, TORCH, TEXT, UNKNOWN)  # the older protocols begin with anything
    tensors = pickles.read(path, kind)
    depth, rows = config.num_hidden_layers, 3 * config.hidden_size
    spelling = {hugging_face_name(name, depth): name for name in tensors.dtypes if "scale" not in name}
    named: dict[str, np.ndarray] = {}
    for written, array in tensors.arrays.items():
        if "scale" in written:
            continue
        name = hugging_face_name(written, depth)
        prefix, fused, kind_of_part = name.partition(f"{FUSED}.")
        if fused and not kind_of_part.endswith("_amax") and array.shape[:1] != (rows,):
            raise InputError(f"{path}: {written[:200]} must have {rows} rows, found shape {list(array.shape)}")
        if not fused:
            add(named, name, array, path)
        else:
            parts = [array] * 3 if kind_of_part.endswith("_amax") else np.split(array, 3)
            for part, each in zip(PARTS, parts):
                add(named, f"{prefix}{part}.{kind_of_part}", each, path)

    def spelled(name: str) -> str:
        megatron = megatron_name(name, depth)
        return spelling.get(name) or spelling.get(hugging_face_name(megatron, depth), megatron)

    return assemble(named, config, path, tensors.dtypes, spelled, pytorch.read_ranges(named, path))


def save(path: Path, weights: BertWeights) -> None:
    """Writes a pickle that `load` reads."""
    write_bytes(path, dumps(weights))


def dumps(weights: BertWeights) -> bytes:
    """A pickle: float16 weights, float32 ranges, under Megatron's names."""
    named = weights.tensors()
    tensors: dict[str, np.ndarray | str] = {"note": MARK}
    for name, array in named.items():
        if ".query." in name:
            array = np.concatenate([named[name.replace(".query.", f".{part}.")] for part in PARTS])
        if not re.search(r"\.(key|value)\.", name):
            tensors[megatron_name(name, len(weights.layers))] = narrowed(array)
    for name, amax in weights.ranges.items():
        tensors[f"{megatron_name(name, len(weights.layers))}._amax"] = np.float32(amax).reshape(1)
    return pickle.dumps(tensors, protocol=4)


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
