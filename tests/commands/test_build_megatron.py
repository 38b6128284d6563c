"""builder_varseqlen.py with Megatron pickles, and questions to the engines that it makes of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers.checkpoints import megatron
from helpers.layouts import Profile
from helpers.quantization import ranges
from tests.batches import onnx_blob
from tests.inputs import read, write_squad
from tests.models import write_vocab
from tests.pickles import ARRAYS, CONFIG, OUTPUT, TOUCH, Call, dump
from tests.quantized import PROJECTIONS, SITES, SITES_WITH_SUMS, SUMS, TENSORS, Inspected
from tests.running import assert_refusal, listing, run, succeeds

SCRIPT = "builder_varseqlen.py"
PKL = "-pkl megatron.pkl -c . -s 32 -o new.engine"


def on_cpu(args: str) -> str:
    return f"{args} --backend onnxruntime"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a configuration, a vocabulary and a pickle."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    write_vocab(tmp_path / "vocab.txt")
    dump(tmp_path / "megatron.pkl", ARRAYS)
    return tmp_path


def refused(args: str, folder: Path) -> str:
    """The one line of a refusal, which a warning of what is ignored may precede."""
    before = listing(folder)
    done = run(SCRIPT, on_cpu(args), folder)
    line = re.sub(r"^warning: [^\n]+ and ignores [^\n]+\n", "", done.stderr)
    assert_refusal(subprocess.CompletedProcess(done.args, done.returncode, done.stdout, line))
    assert listing(folder) == before
    return line


@pytest.mark.parametrize(
    ("args", "precision"),
    [("", "float32"), ("--int8", "int8"), ("-i -il", "int8"), ("-i -f -il --megatron", "int8")],
    ids=["float32", "int8", "interleaved", "megatron"],
)
def test_build_and_ask(work: Path, args: str, precision: str) -> None:
    printed = succeeds(SCRIPT, on_cpu(f"{PKL} {args}"), work)
    assert printed.startswith("Wrote new.engine ")
    description = read(work / "new.engine.json")
    assert (description["precision"], description["packed"]) == (precision, True)
    assert description["checkpoint"] == str(work / "megatron.pkl")

    weights = megatron.load(work / "megatron.pkl", CONFIG)
    sums = "--megatron" in args
    amax = ranges.from_checkpoint(weights.ranges, SITES_WITH_SUMS if sums else SITES) if precision == "int8" else None
    assert (work / "new.engine").read_bytes() == onnx_blob(weights, CONFIG, [Profile(1, 32)], True, amax, megatron=sums)

    answered = succeeds("inference_varseqlen.py", on_cpu("-e new.engine -p 'the cat sat on the mat' -q who"), work)
    assert re.search(r"^Answer: '.+'\nWith probability: \d+\.\d{3}%$", answered, re.M)


NEEDS = "error: Megatron residuals exist in interleaved int8 alone, of a pickle: add --pickle --interleaved --int8 --fp16\n"


@pytest.mark.parametrize(
    "args", [f"{PKL} --megatron", f"{PKL} --megatron --int8 --fp16", "-pt model -c . -o new.engine -i -il --megatron"]
)
def test_megatron_needs_the_rest(work: Path, args: str) -> None:
    assert refused(args, work) == NEEDS


def test_usage(work: Path) -> None:
    assert (
        refused(f"{PKL} --megatron --interleaved", work) == "error: interleaved is a layout of packed int8: add --int8 --fp16\n"
    )
    assert refused("-pkl megatron.pkl -o new.engine", work) == (
        "error: the configuration's folder is required: name it with -c\n"
    )
    assert refused(f"{PKL} -pt model", work) == "error: give exactly one of --ckpt, --onnx, --pytorch, --pickle, not 2\n"
    assert refused("-c . -o new.engine", work) == "error: give exactly one of --ckpt, --onnx, --pytorch, --pickle\n"
    assert refused(PKL.replace("megatron.pkl", "absent.pkl"), work) == (
        "error: checkpoint absent.pkl cannot be read: No such file or directory\n"
    )


def test_padded_engines_have_no_pickle(work: Path) -> None:
    assert_refusal(run("builder.py", on_cpu("-pkl megatron.pkl -c . -o new.engine"), work), "megatron.pkl")


def test_code_is_not_run(work: Path) -> None:
    dump(work / "megatron.pkl", {**ARRAYS, OUTPUT: Call(os.system, TOUCH)})
    assert refused(PKL, work) == (
        "error: megatron.pkl is not a pickle that can be read safely: it asks for posix.system, which no array needs\n"
    )


def test_missing_ranges_of_the_sums(work: Path) -> None:
    """Some are listed; and none of them matters where residuals are normalised."""
    dump(work / "megatron.pkl", {name: array for name, array in ARRAYS.items() if "add_residual" not in name})
    text = refused(f"{PKL} -i -il --megatron", work)
    assert text.startswith("error: int8 needs 4 activation ranges that the checkpoint lacks: ")
    assert text.rstrip().split(": ")[2].split(", ") == [*sorted(f"{name}._amax" for [name] in SUMS.values())[:3], "and 1 more"]
    assert succeeds(SCRIPT, on_cpu(f"{PKL} -i -il"), work)


def test_without_any_ranges(work: Path) -> None:
    dump(work / "megatron.pkl", {name: array for name, array in ARRAYS.items() if not name.endswith("_amax")})
    assert refused(f"{PKL} -i -il --megatron", work) == (
        "error: int8 needs text to calibrate with, but squad/dev-v1.1.json does not exist: name a SQuAD file with --squad-json, "
        "or take a checkpoint with activation ranges\n"
    )
    assert succeeds(SCRIPT, on_cpu(PKL), work)

    # With text, the sums' ranges are found too, of which those of what projections read are used.
    write_squad(work / "squad.json", ("the quick brown fox jumps", "ab"))
    assert succeeds(SCRIPT, on_cpu(f"{PKL} -i -il --megatron -j squad.json -n 2 -p cache"), work)
    found = read(work / "cache")["ranges"]
    assert set(found) == {*TENSORS, *SUMS}
    assert Inspected((work / "new.engine").read_bytes()).ranges() == pytest.approx(
        {name: found[name] for name in PROJECTIONS.values()}, rel=1e-6
    )
