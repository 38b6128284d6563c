"""builder.py and builder_varseqlen.py: what they refuse, what they warn of, and what they leave behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from helpers import backends
from tests.inputs import Bad, change, cut, half_of, read
from tests.models import small_tensors, write_onnx, write_vocab
from tests.running import refused, run, succeeds
from tests.variants import PLAIN, save

pytestmark = pytest.mark.usefixtures("no_tensorrt")

BUILD = "-o new.engine -pt model"


def write_bin(path: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in small_tensors().items()}, path)


# What else a loader, a configuration or a vocabulary refuses is in their own tests; here, that nothing but one line is said.
BAD_CHECKPOINTS = {
    "missing file": Bad("-o new.engine -s 64 -c model -pt model/absent.bin", ("checkpoint model/absent.bin does not exist",)),
    "missing folder": Bad("-o new.engine -s 64 -c model -pt absent", ("checkpoint absent does not exist",)),
    "empty folder": Bad(
        BUILD + " -s 64",
        ("no model.safetensors or pytorch_model.bin in folder model",),
        lambda folder: (folder / "model/model.safetensors").unlink(),
    ),
    "truncated safetensors": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors is not a whole safetensors file",),
        lambda folder: cut(folder / "model/model.safetensors"),
    ),
    "truncated state dict": Bad(
        "-o new.engine -s 64 -pt model/half.bin",
        ("model/half.bin is not a PyTorch state dict",),
        half_of(write_bin, "model/half.bin"),
    ),
    "missing ONNX": Bad("-o new.engine -s 64 -c model -x model.onnx", ("ONNX file model.onnx does not exist",)),
    "truncated ONNX": Bad(
        "-o new.engine -s 64 -c model -x half.onnx",
        ("half.onnx is not a whole ONNX file",),
        half_of(lambda path: write_onnx(path, small_tensors()), "half.onnx"),
    ),
    "missing TensorFlow": Bad(
        "-o new.engine -s 64 -c model -m model/model.ckpt",
        ("TensorFlow checkpoint model/model.ckpt not found", "model/model.ckpt.index"),
    ),
    "another size": Bad(
        BUILD + " -s 64",
        ("model/model.safetensors", "bert.encoder.layer.0.intermediate.dense.weight: expected [40, 32], found [48, 32]; "),
        lambda folder: change(folder / "model/config.json", intermediate_size=40),
    ),
}
BAD_CONFIGS = {
    "missing": Bad(
        BUILD + " -s 64",
        ("no bert_config.json or config.json in model",),
        lambda folder: (folder / "model/config.json").unlink(),
    ),
    "missing folder": Bad(BUILD + " -s 64 -c absent", ("configuration folder absent does not exist",)),
    "malformed": Bad(BUILD + " -s 64", ("model/config.json",), lambda folder: cut(folder / "model/config.json")),
}
BAD_VOCABULARIES = {
    "missing": Bad(
        BUILD + " -s 64",
        ("no tokenizer at model: there is no tokenizer.json or vocab.txt; name it with -v",),
        lambda folder: (folder / "model/vocab.txt").unlink(),
    ),
    "missing where it was named": Bad(BUILD + " -s 64 -v absent.txt", ("no tokenizer at absent.txt: ",)),
    "damaged": Bad(
        BUILD + " -s 64",
        ("model/tokenizer.json is not JSON: ",),
        lambda folder: (folder / "model/tokenizer.json").write_text("{"),
    ),
    "another": Bad(
        BUILD + " -s 64 -v other.txt",
        ("tokenizer other.txt has 100 tokens but the model's embedding 60 rows",),
        lambda folder: write_vocab(folder / "other.txt", 100),
    ),
    "of something else": Bad(BUILD + " -s 64 -v passage.txt", ("vocabulary passage.txt lacks [PAD], [UNK], [CLS], [SEP]",)),
}


@pytest.mark.parametrize("bad", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_checkpoint(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize("bad", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_config(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize("bad", BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES)
def test_bad_vocabulary(work: Path, bad: Bad) -> None:
    bad.prepare(work)
    refused("builder.py", bad.args, work, *bad.says)


@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-s 65", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder_varseqlen.py", "-s 65", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder.py", "", "sequence length 128 is above the model's max_position_embeddings, 64"),
        ("builder.py", "-s 65 -s 32", "sequence length 65 is above the model's max_position_embeddings, 64"),
        ("builder.py", "-s 0", "argument -s/--sequence-length: must be a whole number from 1, not '0'"),
        ("builder_varseqlen.py", "-s 0", "argument -s/--max-sequence-length: must be a whole number from 1, not '0'"),
        ("builder.py", "-s=-5", "argument -s/--sequence-length: must be a whole number from 1, not '-5'"),
        ("builder.py", "-s 64 -b 0", "argument -b/--batch-size: must be a whole number from 1, not '0'"),
        ("builder_varseqlen.py", "-s 64 -b 0", "argument -b/--max-batch-size: must be a whole number from 1, not '0'"),
        ("builder.py", "-s 64 -b 2 -b many", "argument -b/--batch-size: must be a whole number from 1, not 'many'"),
        ("builder.py", "-s 64 -w 2147483648", "workspace-size: must be a whole number from 1 to 2147483647, not '2147483648'"),
        ("builder.py", "-s 64 --backend tensorrt", "TensorRT cannot be imported (none here)"),
        ("builder_varseqlen.py", "-s 64 --backend tensorrt", "TensorRT cannot be imported (none here)"),
        ("builder.py", "-s 64 --backend abacus", "argument --backend: invalid choice: 'abacus'"),
        ("builder.py", "-s 64 -m model/model.ckpt", "give exactly one of --ckpt, --onnx, --pytorch, not 2"),
    ],
)
def test_bad_build(work: Path, script: str, args: str, says: str) -> None:
    refused(script, f"{BUILD} {args}", work, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("-pt model -s 64", "the following arguments are required: -o/--output"),
        ("-o new.engine -c model -s 64", "give exactly one of --ckpt, --onnx, --pytorch\n"),
        ("-o new.engine -m model.ckpt -s 64", "the configuration's folder is required: name it with -c"),
        ("-o new.engine -x model.onnx -s 64", "the configuration's folder is required: name it with -c"),
        (f"{BUILD} -s", "argument -s/--sequence-length"),
        (f"{BUILD} -s 64 stray", "stray"),
    ],
)
def test_bad_usage_of_builders(work: Path, args: str, says: str) -> None:
    refused("builder.py", args, work, says)


# None of these checkpoints is there: an output is looked at before a checkpoint is read.
@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("builder.py", "-o absent/new.engine", "output folder absent does not exist"),
        ("builder_varseqlen.py", "-o absent/new.engine", "output folder absent does not exist"),
        ("builder.py", "-o passage.txt/new.engine", " passage.txt"),  # a file
        ("builder.py", "-o model", "output model is a folder"),
        *(("builder.py", f"-o model/{name}", f"output model/{name} is read as well") for name in ("vocab.txt", "config.json")),
        ("builder.py", "-o .", "output . is a folder"),
        ("builder.py", "-o taken", "output taken.json is a folder"),  # no place for the description
        ("builder.py", "-o new.engine -tcf absent/new.cache", "output folder absent does not exist"),
        ("builder.py", "-o new.engine -i -p absent/new.cache", "output folder absent does not exist"),
    ],
)
def test_an_engine_that_cannot_be_written(work: Path, script: str, args: str, says: str) -> None:
    (work / "taken.json").mkdir()
    refused(script, f"-pt absent.bin -c model -s 64 {args}", work, says)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for root")
def test_an_engine_in_a_protected_folder(work: Path) -> None:
    (work / "protected").mkdir(mode=0o500)
    refused("builder.py", "-pt absent.bin -c model -s 64 -o protected/new.engine", work, "protected/new.engine")


def test_a_build_that_fails_leaves_the_older_engine(work: Path) -> None:
    """`refused` sees that engine and description stay, byte for byte."""
    cut(work / "model/model.safetensors")
    refused("builder.py", "-pt model -s 64 -o padded.engine", work, "model/model.safetensors")
    assert succeeds("inference.py", "-e padded.engine -p a b -q c", work)


def test_an_embedding_may_have_more_rows_than_there_are_tokens(work: Path) -> None:
    """As training on tensor cores wants it."""
    write_vocab(work / "fewer.txt", 57)
    succeeds("builder.py", "-pt model -o new.engine -s 64 -v fewer.txt --backend onnxruntime", work)
    assert (work / "new.engine").read_bytes() != b""
    assert read(work / "new.engine.json")["vocab_size"] == 60
    assert succeeds("inference.py", "-e new.engine -p 'the cat sat' -q where", work)


def test_the_encoder_alone(work: Path) -> None:
    """Which Hugging Face saves under its own names: it is for features, and for nothing else."""
    save(PLAIN["bert"].model("feature-extraction"), work / "encoder")
    write_vocab(work / "encoder/vocab.txt")
    args = "-pt encoder -o new.engine -s 64 --backend onnxruntime"
    for flag, task in (("", "question-answering"), ("--task token-classification", "token-classification")):
        said = refused("builder.py", f"{args} {flag}", work, "encoder/model.safetensors lacks 2 of 55 tensors: ")
        assert said.endswith(f"; it has no head for --task {task}\n")
    refused("builder.py", f"{args} --task summarization", work, "argument --task: invalid choice: 'summarization'")
    for script in ("builder.py", "builder_varseqlen.py"):
        succeeds(script, f"{args} --task feature-extraction", work)
        described = read(work / "new.engine.json")
        assert (described["task"], described["labels"]) == ("feature-extraction", [])


def test_a_family_that_the_first_backend_has_not(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the next one builds."""
    monkeypatch.setattr(type(backends.find("tensorrt")), "check_available", lambda _: None)
    save(PLAIN["mpnet"].model("question-answering"), work / "mpnet")
    write_vocab(work / "mpnet/vocab.txt")
    spelled = (work / "mpnet/vocab.txt").read_text()
    for role, token in {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>"}.items():
        spelled = spelled.replace(role, token)
    (work / "mpnet/vocab.txt").write_text(spelled)
    done = run("builder.py", "-pt mpnet -o new.engine -s 64", work)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: tensorrt has no relative position bias (mpnet): ONNX Runtime on the CPU runs it\n")
    assert read(work / "new.engine.json")["backend"] == "onnxruntime"


def test_an_engine_beside_its_checkpoint_is_replaced(work: Path) -> None:
    for length in ("32", "64"):
        succeeds("builder.py", f"-pt model -o model/new.engine -s {length} --backend onnxruntime", work)
        assert read(work / "model/new.engine.json")["profiles"] == [[1, int(length)]]


def test_float16_on_the_cpu_warns(work: Path) -> None:
    done = run("builder.py", "-pt model -o new.engine -s 64 --fp16 --strict --backend onnxruntime", work)
    warning, progress = done.stderr.split("\n", 1)
    assert (done.returncode, warning.split(":")[0]) == (0, "warning")
    assert "computes in float32, and ignores --fp16, --strict" in warning
    assert re.fullmatch(r"warning: [^\n]+ num_attention_heads 4[^\n]+\n\rBuilding for onnxruntime: \d+\.\d s\n", progress)
    assert read(work / "new.engine.json")["precision"] == "float32"
