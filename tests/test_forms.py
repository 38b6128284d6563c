"""One model in every format gives one engine, byte for byte, and so the same answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints.tensorflow import file_name
from tests.models import arrays_of, random_model, small_config, write_vocab

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("builder", ["builder.py", "builder_varseqlen.py"])
def test_every_format_gives_the_same_engine(builder: str, tmp_path: Path) -> None:
    import onnx
    import tensorflow
    import torch
    from safetensors.torch import save_file

    config = small_config()
    model = random_model(config)
    arrays = arrays_of(model)
    model.config.save_pretrained(tmp_path)
    write_vocab(tmp_path / "vocab.txt", config.vocab_size)

    state = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save({"model": state}, tmp_path / "state.pt")
    save_file(state, str(tmp_path / "model.safetensors"))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([], "weights", [], [], tensors)
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        for name, array in arrays.items():
            kernel = file_name(name).endswith("/kernel")
            tensorflow.compat.v1.get_variable(file_name(name), initializer=np.ascontiguousarray(array.T if kernel else array))
        session.run(tensorflow.compat.v1.global_variables_initializer())
        tensorflow.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))

    engines = {}
    for flag, file in (("-pt", "state.pt"), ("-pt", "model.safetensors"), ("-x", "model.onnx"), ("-m", "model.ckpt")):
        output = tmp_path / f"{file}.engine"
        command = [sys.executable, str(ROOT / builder), flag, str(tmp_path / file), "-c", str(tmp_path), "-s", "16"]
        subprocess.run([*command, "-o", str(output), "--backend", "onnxruntime"], check=True, capture_output=True)
        engines[file] = output.read_bytes()
    assert len(set(engines.values())) == 1, {name: len(blob) for name, blob in engines.items()}
    assert len(engines["model.ckpt"]) > 10_000
