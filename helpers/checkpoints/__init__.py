"""Loaders: one module a format, each `load(path, config) -> BertWeights`."""

from __future__ import annotations

from pathlib import Path

from helpers.checkpoints import megatron, onnx, pytorch, tensorflow
from helpers.checkpoints.folder import OTHER_NAMES, find_file
from helpers.config import BertConfig
from helpers.weights import BertWeights

WEIGHTS = tuple(ending for endings in OTHER_NAMES for ending in endings)  # of files that may be read besides the named one
LOADERS = {"ckpt": tensorflow.load, "onnx": onnx.load, "pytorch": pytorch.load, "pickle": megatron.load}


def load(source: str, path: Path, config: BertConfig) -> BertWeights:
    """Reads a checkpoint of a format. Raises InputError as the loaders do."""
    return LOADERS[source](path, config)


def folder_of(source: str, path: Path) -> Path | None:
    """The folder that has a checkpoint's configuration too, where the format keeps them together."""
    return find_file(path).parent if source == "pytorch" else None
