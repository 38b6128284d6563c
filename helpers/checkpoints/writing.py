"""Folders of checkpoints that this project writes: never over a model that it did not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from helpers import files
from helpers.checkpoints.folder import TOKENIZER_FILES
from helpers.config import CONFIG_NAMES, BertConfig
from helpers.errors import InputError, listed
from helpers.precision import FLOAT16
from helpers.reading import LARGE, read_bytes

# Stands in the first bytes of weights that were written here. Training writes the weights anew, and so without it.
MARK = "made by random_checkpoint.py or widen_checkpoint.py"
HEAD = 4096
WEIGHTS = (".safetensors", ".bin", ".pt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt.index", ".index.json")
BESIDE = (*CONFIG_NAMES, *TOKENIZER_FILES)


def contents(weights: Mapping[str, files.Content], config: BertConfig, tokenizer: Path) -> dict[str, files.Content]:
    """A checkpoint's files by name: the configuration, a copy of the tokenizer, and its weights last.

    Args:
        weights: the file of them, by its name.
        tokenizer: one file of it, or a folder that has them.
    """
    copied = sorted(tokenizer.iterdir()) if tokenizer.is_dir() else [tokenizer]
    beside: dict[str, files.Content] = {"config.json": [files.json_bytes(config.to_dict())]}
    beside.update({file.name: [read_bytes(file, "", LARGE)] for file in copied if file.name in TOKENIZER_FILES})
    return {**beside, **weights}


def narrowed(array: np.ndarray) -> np.ndarray:
    """In float16, or as it is where that cannot hold its numbers."""
    return array if np.abs(array).max(initial=0) > FLOAT16.largest else array.astype(np.float16)


def check_folder(folder: Path, names: Collection[str], inputs: Iterable[Path], overwrite: bool) -> None:
    """Finds out before the work starts whether a checkpoint can be written.

    Args:
        names: of its files.
        inputs: that are read.
        overwrite: whether another model may be replaced.

    Raises:
        InputError: it cannot, or would be read with what is left of another model; or another one is there.
    """
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"output folder {folder} is a file", "name another folder")
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        files.check_outputs([above / folder.name])
        return
    files.check_outputs([folder / name for name in names], inputs)
    there = {path.name for path in folder.iterdir() if path.name in BESIDE or path.name.endswith(WEIGHTS)}
    weights = [name for name in there if name.endswith(WEIGHTS)]
    ours = weights and all(is_marked(folder / name) for name in weights)
    if there and not (ours or overwrite):
        raise InputError(f"folder {folder} holds a model that this command did not write", "name another one, or add --overwrite")
    left = sorted(there - set(names))
    if left:
        raise InputError(f"folder {folder} would keep {listed(left)} of another model", "remove them, or name another folder")


def is_marked(path: Path) -> bool:
    """Whether weights were written here."""
    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(HEAD)
    except OSError:
        return False
