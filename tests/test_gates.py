"""What is refused, and what warned of, before TensorRT is asked: on any machine, since only the GPU's name is made up."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import builder
import builder_varseqlen
from helpers import calibrator, engine, trt
from helpers.config import BertConfig
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.graphs import Int8
from helpers.sessions.layouts import Profile
from helpers.weights import BertWeights, random_weights
from tests.models import VOCAB, write_vocab

PROJECTIONS, IMH, ILN, BOTH = Int8({}), Int8({}, attention=True), Int8({}, skip_layer_norm=True), Int8({}, True, True)
INT8 = {"packed": True, "fp16": True, "int8": BOTH}
INTERLEAVED = {**INT8, "interleaved": True}
MEGATRON = {**INTERLEAVED, "megatron": True}


@functools.cache
def model(hidden: int, heads: int) -> tuple[BertWeights, BertConfig]:
    config = BertConfig(8, hidden, 1, heads, 16, 512)
    return random_weights(config), config


def check(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    lengths: tuple[int, ...] = (128,),
    shape: tuple[int, int] = (768, 12),
    capability: tuple[int, int] = (9, 0),
) -> list[str]:
    """What check_kernels warns of."""
    monkeypatch.setattr(trt, "gpu", lambda: ("Some GPU", capability))
    weights, config = model(*shape)
    weights = engine.fit(weights, config, "tensorrt", bool(options.get("fp16") or options.get("int8")))
    warnings: list[str] = []
    profiles = [Profile(size, length) for length in lengths for size in (1, 8)]
    engine.check_kernels(BuildOptions(profiles, **options), config, weights, warnings.append)
    return warnings


REFUSED: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    # The GPU
    ({"int8": IMH, "fp16": True}, {"capability": (7, 2)}, ("-imh", "compute capability 7.5, Some GPU has less")),
    ({"int8": IMH}, {"capability": (7, 0)}, ("-imh", "compute capability 7.5")),
    ({"int8": ILN, "fp16": True}, {"capability": (7, 0)}, ("-iln", "compute capability 7.2, Some GPU has less")),
    ({"int8": ILN, "fp16": True}, {"capability": (6, 9)}, ("-iln", "compute capability 7.2")),
    ({"packed": True, "fp16": True}, {"capability": (7, 0)}, ("packed", "capability 7.2, Some GPU has less", "builder.py")),
    (INT8, {"capability": (7, 0)}, ("packed", "compute capability 7.2")),
    (MEGATRON, {"capability": (6, 1)}, ("packed", "compute capability 7.2")),
    # Float16
    ({"packed": True}, {}, ("packed engines need float16", "add --fp16")),
    ({"packed": True, "int8": BOTH}, {}, ("packed engines need float16", "add --fp16")),
    ({**MEGATRON, "fp16": False}, {}, ("packed engines need float16", "add --fp16")),
    # Lengths of padded int8 attention
    *(({"int8": IMH, "fp16": True}, {"lengths": (n,)}, ("-imh", f"length {n}: use 128, 384")) for n in (64, 96, 200)),
    ({"int8": BOTH, "fp16": True}, {"lengths": (96, 384)}, ("-imh", "length 96: use 128, 384")),
    ({"int8": IMH}, {"lengths": (127, 128, 129, 384)}, ("-imh", "length 127, 129: use 128, 384")),
    # 512, of which the logits are wrong
    ({"fp16": True}, {"lengths": (512,)}, ("wrong logits at sequence length 512", "use 384")),
    ({"fp16": True}, {"lengths": (128, 512)}, ("wrong logits at sequence length 512",)),
    ({"fp16": True, "int8": PROJECTIONS}, {"lengths": (512,)}, ("wrong logits at sequence length 512",)),
    ({"int8": IMH}, {"lengths": (512,)}, ("wrong logits at sequence length 512",)),
    # Packed lengths
    *((kind, {"lengths": (n,)}, (f"up to 384 tokens, not {n}", "-s")) for kind in (INT8, MEGATRON) for n in (385, 512)),
    ({"packed": True, "fp16": True}, {"lengths": (128, 385)}, ("up to 384 tokens, not 385",)),
    # Hidden sizes
    *(
        (kind, {"shape": shape}, (f"768 and 1024, not {shape[0]}", "scripts/widen_checkpoint.py"))
        for kind in ({"int8": ILN}, {"int8": ILN, "fp16": True}, {"int8": BOTH, "fp16": True}, INT8, INTERLEAVED, MEGATRON)
        for shape in ((384, 12), (512, 8), (1280, 20))
    ),
    # Heads
    *((kind, {"shape": (768, 6)}, ("heads of at most 64, not 128", "builder.py")) for kind in (INT8, INTERLEAVED, MEGATRON)),
    ({"packed": True, "fp16": True}, {"shape": (160, 2)}, ("heads of at most 64, not 80", "builder.py")),
    ({"int8": IMH, "fp16": True}, {"shape": (768, 6)}, ("-imh", "heads of at most 64, not 128")),
    ({"int8": IMH}, {"shape": (160, 2)}, ("-imh", "heads of at most 64, not 80")),
]  # fmt: skip


@pytest.mark.parametrize(("options", "where", "says"), REFUSED)
def test_refused(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], where: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        check(monkeypatch, options, **where)
    assert len(str(error.value).splitlines()) == 1
    for text in says:
        assert text in str(error.value)


TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # Float32 has no fused attention to miss.
    ({}, {"lengths": (1, 96, 200, 512)}),
    ({}, {"shape": (160, 2), "lengths": (512,), "capability": (6, 0)}),
    ({"int8": PROJECTIONS}, {"lengths": (200, 512), "shape": (384, 12), "capability": (7, 0)}),
    # The least compute capability of each
    ({"int8": IMH, "fp16": True}, {"capability": (7, 5)}),
    ({"int8": ILN, "fp16": True}, {"capability": (7, 2)}),
    ({"packed": True, "fp16": True}, {"capability": (7, 2)}),
    *((kind, {"capability": (7, 5), "lengths": (384,)}) for kind in (INT8, INTERLEAVED, MEGATRON)),
    # A major version alone says enough.
    ({"int8": BOTH, "fp16": True}, {"capability": (8, 0)}),
    (MEGATRON, {"capability": (10, 0)}),
    # Lengths
    ({"fp16": True}, {"lengths": (64, 96, 128, 384)}),
    ({"int8": PROJECTIONS, "fp16": True}, {"lengths": (64, 96, 128, 384)}),
    ({"int8": ILN, "fp16": True}, {"lengths": (64, 96, 128, 384)}),
    ({"int8": BOTH, "fp16": True}, {"lengths": (128, 384)}),
    *((kind, {"lengths": (1, 65, 200, 384)}) for kind in ({"packed": True, "fp16": True}, INT8, INTERLEAVED, MEGATRON)),
    # Hidden sizes, and heads that are padded to 64
    *((kind, {"shape": shape}) for kind in (INT8, MEGATRON) for shape in ((768, 12), (1024, 16), (768, 24), (1024, 64))),
    *(({"int8": kind, "fp16": True}, {"shape": (384, 12)}) for kind in (PROJECTIONS, IMH)),
    ({"packed": True, "fp16": True}, {"shape": (96, 3)}),
]


@pytest.mark.parametrize(("options", "where"), TAKEN)
def test_taken(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], where: dict[str, Any]) -> None:
    assert check(monkeypatch, options, **where) == []


@pytest.mark.parametrize("int8", [None, PROJECTIONS, ILN], ids=["float16", "int8", "iln"])
def test_slow_lengths_are_warned_of(monkeypatch: pytest.MonkeyPatch, int8: Int8 | None) -> None:
    [warning] = check(monkeypatch, {"fp16": True, "int8": int8}, (128, 200, 511))
    assert warning == "fused attention has no kernel for sequence length 200, 511, which is slower; fast are 64, 96, 128, 384"


def test_large_heads_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for lengths in ((128,), (128, 200)):
        [warning] = check(monkeypatch, {"fp16": True}, lengths, (160, 2))
        assert warning == "fused attention has no kernel for heads of 80, only up to 64: this engine is slower"


# From the command line: before a checkpoint is calibrated, or anything built


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of hidden size 128 in heads of 32, and TensorRT that seems to be there. There is no SQuAD file."""
    from safetensors.numpy import save_file

    def never(*_: Any) -> Any:
        raise AssertionError("too early")

    monkeypatch.setattr(engine, "choose_backend", lambda _: "tensorrt")
    monkeypatch.setattr(trt, "gpu", lambda: ("Some GPU", (9, 0)))
    monkeypatch.setattr(calibrator, "windows", never)
    monkeypatch.setattr(engine, "build", never)
    monkeypatch.chdir(tmp_path)
    config = BertConfig(len(VOCAB), 128, 1, 4, 64, 512)
    save_file(random_weights(config).tensors(), "model.safetensors")
    Path("config.json").write_text(json.dumps(asdict(config)))
    write_vocab(Path("vocab.txt"))
    return tmp_path


@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        (builder, "--int8 --fp16 -imh -s 96", "no kernel for sequence length 96"),
        (builder, "--int8 --fp16 -iln", "not 128: build a padded engine without -iln"),
        (builder, "--int8 --fp16 -s 512", "wrong logits at sequence length 512"),
        (builder, "--fp16 -s 512", "wrong logits at sequence length 512"),
        (builder_varseqlen, "--int8", "packed engines need float16"),
        (builder_varseqlen, "--int8 --fp16", "768 and 1024, not 128"),
        (builder_varseqlen, "--fp16 -s 512", "up to 384 tokens, not 512"),
        # What passes the gates comes to what it lacks.
        (builder, "--int8 --fp16 -imh -s 128", "int8 needs text to calibrate with, but squad/dev-v1.1.json does not exist"),
    ],
)
def test_refused_before_calibration(folder: Path, script: Any, args: str, says: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=says):
        script.main(["-pt", ".", "-o", "new.engine", *args.split()])
    assert sorted(folder.rglob("*")) == before


def test_nothing_is_asked_of_the_gpu_for_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sizes that TensorRT refuses are computed on the CPU."""
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    builder_varseqlen.main(["-pt", ".", "-o", "new.engine", "-s", "512", "--backend", "onnxruntime"])
    assert (folder / "new.engine").is_file()
