"""What NVIDIA's plugins can, on any machine: what is refused, warned of, and made to fit before TensorRT is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import builder
import builder_varseqlen
from helpers import backends
from helpers.backends.base import Device
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.plugins import nvidia
from helpers.commands.flags import FLAGS
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.precision import choose
from helpers.quantization import calibration
from helpers.weights import BertWeights, random_weights
from tests.models import VOCAB, small_config, write_model
from tests.tensorrt_engines import request_for

TENSORRT = backends.find("tensorrt")

FP16 = {"fp16": True}
PROJECTIONS, IMH, ILN = {"int8": True}, {"int8": True, "int8_attention": True}, {"int8": True, "int8_skip_layer_norm": True}
BOTH = {**IMH, **ILN}
PACKED_INT8 = {**PROJECTIONS, **FP16, "packed": True}
INTERLEAVED = {**PACKED_INT8, "interleaved": True}
MEGATRON = {**INTERLEAVED, "megatron": True}


def check(
    options: dict[str, Any],
    lengths: tuple[int, ...] = (128,),
    shape: tuple[int, int] = (768, 12),
    capability: tuple[int, int] = (9, 0),
) -> list[str]:
    """What is warned of, for a hidden size and a number of heads."""
    request = request_for([Profile(size, length) for length in lengths for size in (1, 8)], **options)
    hidden, heads = shape
    warnings: list[str] = []
    device = Device("8.6", "Some GPU", capability)
    nvidia.check(request, TENSORRT.precision(request), BertConfig(8, hidden, 1, heads, 16, 512), device, warnings.append)
    return warnings


# Refused

REFUSED: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    # The GPU
    ({**IMH, **FP16}, {"capability": (7, 2)}, ("-imh", "int8 attention needs compute capability 7.5, Some GPU has less")),
    (IMH, {"capability": (7, 0)}, ("-imh", "compute capability 7.5")),
    ({**ILN, **FP16}, {"capability": (7, 0)}, ("-iln", "int8 skip-layernorm needs compute capability 7.2, Some GPU has less")),
    ({**ILN, **FP16}, {"capability": (6, 9)}, ("-iln", "compute capability 7.2")),
    ({"packed": True, **FP16}, {"capability": (7, 0)}, ("packed", "capability 7.2, Some GPU has less", "builder.py")),
    (PACKED_INT8, {"capability": (7, 0)}, ("packed", "compute capability 7.2")),
    (MEGATRON, {"capability": (6, 1)}, ("packed", "compute capability 7.2")),
    # Float16
    ({"packed": True}, {}, ("packed engines need float16", "add --fp16")),
    ({"packed": True, **BOTH}, {}, ("packed engines need float16", "add --fp16")),
    ({**MEGATRON, "fp16": False}, {}, ("packed engines need float16", "add --fp16")),
    # Lengths of padded int8 attention
    *(({**IMH, **FP16}, {"lengths": (n,)}, ("-imh", f"length {n}: use 128, 384")) for n in (64, 96, 200)),
    ({**BOTH, **FP16}, {"lengths": (96, 384)}, ("-imh", "length 96: use 128, 384")),
    (IMH, {"lengths": (127, 128, 129, 384)}, ("-imh", "length 127, 129: use 128, 384")),
    # 512, of which the logits are wrong
    (FP16, {"lengths": (512,)}, ("wrong logits at sequence length 512", "use 384")),
    (FP16, {"lengths": (128, 512)}, ("wrong logits at sequence length 512",)),
    ({**PROJECTIONS, **FP16}, {"lengths": (512,)}, ("wrong logits at sequence length 512",)),
    (IMH, {"lengths": (512,)}, ("wrong logits at sequence length 512",)),
    # Packed lengths
    *((kind, {"lengths": (n,)}, (f"up to 384 tokens, not {n}", "-s")) for kind in (PACKED_INT8, MEGATRON) for n in (385, 512)),
    ({"packed": True, **FP16}, {"lengths": (128, 385)}, ("up to 384 tokens, not 385",)),
    # Hidden sizes
    *(
        (kind, {"shape": shape}, (f"768 and 1024, not {shape[0]}", "scripts/widen_checkpoint.py"))
        for kind in (ILN, {**ILN, **FP16}, {**BOTH, **FP16}, PACKED_INT8, INTERLEAVED, MEGATRON)
        for shape in ((384, 12), (512, 8), (1280, 20))
    ),
    # Heads
    *(
        (kind, {"shape": (768, 6)}, ("heads of at most 64, not 128", "builder.py"))
        for kind in (PACKED_INT8, INTERLEAVED, MEGATRON)
    ),
    ({"packed": True, **FP16}, {"shape": (160, 2)}, ("heads of at most 64, not 80", "builder.py")),
    ({**IMH, **FP16}, {"shape": (768, 6)}, ("-imh", "heads of at most 64, not 128")),
    (IMH, {"shape": (160, 2)}, ("-imh", "heads of at most 64, not 80")),
]


@pytest.mark.parametrize(("options", "where", "says"), REFUSED)
def test_refused(options: dict[str, Any], where: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        check(options, **where)
    message = error.value.told(FLAGS)
    assert len(message.splitlines()) == 1
    for text in says:
        assert text in message


# Taken

TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # Float32 has no fused attention to miss.
    ({}, {"lengths": (1, 96, 200, 512)}),
    ({}, {"shape": (160, 2), "lengths": (512,), "capability": (6, 0)}),
    (PROJECTIONS, {"lengths": (200, 512), "shape": (384, 12), "capability": (7, 0)}),
    # The least compute capability of each
    ({**IMH, **FP16}, {"capability": (7, 5)}),
    ({**ILN, **FP16}, {"capability": (7, 2)}),
    ({"packed": True, **FP16}, {"capability": (7, 2)}),
    *((kind, {"capability": (7, 5), "lengths": (384,)}) for kind in (PACKED_INT8, INTERLEAVED, MEGATRON)),
    # A major version alone says enough.
    ({**BOTH, **FP16}, {"capability": (8, 0)}),
    (MEGATRON, {"capability": (10, 0)}),
    # Lengths
    (FP16, {"lengths": (64, 96, 128, 384)}),
    ({**PROJECTIONS, **FP16}, {"lengths": (64, 96, 128, 384)}),
    ({**ILN, **FP16}, {"lengths": (64, 96, 128, 384)}),
    ({**BOTH, **FP16}, {"lengths": (128, 384)}),
    *((kind, {"lengths": (1, 65, 200, 384)}) for kind in ({"packed": True, **FP16}, PACKED_INT8, INTERLEAVED, MEGATRON)),
    # Hidden sizes, and heads that are padded to 64
    *((kind, {"shape": shape}) for kind in (PACKED_INT8, MEGATRON) for shape in ((768, 12), (1024, 16), (768, 24), (1024, 64))),
    *(({**kind, **FP16}, {"shape": (384, 12)}) for kind in (PROJECTIONS, IMH)),
    ({"packed": True, **FP16}, {"shape": (96, 3)}),
]


@pytest.mark.parametrize(("options", "where"), TAKEN)
def test_taken(options: dict[str, Any], where: dict[str, Any]) -> None:
    assert check(options, **where) == []


# Warned of


@pytest.mark.parametrize("int8", [{}, PROJECTIONS, ILN], ids=["float16", "int8", "iln"])
def test_slow_lengths_are_warned_of(int8: dict[str, Any]) -> None:
    [warning] = check({**FP16, **int8}, (128, 200, 511))
    assert warning == "fused attention has no kernel for sequence length 200, 511, which is slower; fast are 64, 96, 128, 384"


def test_large_heads_are_warned_of() -> None:
    for lengths in ((128,), (128, 200)):
        [warning] = check(FP16, lengths, (160, 2))
        assert warning == "fused attention has no kernel for heads of 80, only up to 64: this engine is slower"


# The fastest int8


@pytest.mark.parametrize(
    ("hidden", "length", "capability", "norms", "attention"),
    [
        (768, 128, (9, 0), True, True),
        (1024, 384, (8, 0), True, True),
        (384, 128, (9, 0), False, True),
        (768, 96, (9, 0), True, False),
        (768, 128, (7, 5), True, True),
        (768, 128, (7, 2), True, False),
        (768, 128, (7, 0), False, False),
        (768, 128, None, False, False),
    ],
)
def test_the_fastest_int8(hidden: int, length: int, capability: tuple[int, int] | None, norms: bool, attention: bool) -> None:
    fields = TENSORRT.fastest_int8(hidden, length, capability)
    assert fields == {"fp16": True, "strict": True, "int8_skip_layer_norm": norms, "int8_attention": attention}
    if capability:  # nothing that is then refused, or slow
        assert check({**fields, "int8": True}, (length,), (hidden, hidden // 64), capability) == [
            text for text in check(FP16, (length,)) if not attention
        ]


# Weights that fit


@pytest.mark.parametrize(("heads", "float32", "reduced"), [(4, 8, 64), (1, 32, 64), (2, 64, 64), (1, 80, 80)])
def test_heads(heads: int, float32: int, reduced: int) -> None:
    config = small_config(hidden_size=heads * float32, num_attention_heads=heads)
    for fp16, int8, expected in ((False, False, float32), (True, False, reduced), (False, True, reduced), (True, True, reduced)):
        assert nvidia.head_size(config, choose(fp16, int8)) == expected
        request = request_for([Profile(1, 8)], fp16=fp16, int8=int8)
        assert TENSORRT.adapt(random_weights(config), config, request).head_size(heads) == expected


def lean(scale_of_embeddings: float, scale_of_norms: float, *norms: str) -> BertWeights:
    """Weights whose embeddings, or some of whose layer norms, are small."""
    tensors = random_weights(small_config()).tensors()
    small = [f"{name}.weight" for name in norms]
    return BertWeights.from_tensors(
        {
            name: array * np.float32(scale_of_embeddings if "_embeddings" in name else scale_of_norms if name in small else 1)
            for name, array in tensors.items()
        }
    )


# Layer norm's epsilon, which the plugins do not have


EMBEDDINGS, LAST = "bert.embeddings.LayerNorm", "bert.encoder.layer.1.output.LayerNorm"
INNER = "bert.encoder.layer.1.attention.output.LayerNorm"


def check_epsilon(weights: BertWeights, epsilon: float) -> list[str]:
    warnings: list[str] = []
    TENSORRT.check_weights(weights, small_config(layer_norm_eps=epsilon), warnings.append)
    return warnings


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1e-3])
def test_the_effect_of_an_epsilon(epsilon: float) -> None:
    """Where the embeddings' sums vary least, they are normalised with and without it."""
    weights = lean(1, 1)
    word, position, token_type = weights.embeddings.tables()
    sums = (word + position[32] + token_type[0]).astype(np.float64)
    centred = sums - sums.mean(1, keepdims=True)
    variance = sums.var(1, keepdims=True)
    off = (np.abs(centred) / np.sqrt(variance)).sum(1) / (np.abs(centred) / np.sqrt(variance + epsilon)).sum(1) - 1
    assert nvidia.epsilon_effect(weights, epsilon) == pytest.approx(np.percentile(off, 99), rel=0.02, abs=1e-8)


def test_the_effect_where_a_layer_norm_gives_little() -> None:
    """Its mean square is what a next residual varies by; what the last layer norm gives is not normalised again."""
    for name, expected in ((EMBEDDINGS, 0.0049875), (INNER, 0.0049875), (LAST, 5e-6)):
        weights = lean(50, 0.1, name)  # whose scale is about 1, so that it becomes 0.1
        assert nvidia.epsilon_effect(weights, 1e-4) == pytest.approx(expected, rel=0.2, abs=5e-5)
    assert nvidia.epsilon_effect(lean(0, 1), 1e-12) == np.inf


@pytest.mark.parametrize(
    ("weights", "epsilon"),
    [(lean(1, 1), 1e-12), (lean(2, 1), 1e-5), (lean(50, 1), 1e-3), (lean(50, 1e-4, LAST), 1e-5)],
    ids=["bert", "roberta", "large", "last"],
)
def test_an_epsilon_that_does_not_matter(weights: BertWeights, epsilon: float) -> None:
    assert check_epsilon(weights, epsilon) == []


def test_an_epsilon_that_is_warned_of() -> None:
    [warning] = check_epsilon(lean(2, 1), 1e-4)
    effect = nvidia.epsilon_effect(lean(2, 1), 1e-4)
    assert 0.005 < effect < 0.05
    assert warning == f"NVIDIA's layer norms have no epsilon, and without this model's are off by up to {effect:.1%}"


@pytest.mark.parametrize(("weights", "epsilon"), [(lean(1, 1), 1e-3), (lean(50, 1e-3, INNER), 1e-5)], ids=["large", "small"])
def test_an_epsilon_that_is_refused(weights: BertWeights, epsilon: float) -> None:
    with pytest.raises(InputError, match=r"have no epsilon, and without this model's are off by [0-9.]+%") as error:
        check_epsilon(weights, epsilon)
    assert error.value.told(FLAGS).endswith("%: use --backend onnxruntime")


# From the command line: before a checkpoint is calibrated, or anything built


def never(*_: Any) -> Any:
    raise AssertionError("too early")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of hidden size 128 in heads of 32, and TensorRT that seems to be there. There is no SQuAD file."""
    monkeypatch.setattr(type(TENSORRT), "check_available", lambda _: None)
    monkeypatch.setattr(type(TENSORRT), "device", lambda _: Device("8.6", "Some GPU", (9, 0)))
    monkeypatch.setattr(type(TENSORRT), "compile", never)
    monkeypatch.setattr(calibration, "windows", never)
    monkeypatch.chdir(tmp_path)
    config = BertConfig(len(VOCAB), 128, 1, 4, 64, 512)
    write_model(tmp_path, config, random_weights(config).tensors())
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
        # What passes comes to what it lacks.
        (builder, "--int8 --fp16 -imh -s 128", "int8 needs text to calibrate with, but squad/dev-v1.1.json does not exist"),
    ],
)
def test_refused_before_calibration(folder: Path, script: Any, args: str, says: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as error:
        script.main(["-pt", ".", "-o", "new.engine", *args.split()])
    assert says in error.value.told(FLAGS)
    assert sorted(folder.rglob("*")) == before


def test_nothing_is_asked_of_the_gpu_for_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sizes that TensorRT refuses are computed on the CPU."""
    monkeypatch.setattr(runtime, "load", never)
    monkeypatch.setattr(runtime, "cuda", never)
    monkeypatch.setattr(type(TENSORRT), "device", never)
    builder_varseqlen.main(["-pt", ".", "-o", "new.engine", "-s", "512", "--backend", "onnxruntime"])
    assert (folder / "new.engine").is_file()
