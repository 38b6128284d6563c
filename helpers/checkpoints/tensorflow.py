"""TensorFlow 1 checkpoints: the prefix of model.ckpt.index and model.ckpt.data-*."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from helpers.checkpoints.assembly import assemble
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights

FLOATS = ("float16", "float32", "float64", "bfloat16")


def file_name(name: str) -> str:
    """The TensorFlow name of a tensor, given its Hugging Face name."""
    if name.startswith("classifier."):
        return {"weight": "output_weights", "bias": "output_bias"}[name.split(".")[1]]
    if name.startswith("qa_outputs."):
        return {"weight": "cls/squad/output_weights", "bias": "cls/squad/output_bias"}[name.split(".")[1]]
    name = re.sub(r"^bert\.encoder\.layer\.(\d+)\.", r"bert/encoder/layer_\1/", name)
    name = re.sub(r"LayerNorm\.weight$", "LayerNorm/gamma", name)
    name = re.sub(r"LayerNorm\.bias$", "LayerNorm/beta", name)
    name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
    return re.sub(r"\.weight$", "/kernel", name).replace(".", "/")


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads the checkpoint with the given prefix; optimizer slots, pooler and other heads are ignored.

    Raises:
        InputError: TensorFlow is missing, the checkpoint is missing or damaged, or its tensors do not fit `config`.
    """
    if not Path(f"{path}.index").is_file():
        raise InputError(f"TensorFlow checkpoint {path} not found: there is no {path}.index (give the prefix, without it)")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as e:
        raise InputError(f"reading {path} needs TensorFlow: pip install -r requirements-convert.txt ({e})") from e

    def read(name: str) -> np.ndarray:
        array = reader.get_tensor(file_name(name))
        return array.T if file_name(name).endswith("/kernel") else array

    try:
        reader = tensorflow.train.load_checkpoint(str(path))
        dtypes = {name: dtype.name for name, dtype in reader.get_variable_to_dtype_map().items()}
        wanted = [config.family.tensor_name(name, config) for name in config.family.stored(config)]
        named = {name: read(name) for name in wanted if dtypes.get(file_name(name)) in FLOATS}
    except (tensorflow.errors.OpError, IndexError, ValueError, RuntimeError) as e:
        raise InputError(f"TensorFlow checkpoint {path} cannot be read: {str(e).splitlines()[0]}") from e
    spelled = {f"{name} (transposed)" if name.endswith("/kernel") else name: dtype for name, dtype in dtypes.items()}
    return assemble(named, config, path, spelled, lambda name: file_name(name).replace("/kernel", "/kernel (transposed)"))
