"""scripts/inference_benchmark.py as its users run it: from nothing to table, JSON and plot, interrupted, damaged and again."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import builder
import builder_varseqlen
from helpers import engine_file
from helpers.commands import report
from helpers.engine_file import Built, Description
from tests.running import PATIENCE, ROOT, refused, shell, start, wait_for, when_read
from tests.shells import child_of, wait_for_end

SCRIPT = "scripts/inference_benchmark.py"
SMALL = ["--models", "mini", "--random-weights", "--precisions", "float32", "int8", "--batch-sizes", "2", "1", "--seconds", "1"]
ON_CPU = [*SMALL, "--backend", "onnxruntime"]
ENGINES = ["mini-float32-32-random.engine", "mini-int8-32-random.engine"]
REPORT = ["figures.json", "plot.png", "plot.svg", "table.md"]


def run(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as it starts some itself."""
    done = shell(SCRIPT, [*arguments, "-o", str(output)], output.parent)
    assert "Traceback" not in done.stderr
    return done


def figures(output: Path) -> dict[str, Any]:
    return json.loads((output / "figures.json").read_text(encoding="utf-8"))


def built(output: Path) -> dict[str, int]:
    """Each engine, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((output / "engines").glob("*.engine"))}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run in which one sequence length is above the model's, and the run."""
    output = tmp_path_factory.mktemp("finished") / "new" / "output"
    output.parent.mkdir()
    return output, run(output, *ON_CPU, "--sequence-lengths", "513", "32")


@pytest.fixture
def work(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """A copy of what that run left, to be spoilt."""
    shutil.copytree(finished[0], tmp_path / "work")
    return tmp_path / "work"


def test_a_failed_configuration_is_named_and_the_rest_finishes(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    output, done = finished
    assert done.returncode == 1
    reason = "builder.py: sequence length 513 is above the model's max_position_embeddings, 512"
    failures = [{"configuration": f"mini-{precision}-513", "reason": reason} for precision in ("float32", "int8")]
    last = done.stderr.splitlines()[-1]
    assert last == f"error: 2 of 4 configurations failed: mini-float32-513, mini-int8-513: {reason}"
    assert done.stderr.count(reason) == 2  # when it is met, and at the end
    assert names(output) == REPORT
    assert list(built(output)) == ENGINES

    found = figures(output)
    assert (found["backend"], found["enable_graph"], found["random_weights"]) == ("onnxruntime", False, True)
    assert found["failures"] == failures
    cells = [("mini", precision, False, 32, size) for precision in ("float32", "int8") for size in (1, 2)]
    assert [
        (*(row[key] for key in ("model", "precision", "packed", "sequence_length", "batch_size")),) for row in found["results"]
    ] == cells
    for row in found["results"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["iterations"] in (2000, 1000, 500, 200, 100, 50, 20, 10, 5)

    # It ends in the table, and that is what the figures say.
    table = report.markdown(found["results"])
    assert done.stdout.endswith(f"\n\n{table}") and (output / "table.md").read_text(encoding="utf-8") == table
    assert len(table.splitlines()) == 4
    assert (output / "plot.png").read_bytes()[:4] == b"\x89PNG" and (output / "plot.svg").read_bytes()[:5] == b"<?xml"


def test_engines_are_kept_and_times_are_not(work: Path) -> None:
    before, engines = figures(work), built(work)
    for name, sparse in zip(ENGINES, (0, 3)):
        described = work / "engines" / f"{name}.json"
        described.write_text(json.dumps({**json.loads(described.read_text()), "sparse_layers": sparse}))
    # What is timed is kept only until a run is complete.
    assert names(work / "results") == ["mini-float32-32-random.json", "mini-int8-32-random.json"]
    resumed = run(work, *ON_CPU, "--sequence-lengths", "32")
    assert resumed.returncode == 0, resumed.stderr
    expected = [{**row, "sparse_layers": 3 if row["precision"] == "int8" else 0} for row in before["results"]]
    assert (figures(work)["results"], figures(work)["failures"]) == (expected, [])
    assert names(work / "results") == []
    # A profile is there for each of these; the warning is of what cannot be computed here.
    again = run(work, *ON_CPU, "--sequence-lengths", "32", "--batch-sizes", "2", "--precisions", "float16", "float32")
    assert again.returncode == 0
    assert "warning: ONNX Runtime on the CPU has no float16: float32 is timed instead\n" in again.stderr
    [row] = figures(work)["results"]
    assert (row["precision"], row["batch_size"]) == ("float32", 2) and row not in before["results"]
    assert built(work) == engines


def test_an_interrupted_run_goes_on_where_it_stopped(work: Path) -> None:
    for name in REPORT:
        (work / name).unlink()
    for folder in ("engines", "results"):
        shutil.rmtree(work / folder)
    # Before it times the second engine it looks for what an earlier run has found, and here waits for that to be written.
    (work / "results").mkdir()
    pipe = work / "results/mini-int8-32-random.json"
    os.mkfifo(pipe)
    arguments = [*ON_CPU, "--sequence-lengths", "32", "--batch-sizes", "1"]
    with start(SCRIPT, [*arguments, "-o", str(work)], work) as process:
        with when_read(pipe, process):
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout, stderr.splitlines()[-1]) == (130, b"", b"interrupted")
    assert f"what is timed is kept in {work}: the same command goes on from there" in stderr.decode()
    assert (names(work), list(built(work))) == ([], ENGINES)
    engines = built(work)
    [kept] = json.loads((work / "results/mini-float32-32-random.json").read_text())["figures"]["results"]
    pipe.unlink()

    done = run(work, *arguments)
    assert done.returncode == 0, done.stderr
    assert (names(work), built(work)) == (REPORT, engines)
    first, second = figures(work)["results"]
    assert first == {"model": "mini", "precision": "float32", "packed": False, "sparse_layers": 0, **kept}
    assert second["precision"] == "int8"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_it_started(work: Path, tmp_path: Path, number: signal.Signals) -> None:
    """While perf.py times the second of two batch sizes: the first one is not timed again."""
    shutil.rmtree(work / "results")
    arguments = [*ON_CPU, "--sequence-lengths", "32", "--batch-sizes", "1", "2", "--precisions", "float32", "-o", str(work)]
    result = work / "results/mini-float32-32-random.json"
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, str(ROOT / SCRIPT), *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(result, process)
        [first] = json.loads(result.read_text())["figures"]["results"]
        child = child_of(process)
        sent = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - sent < 1.5
    assert process.returncode == 128 + number and stderr.splitlines()[-1].startswith("interrupted")
    assert "failed" not in stderr
    assert [path for path in (tmp_path / "temporary").iterdir() if path.is_dir()] == []  # ONNX Runtime keeps a file there
    wait_for_end(child)
    assert run(work, *arguments).returncode == 0
    again, second = figures(work)["results"]
    assert {name: again[name] for name in first} == first and second["batch_size"] == 2


def test_damaged_engines(work: Path) -> None:
    shutil.rmtree(work / "results")
    truncated, wrong = (work / "engines" / name for name in ENGINES)
    before = built(work)
    os.truncate(truncated, 1000)
    described = engine_file.read_description(wrong)
    assert described
    engine_file.save(wrong, Built(b"?", described))  # whole, and no engine
    arguments = [*ON_CPU, "--sequence-lengths", "32", "--batch-sizes", "1"]
    done = run(work, *arguments)
    assert done.returncode == 1
    assert "error: 1 of 2 configurations failed: mini-int8-32: perf.py: " in done.stderr
    assert f"{wrong} is not an engine" in done.stderr and f"(to build that engine again, remove {wrong})" in done.stderr
    assert [row["precision"] for row in figures(work)["results"]] == ["float32"]
    assert built(work)[truncated.name] > before[truncated.name]  # what is seen to be damaged is built again
    wrong.write_bytes(b"!")
    assert run(work, *arguments).returncode == 0
    assert len(figures(work)["results"]) == 2


def test_megatron(tmp_path: Path) -> None:
    arguments = ["--megatron", "--models", "mini", "--random-weights", "--sequence-lengths", "32", "--batch-sizes", "2"]
    done = run(tmp_path / "output", *arguments, "--seconds", "1", "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "warning: ONNX Runtime on the CPU has no int8-sparse: int8 is timed instead\n" in done.stderr
    [row] = figures(tmp_path / "output")["results"]
    assert (row["model"], row["precision"], row["packed"]) == ("megatron-mini", "int8", True)


# Trained checkpoints


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project without a model."""
    shutil.copytree(ROOT / "scripts", tmp_path / "project/scripts")
    shutil.copytree(ROOT / "helpers", tmp_path / "project/helpers")
    for name in ("builder.py", "builder_varseqlen.py"):
        shutil.copy(ROOT / name, tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def script(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """That copy's script, to call its functions."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the script adds
    specification = importlib.util.spec_from_file_location("inference_benchmark", project / "scripts/inference_benchmark.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def benchmark(script: ModuleType, capability: tuple[int, int] = (9, 0), megatron: bool = False) -> Any:
    device = script.Device("tensorrt", "8.6.0", "NVIDIA H200", capability)
    return script.Benchmark(Path("output"), device, megatron, False, [1], 1, 5, ["perf.py"])


def test_a_checkpoint_that_cannot_be_had(project: Path, tmp_path: Path) -> None:
    """Without the NGC CLI every configuration fails, for a reason that is told once, and once more at the end."""
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    script = str(project / "scripts/inference_benchmark.py")
    arguments = ["--precisions", "float32", "--sequence-lengths", "128", "--backend", "onnxruntime", "-o", "output"]
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    done = subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    failed = (
        "error: 2 of 2 configurations failed: base-float32-128, large-float32-128: download_model.sh: the NGC CLI (ngc) is not"
    )
    assert last.startswith(failed)
    assert done.stderr.count("NGC") == 2
    assert last.endswith("or time --random-weights")
    assert names(tmp_path / "output") == []


def test_a_checkpoint_is_asked_for_once(script: ModuleType, project: Path, tmp_path: Path) -> None:
    (project / "scripts/download_model.sh").write_text(f"echo $* >>{tmp_path}/log; echo error: no network >&2; exit 1")
    for _ in range(2):
        for length, precision in ((128, "float16"), (128, "int8"), (384, "float16")):
            with pytest.raises(RuntimeError, match=r"^download_model\.sh: no network; or time --random-weights$"):
                script.checkpoint(benchmark(script), script.Configuration("base", length, precision))
    assert (tmp_path / "log").read_text() == "tf base 128 v2\ntf base 384 v2\n"


def test_trained_checkpoints_are_what_download_model_names(project: Path, script: ModuleType) -> None:
    trained = project / "models/fine-tuned"
    (project / "squad").mkdir()
    squad = project / "squad/dev-v1.1.json"
    squad.touch()
    for path in (
        *(
            f"bert_tf_ckpt_{name}_v19.03.1/{file}"
            for name in ("base_qa_squad2_amp_128", "large_qa_squad2_amp_128", "large_qa_squad2_amp_384")
            for file in ("model.ckpt-8144.index", "model.ckpt-8144.data-00000-of-00001", "bert_config.json", "vocab.txt")
        ),
        "bert_pyt_onnx_large_qa_squad11_amp_fake_quant_v1/bert_large.onnx",
        "bert_pyt_statedict_megatron_sparse_int8qat_v21.03.0/bert_statedict_int8",
    ):
        (trained / path).parent.mkdir(parents=True, exist_ok=True)
        (trained / path).write_text("not empty")
    base, large, large384 = (
        trained / f"bert_tf_ckpt_{name}_v19.03.1"
        for name in ("base_qa_squad2_amp_128", "large_qa_squad2_amp_128", "large_qa_squad2_amp_384")
    )

    def weights(model: str, length: int, precision: str, megatron: bool = False) -> list[Any]:
        wanted = script.Configuration(model, length, precision)
        return script.checkpoint(benchmark(script, megatron=megatron), wanted)

    def calibration(name: str) -> list[Any]:
        return ["-j", squad, "-p", Path("output/engines") / f"{name}.calibration"]

    mini = project / "models/minilm-l6-squad"
    onnx = trained / "bert_pyt_onnx_large_qa_squad11_amp_fake_quant_v1/bert_large.onnx"
    pickle = trained / "bert_pyt_statedict_megatron_sparse_int8qat_v21.03.0/bert_statedict_int8"
    assert weights("base", 128, "float16") == ["-m", base / "model.ckpt-8144", "-c", base]
    assert weights("base", 64, "int8") == ["-m", base / "model.ckpt-8144", "-c", base, *calibration("base-64")]
    assert weights("large", 384, "float16") == ["-m", large384 / "model.ckpt-8144", "-c", large384]
    assert weights("large", 128, "int8") == ["-x", onnx, "-c", large]
    assert weights("large", 128, "int8-sparse", megatron=True) == ["-pkl", pickle, "-c", large384]
    assert weights("mini", 128, "float32") == ["-pt", mini]
    assert weights("mini", 384, "int8") == ["-pt", mini, *calibration("mini-384")]


def test_precisions_are_asked_for_as_the_gpu_has_kernels(script: ModuleType) -> None:
    def flags(generation: str, model: str, length: int, precision: str, megatron: bool = False) -> str:
        wanted = script.Configuration(model, length, precision)
        return " ".join(script.precision_flags(benchmark(script, script.GENERATIONS[generation], megatron), wanted))

    assert flags("Hopper", "base", 384, "float16") == "--fp16"
    assert flags("Volta", "base", 384, "int8") == "--int8 --fp16 --strict"
    assert flags("Xavier", "base", 384, "int8") == "--int8 --fp16 --strict -iln"
    for generation in ("Turing", "Ampere", "Ada", "Hopper"):
        assert flags(generation, "large", 128, "int8") == "--int8 --fp16 --strict -iln -imh"
    assert flags("Hopper", "mini", 128, "int8") == "--int8 --fp16 --strict -imh"
    assert flags("Hopper", "base", 64, "int8") == "--int8 --fp16 --strict -iln"
    assert flags("Hopper", "large", 384, "int8", True) == "--int8 --fp16 -il --megatron"
    assert flags("Hopper", "large", 384, "int8-sparse", True) == "--int8 --fp16 -il --megatron -sp"


def test_engines_are_kept_where_they_fit(script: ModuleType, tmp_path: Path) -> None:
    path, sizes = tmp_path / "base.engine", [[1, 128], [4, 128]]
    flags = ["--int8", "--fp16", "--strict", "-iln"]

    def asked(*flags: str) -> dict[str, Any]:
        """What the builder's request says of an engine that was built with these flags."""
        return builder.read(["-pt", "other", "-o", "other", "-b", "3", "-w", "9", *flags])[1].to_dict()

    made = Description("tensorrt", "8.6.0", "NVIDIA H200", "9.0", "int8", False, sizes, "model", 60, request=asked(*flags))
    of_base = benchmark(script)._replace(batch_sizes=[1, 4]), script.Configuration("base", 128, "int8"), flags, path

    def fits(**changes: Any) -> bool:
        engine_file.save(path, Built(b"ftrt", replace(made, **changes)))
        return script.fits(*of_base)

    assert fits() and fits(profiles=[[8, 384], *sizes])
    assert not fits(profiles=[[1, 128], [8, 128]]) and not fits(profiles=[[1, 384], [4, 384]])
    assert not fits(version="8.5.3") and not fits(gpu="NVIDIA A100") and not fits(backend="onnxruntime")
    # What it was built with: neither fewer flags nor more, nor those of an engine from before they were written down.
    for other in (["--fp16"], flags[:-1], [*flags, "-imh"], [*flags, "-sp"], ["--int8", "--fp16", "-iln"]):
        assert not fits(request=asked(*other)), other
    assert not fits(request={})
    assert fits(request={**asked(*flags[::-1]), "workspace_mib": 1, "verbose": True, "timing_cache": "/other"})
    path.write_bytes(b"ftrt and more")
    assert not script.fits(*of_base)
    path.unlink()
    assert not script.fits(*of_base)


def test_megatron_engines_are_kept_where_they_fit(script: ModuleType, tmp_path: Path) -> None:
    path, flags = tmp_path / "large.engine", ["--int8", "--fp16", "-il", "--megatron"]
    of_large = benchmark(script, megatron=True), script.Configuration("large", 128, "int8")
    for built, kept in ((flags, True), ([*flags, "-sp"], False)):
        request = builder_varseqlen.read(["-pkl", "other", "-o", "other", *built])[1].to_dict()
        device = ("tensorrt", "8.6.0", "NVIDIA H200", "9.0")
        description = Description(*device, "int8", True, [[1, 128]], "model", 60, request=request)
        engine_file.save(path, Built(b"ftrt", description))
        assert script.fits(*of_large, flags, path) == kept
        assert script.fits(*of_large, [*flags, "-sp"], path) != kept


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("echo noise >&2; echo error: the reason >&2; echo more >&2; exit 2", "the reason"),
        ("echo first >&2; echo last >&2; echo >&2; exit 2", "last"),
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "signal 9"),
    ],
)
def test_a_command_that_fails(script: ModuleType, tmp_path: Path, does: str, says: str) -> None:
    (tmp_path / "tool.sh").write_text(does)
    with pytest.raises(RuntimeError, match=f"^tool.sh: {says}$"):
        script.call("bash", tmp_path / "tool.sh")


def test_a_command_that_warns(script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tool.sh").write_text("echo printed; echo progress >&2; echo warning: slow >&2")
    for _ in range(2):
        script.call("bash", tmp_path / "tool.sh")
    assert capfd.readouterr() == ("", "warning: slow\n")


def test_what_times_an_engine(project: Path, script: ModuleType) -> None:
    built, python = project / "build/perf", [sys.executable, str(project / "perf.py")]
    assert script.find_perf("tensorrt") == python
    built.parent.mkdir()
    for content, runs in ((b"#!/bin/sh\nexit 0\n", True), (b"#!/bin/sh\nexit 127\n", False), (b"\x7fELF of elsewhere", False)):
        built.write_bytes(content)
        built.chmod(0o755)
        assert script.find_perf("tensorrt") == ([str(built), "--enable_graph"] if runs else python)
        assert script.find_perf("onnxruntime") == python


# What is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "Pascal"], "argument --gpu: invalid choice: 'Pascal'"),
        (["--models", "huge"], "argument --models: invalid choice: 'huge'"),
        (["--precisions", "int4"], "argument --precisions: must be of float32, float16, int8, not int4"),
        (["--precisions", "int8-sparse"], "argument --precisions: must be of float32, float16, int8, not int8-sparse"),
        (["--megatron", "--precisions", "float16"], "argument --precisions: must be of int8, int8-sparse, not float16"),
        (["--megatron", "--models", "base"], "argument --models: Megatron's checkpoint is of the large model"),
        (["--batch-sizes", "0"], "argument --batch-sizes: must be a whole number from 1, not '0'"),
        (["--sequence-lengths", "0"], "argument --sequence-lengths: must be a whole number from 1, not '0'"),
    ],
)
def test_bad_usage(tmp_path: Path, arguments: list[str], says: str) -> None:
    refused(SCRIPT, [*arguments, "--backend", "onnxruntime", "-o", "output"], tmp_path, says)


def test_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file", *ON_CPU)
    assert done.returncode == 2
    assert done.stderr == f"error: output folder {tmp_path}/file cannot be made: File exists\n"


@pytest.mark.gpu
def test_on_tensorrt(tmp_path: Path) -> None:
    arguments = ["--models", "mini", "--random-weights", "--sequence-lengths", "128", "--batch-sizes", "2", "--seconds", "1"]
    done = run(tmp_path / "output", *arguments)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    found = figures(tmp_path / "output")
    assert found["backend"] == "tensorrt" and "NVIDIA" in found["device"]
    assert [row["precision"] for row in found["results"]] == ["float16", "int8"]
    assert (tmp_path / "output/timing.cache").stat().st_size > 0
    engines = built(tmp_path / "output")
    assert run(tmp_path / "output", *arguments).returncode == 0
    assert built(tmp_path / "output") == engines
