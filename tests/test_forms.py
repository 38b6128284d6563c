"""One model in every format gives one engine, byte for byte, and so the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models import arrays_of, random_model, small_config, write_onnx, write_tensorflow, write_vocab
from tests.running import succeeds


@pytest.mark.parametrize("builder", ["builder.py", "builder_varseqlen.py"])
def test_every_format_gives_the_same_engine(builder: str, tmp_path: Path) -> None:
    config = small_config()
    model = random_model(config)
    arrays = arrays_of(model)
    model.config.save_pretrained(tmp_path)
    write_vocab(tmp_path / "vocab.txt", config.vocab_size)

    state = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save({"model": state}, tmp_path / "state.pt")
    save_file(state, str(tmp_path / "model.safetensors"))
    write_onnx(tmp_path / "model.onnx", arrays)
    write_tensorflow(tmp_path / "model.ckpt", arrays)

    engines = {}
    for flag, file in (("-pt", "state.pt"), ("-pt", "model.safetensors"), ("-x", "model.onnx"), ("-m", "model.ckpt")):
        output = tmp_path / f"{file}.engine"
        succeeds(builder, f"{flag} {file} -c . -s 16 -o {output.name} --backend onnxruntime", tmp_path)
        engines[file] = output.read_bytes()
    assert len(set(engines.values())) == 1, {name: len(blob) for name, blob in engines.items()}
    assert len(engines["model.ckpt"]) > 10_000
