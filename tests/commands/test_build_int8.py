"""builder.py and builder_varseqlen.py in int8: where ranges come from, and what is sparse."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.quantization import calibration
from helpers.request import Calibration
from helpers.tokenization import Template
from helpers.weights import BertWeights
from tests.inputs import change, read, write_squad
from tests.models import random_model, small_config, weights_of, write_vocab
from tests.quantized import FINAL, NEXT, PROJECTIONS, QUANTIZERS, SITES, TENSORS, Inspected
from tests.running import refused, run
from tests.wordpieces import letters

BOTH = pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
WEIGHTS = weights_of(random_model(small_config()))
OWN = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}  # a range of its own for each


def on_cpu(args: str) -> str:
    return f"{args} --backend onnxruntime"


def builds(script: str, args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run(script, on_cpu(args), folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    """All but that of the small heads of these models."""
    return re.findall(r"^warning: (?!.*num_attention_heads)(.*)$", done.stderr, re.M)


def ranges_in(engine: Path) -> Mapping[str, float]:
    return Inspected(engine.read_bytes()).ranges()


def write_model(folder: Path, weights: BertWeights) -> None:
    folder.mkdir(exist_ok=True)
    amax = {f"{name}._amax": np.array(value, np.float32) for name, value in weights.ranges.items()}
    save_file({**weights.tensors(), **amax}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(small_config().to_dict()))
    write_vocab(folder / "vocab.txt")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a dense model, and a text of 4 windows of up to 24 tokens."""
    write_model(tmp_path / "model", WEIGHTS)
    write_squad(tmp_path / "squad.json", ("the quick brown fox jumps", "ab"), ("over the lazy dog", "cd"))
    return tmp_path


# Calibration


@BOTH
def test_calibration_cache(work: Path, script: str) -> None:
    args = "-pt model -j squad.json -n 4 -p cache --int8"
    first = builds(script, f"{args} -s 32 -o first.engine", work)
    assert "Calibrating" in first.stderr
    assert re.search(r"4/4\b", first.stderr)
    assert warnings(first) == []

    model = calibration.Model(small_config(), WEIGHTS, SITES, letters(), Template())
    windows = calibration.windows(Calibration(work / "squad.json", 4), model, 32)
    found = calibration.calibrate(WEIGHTS, small_config(), SITES, windows)
    cache = read(work / "cache")
    assert cache["ranges"] == pytest.approx(found, rel=1e-6)
    assert read(work / "first.engine.json")["precision"] == "int8"
    rounded = ranges_in(work / "first.engine")
    assert rounded == pytest.approx({name: found[name] for name in PROJECTIONS.values()}, rel=1e-6)
    assert read(work / "first.engine.json")["packed"] == (script == "builder_varseqlen.py")

    # The cache is what the second build takes its ranges from: so a changed one shows.
    cache["ranges"]["bert.embeddings"] *= 2
    (work / "cache").write_text(json.dumps(cache))
    second = builds(script, f"{args} -s 32 -o second.engine", work)
    assert "Calibrating" not in second.stderr
    assert warnings(second) == []
    assert ranges_in(work / "second.engine") == pytest.approx({**rounded, "bert.embeddings": 2 * rounded["bert.embeddings"]})
    assert read(work / "cache") == cache

    other = builds(script, f"{args} -s 20 -o other.engine", work)
    assert "Calibrating" in other.stderr
    [warning] = warnings(other)
    assert warning.startswith("calibration cache cache is of another model, sequence length or text")
    assert read(work / "cache")["stamp"] != cache["stamp"]
    replaced = (work / "cache").read_bytes()
    assert "Calibrating" not in builds(script, f"{args} -s 20 -o other.engine", work).stderr
    assert (work / "cache").read_bytes() == replaced


def test_a_cache_of_the_same_weights_in_another_configuration(work: Path) -> None:
    """Two heads of 16 attend otherwise than four of 8, so what was found for these is stale."""
    args = "-pt model -j squad.json -n 2 -p cache --int8 -s 32 -o new.engine"
    builds("builder.py", args, work)
    change(work / "model/config.json", num_attention_heads=2)
    done = builds("builder.py", args, work)
    assert "Calibrating" in done.stderr
    assert len(warnings(done)) == 1


@BOTH
@pytest.mark.parametrize("content", [b"TRT-8600-EntropyCalibration2\n", b"{}", b'{"ranges": []}', b"\0\1", b"[" * 5000])
def test_what_is_no_cache_is_kept(work: Path, script: str, content: bytes) -> None:
    (work / "cache").write_bytes(content)
    said = refused(script, on_cpu("-pt model -j squad.json -n 1 -p cache --int8 -s 32 -o new.engine"), work)
    assert said.startswith("error: cache is not a calibration cache, and would be replaced by one: ")
    (work / "cache").write_bytes(b"")
    assert "Calibrating" in builds(script, "-pt model -j squad.json -n 1 -p cache --int8 -s 32 -o new.engine", work).stderr
    assert set(read(work / "cache")["ranges"]) == set(TENSORS)


@BOTH
def test_without_text_to_calibrate_with(work: Path, script: str) -> None:
    said = refused(script, on_cpu("-pt model --int8 -s 32 -o new.engine"), work)
    assert "squad/dev-v1.1.json does not exist" in said
    assert "--squad-json" in said
    said = refused(script, on_cpu("-pt model --int8 -s 32 -o new.engine -j squad.json"), work)
    assert said == "error: SQuAD file squad.json has 4 windows, fewer than 100: lower --calib-num\n"


@BOTH
def test_a_cache_that_is_the_text(work: Path, script: str) -> None:
    said = refused(script, on_cpu("-pt model --int8 -s 32 -o new.engine -j squad.json -p squad.json"), work)
    assert said == "error: output squad.json is read as well, and would be overwritten: name another file\n"


# Ranges of checkpoints


@BOTH
def test_a_checkpoint_that_lacks_some_ranges(work: Path, script: str) -> None:
    """Even where there is text, what was trained is not mixed with what is found."""
    missing = sorted(QUANTIZERS[i] for i in (2, 9, 20))
    write_model(work / "model", replace(WEIGHTS, ranges={name: amax for name, amax in OWN.items() if name not in missing}))
    assert refused(script, on_cpu("-pt model --int8 -s 32 -o new.engine -j squad.json -n 4"), work) == (
        f"error: int8 needs 3 activation ranges that the checkpoint lacks: {', '.join(f'{name}._amax' for name in missing)}\n"
    )


@BOTH
def test_a_checkpoint_with_all_ranges(work: Path, script: str) -> None:
    """All are used, none is calibrated, and no text is asked for."""
    write_model(work / "model", replace(WEIGHTS, ranges=OWN))
    done = builds(script, "-pt model --int8 -s 32 -o new.engine", work)
    assert "Calibrating" not in done.stderr
    assert ranges_in(work / "new.engine") == pytest.approx(
        {name: max(OWN[q] for q in names) for name, names in TENSORS.items() if name != FINAL}, rel=1e-6
    )


def test_interleaved_without_int8(work: Path) -> None:
    for flag in ("-il", "--interleaved"):
        said = refused("builder_varseqlen.py", on_cpu(f"-pt model -s 32 -o new.engine {flag}"), work)
        assert said == "error: interleaved is a layout of packed int8: add --int8 --fp16\n"


# 2:4 sparsity


def test_sparse(work: Path) -> None:
    dense = builds("builder.py", "-pt model -s 32 -o new.engine --sparse", work)
    assert "2:4 sparse are 0 of the encoder's 12 matrices\n" in dense.stdout
    ignored = "ONNX Runtime on the CPU computes in float32, and ignores --sparse"
    [first, warning] = warnings(dense)
    assert first == ignored
    assert warning == "--sparse has nothing to work on: no matrix of this checkpoint is 2:4 sparse"

    tensors = WEIGHTS.tensors()
    halved = np.array([1, 0, 0, 1] * 8, np.float32)
    for part in ("attention.self.key", "intermediate.dense"):
        tensors[f"{NEXT}.{part}.weight"] = tensors[f"{NEXT}.{part}.weight"] * halved
    tensors["qa_outputs.weight"] = tensors["qa_outputs.weight"] * halved  # not the encoder's
    write_model(work / "model", BertWeights.from_tensors(tensors))
    some = builds("builder_varseqlen.py", "-pt model -s 32 -o new.engine -sp", work)
    assert "2:4 sparse are 2 of the encoder's 12 matrices\n" in some.stdout
    assert warnings(some) == [ignored]
    assert "2:4" not in builds("builder.py", "-pt model -s 32 -o new.engine", work).stdout
