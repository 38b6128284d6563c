#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Builds engines of several models, precisions and sequence lengths, times them, and writes a table, a JSON file and a plot.

A run that was interrupted, or where something failed, goes on where it stopped. A run after a complete one keeps the
engines and times them anew.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
import functools
import itertools
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Union

ROOT = Path(__file__).resolve().parents[1]
# What takes time to import, functions do.
import builder  # noqa: E402
import builder_varseqlen  # noqa: E402
from helpers import files, reading  # noqa: E402
from helpers.commands import bars, children, report  # noqa: E402
from helpers.commands.flags import FLAGS  # noqa: E402
from helpers.errors import InputError  # noqa: E402

# The compute capability that int8 kernels are chosen by.
GENERATIONS = {"Volta": (7, 0), "Xavier": (7, 2), "Turing": (7, 5), "Ampere": (8, 0), "Ada": (8, 9), "Hopper": (9, 0)}
HIDDEN_SIZES = {"base": 768, "large": 1024, "mini": 384}
PRECISIONS = ("float32", "float16", "int8")
PRECISIONS_MEGATRON = ("int8", "int8-sparse")
ON_CPU = {"float16": "float32", "int8-sparse": "int8"}  # what is computed instead
SEQUENCE_LENGTHS = (128, 384)
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128)
ITERATIONS = (2000, 1000, 500, 200, 100, 50, 20, 10, 5)  # as many as a cell's time allows
SECONDS = 10  # of a cell, where 1000 iterations do not take longer
WORKSPACE = 8000  # MiB at most: large batches, unfused attention above all, need more than the builder's default
# What of a request flags decide.
OPTIONS = ("packed", "interleaved", "megatron", "fp16", "int8", "int8_attention", "int8_skip_layer_norm", "strict", "sparse")
REPORT = ("plot.png", "plot.svg", "table.md", "figures.json")
FINE_TUNED = ROOT / "models/fine-tuned"
SQUAD = ROOT / "squad/dev-v1.1.json"

Word = Union[str, int, Path]


class Device(NamedTuple):
    """What the engines run on, in the words of engine_file.Description."""

    backend: str
    version: str
    gpu: str | None
    capability: tuple[int, int]


class Benchmark(NamedTuple):
    """What all configurations share."""

    output: Path
    device: Device
    megatron: bool
    random_weights: bool
    batch_sizes: Sequence[int]
    seconds: int
    least: int  # iterations
    perf: Sequence[str]  # the command that times an engine


class Configuration(NamedTuple):
    """What an engine is built for."""

    model: str
    sequence_length: int
    precision: str


def print_device(backend: str) -> None:
    """Prints, as JSON, what `find_device` reads. Raises InputError where the backend asked for is not here."""
    from helpers import backends

    chosen = backends.choose(backend)
    version, gpu, capability = chosen.device()
    print(json.dumps([chosen.name, version, gpu, capability or (0, 0)]))


def find_device(backend: str) -> Device:
    """Asks in a process that ends: here, its CUDA context would share the GPU with what is timed."""
    try:
        name, version, gpu, capability = json.loads(call(sys.executable, __file__, "--device", backend))
    except RuntimeError as e:
        raise InputError(str(e).partition(": ")[2]) from e
    return Device(name, version, gpu, tuple(capability))


def find_perf(backend: str) -> list[str]:
    """build/perf with CUDA graphs, where it is built and runs here; else perf.py."""
    from helpers import backends

    built = ROOT / "build/perf"
    if backends.find(backend).on_gpu:
        with suppress(OSError):  # it is not there, or of another machine
            if subprocess.run([built, "-h"], capture_output=True).returncode == 0:
                return [str(built), "--enable_graph"]
    return [sys.executable, str(ROOT / "perf.py")]


@functools.cache
def warn_once(message: str) -> None:
    process.complain("warning", message)


def call(*command: Word) -> str:
    """Runs a command, whose warnings are shown, and gives what it prints.

    Raises:
        RuntimeError: it fails; the message is its reason.
    """
    done = children.run(command)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("warning: "):
            warn_once(line[len("warning: ") :])
    if done.returncode:
        reason = next((line[len("error: ") :] for line in reversed(lines) if line.startswith("error: ")), "".join(lines[-1:]))
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        program = next(Path(word).name for word in done.args if word not in (sys.executable, "bash"))
        raise RuntimeError(f"{program}: {reason or ended}")
    return done.stdout


def repeated(flag: str, values: Iterable[Word]) -> list[Word]:
    return [word for value in values for word in (flag, value)]


def checkpoint(benchmark: Benchmark, wanted: Configuration) -> list[Word]:
    """The builder's arguments that name the weights, which are fetched or made where they are missing.

    Raises:
        RuntimeError: they can neither be fetched nor made.
    """
    model, length, precision = wanted
    if benchmark.random_weights:
        folder = benchmark.output / "models" / f"{'megatron-' * benchmark.megatron}{model}"
        if not (folder / "vocab.txt").exists():  # which is written last
            call(sys.executable, ROOT / "scripts/random_checkpoint.py", model, "-o", folder, *["--megatron"] * benchmark.megatron)
        return ["-pkl", folder / "megatron.pkl", "-c", folder] if benchmark.megatron else ["-pt", folder]

    weights: list[Word]
    if model == "mini":
        weights = ["-pt", ROOT / "models/minilm-l6-squad"]
    else:
        trained = "128" if length <= 128 and not benchmark.megatron else "384"
        # Of the large models for int8, which have neither, it is the configuration and the vocabulary.
        folder = fetched(f"bert_tf_ckpt_{model}_qa_squad2_amp_{trained}_v19.03.1", "tf", model, trained, "v2")
        if benchmark.megatron:
            found = fetched("bert_pyt_statedict_megatron_sparse_int8qat_v21.03.0", "pyt", "megatron-large", "sparse", "int8-qat")
            return ["-pkl", next(found.glob("*statedict*")), "-c", folder]
        if (model, precision) == ("large", "int8"):
            found = fetched("bert_pyt_onnx_large_qa_squad11_amp_fake_quant_v1", "pyt", "large", "v1_1", "int8-qat")
            return ["-x", next(found.glob("*.onnx")), "-c", folder]
        weights = ["-m", next(folder.glob("model.ckpt*.index")).with_suffix(""), "-c", folder]
    if precision == "int8":
        if not SQUAD.exists():
            fetch("download_squad.sh", "v1_1")
        weights += ["-j", SQUAD, "-p", benchmark.output / "engines" / f"{model}-{length}.calibration"]
    return weights


def fetched(folder: str, *words: str) -> Path:
    """A model of NGC's, by the name of its folder and as download_model.sh calls it."""
    fetch("download_model.sh", *words)
    return FINE_TUNED / folder


def fetch(*words: str) -> None:
    """Runs a script that downloads. Raises RuntimeError where it fails, or has failed before."""
    if reason := failure_to_fetch(*words):
        raise RuntimeError(f"{reason}; or time --random-weights")


@functools.cache
def failure_to_fetch(script: str, *words: str) -> str:
    """Runs a script that downloads; gives the reason where it fails."""
    try:
        call("bash", ROOT / "scripts" / script, *words)
    except RuntimeError as e:
        return str(e)
    return ""


def precision_flags(benchmark: Benchmark, wanted: Configuration) -> list[str]:
    """The builder's flags for a precision, on this generation of GPUs."""
    if benchmark.megatron:
        return ["--int8", "--fp16", "-il", "--megatron", *["-sp"] * (wanted.precision == "int8-sparse")]
    if wanted.precision in ("float32", "float16"):
        return ["--fp16"] * (wanted.precision == "float16")
    from helpers import backends

    backend, capability = backends.find(benchmark.device.backend), benchmark.device.capability
    fastest = backend.fastest_int8(HIDDEN_SIZES[wanted.model], wanted.sequence_length, capability)
    return ["--int8", *(FLAGS[name] for name, taken in fastest.items() if taken)]


def build(benchmark: Benchmark, wanted: Configuration, path: Path) -> None:
    """Builds an engine, unless it is there.

    Raises:
        RuntimeError: the checkpoint cannot be had, or the builder failed.
    """
    flags = precision_flags(benchmark, wanted)
    if fits(benchmark, wanted, flags, path):
        return
    script = ROOT / ("builder_varseqlen.py" if benchmark.megatron else "builder.py")
    sizes = [*repeated("-b", benchmark.batch_sizes), "-s", wanted.sequence_length, "-w", WORKSPACE]
    paths: list[Word] = ["-o", path, "-tcf", benchmark.output / "timing.cache", "--backend", benchmark.device.backend]
    call(sys.executable, script, *checkpoint(benchmark, wanted), *flags, *sizes, *paths)


def fits(benchmark: Benchmark, wanted: Configuration, flags: Sequence[str], path: Path) -> bool:
    """Whether an engine is whole, of this device, built with these flags, and has a profile for every batch size."""
    from helpers import engine_file

    try:
        found = engine_file.read_description(path)
        if found:
            engine_file.check_content(path, found)
    except (InputError, FileNotFoundError):
        return False
    read, source = (builder_varseqlen.read, "-pkl") if benchmark.megatron else (builder.read, "-pt")
    asked = read([source, "any", "-o", "any", *flags])[1].to_dict()
    profiles = [[size, wanted.sequence_length] for size in benchmark.batch_sizes]
    return (
        found is not None
        and (found.backend, found.version, found.gpu) == benchmark.device[:3]
        and all(profile in found.profiles for profile in profiles)
        and all(found.request.get(name) == asked[name] for name in OPTIONS)
    )


def measure(benchmark: Benchmark, wanted: Configuration, path: Path, shown: Any) -> dict[str, Any]:
    """Times an engine at every batch size, but for those that an unfinished run has timed; the form is perf.py's JSON.

    Raises:
        RuntimeError: it cannot be loaded or run.
    """
    result = result_path(benchmark, path)
    settings = {
        "engine": [path.name, path.stat().st_mtime_ns],
        "seconds": [benchmark.seconds, benchmark.least],
        "perf": benchmark.perf,
    }

    def timed(sizes: Iterable[int], warm_ups: int, iterations: int) -> dict[str, Any]:
        with children.temporary_folder() as folder:
            figures = folder / "figures.json"
            arguments = ["-e", path, *repeated("-b", sizes), "-s", wanted.sequence_length, "-w", warm_ups, "-i", iterations]
            call(*benchmark.perf, *arguments, "--json", figures)
            return reading.read_object(figures, "")

    def iterations(row: report.Row) -> int:
        count = next((count for count in ITERATIONS if count * row["median_ms"] <= 1e3 * benchmark.seconds), 0)
        return max(count, benchmark.least)

    figures = read_kept(result, settings)
    rows = {row["batch_size"]: row for row in figures.get("results", [])}
    missing = [size for size in benchmark.batch_sizes if size not in rows]
    try:
        for row in timed(missing, 2, 3)["results"] if missing else []:  # a few runs tell how many are possible
            shown.n = len(rows)
            size, count = row["batch_size"], iterations(row)
            figures = timed([size], min(100, count // 2), count)
            [rows[size]] = figures["results"]
            figures["results"] = [rows[size] for size in benchmark.batch_sizes if size in rows]
            files.write_json(result, {"settings": settings, "figures": figures})
    except RuntimeError as e:
        raise RuntimeError(f"{e} (to build that engine again, remove {path})") from e
    shown.n = len(rows)
    return figures


def read_kept(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The figures that an unfinished run with these settings has left; none where it left none."""
    try:
        kept = reading.read_object(path, "")
    except InputError:
        return {}
    return kept["figures"] if kept.get("settings") == settings else {}


def result_path(benchmark: Benchmark, path: Path) -> Path:
    return benchmark.output / "results" / f"{path.stem}.json"


def main(argv: list[str]) -> None:
    if argv[:1] == ["--device"]:
        print_device(argv[1])
        return
    from helpers import backends
    from helpers.commands import cli

    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--gpu", choices=GENERATIONS, help="use the int8 kernels of this generation (default: detected)")
    add("--models", nargs="+", choices=HIDDEN_SIZES, help="mini is the bundled model (default: base large)")
    add("--precisions", nargs="+", metavar="P", help=f"of {', '.join(PRECISIONS)} (default: float16 int8)")
    add("--sequence-lengths", nargs="+", type=cli.positive, metavar="S", help="(default: 128 384)")
    add("--batch-sizes", nargs="+", type=cli.positive, metavar="B", help="(default: 1 2 4 8 12 16 24 32 64 128)")
    add("--random-weights", action="store_true", help="take random weights, for which no checkpoint is needed")
    add("--megatron", action="store_true", help="the sparse Megatron model in packed int8; --precisions: int8 int8-sparse")
    add("--seconds", type=cli.positive, help="most seconds of a cell (default: 10; on a GPU at least 1000 iterations)")
    add("-o", "--output", type=Path, help="folder for engines and figures (default: one for the GPU, in engines)")
    cli.add_backend(parser)
    args = parser.parse_args(argv)
    known = PRECISIONS_MEGATRON if args.megatron else PRECISIONS
    precisions = args.precisions or (known if args.megatron else ("float16", "int8"))
    models = args.models or (("large",) if args.megatron else ("base", "large"))
    lengths = sorted(set(args.sequence_lengths or SEQUENCE_LENGTHS))
    if not set(precisions) <= set(known):
        parser.error(f"argument --precisions: must be of {', '.join(known)}, not {' '.join(precisions)}")
    if args.megatron and set(models) != {"large"} and not args.random_weights:
        parser.error("argument --models: Megatron's checkpoint is of the large model; others have --random-weights only")

    report.check_available()
    device = find_device(args.backend)
    backend = backends.find(device.backend)
    if not backend.on_gpu:
        for precision in filter(precisions.__contains__, ON_CPU):
            cli.warn(f"{backend.title} has no {precision}: {ON_CPU[precision]} is timed instead")
        precisions = [ON_CPU.get(precision, precision) for precision in precisions]
        if args.gpu:
            cli.warn("no GPU is used here: --gpu is ignored")
    elif args.gpu:
        device = device._replace(capability=GENERATIONS[args.gpu])
    slug = re.sub("[^a-z0-9]+", "-", (device.gpu or "cpu").lower())
    benchmark = Benchmark(
        output=(args.output or ROOT / "engines" / f"benchmark{'-megatron' * args.megatron}-{slug}").resolve(),
        device=device,
        megatron=args.megatron,
        random_weights=args.random_weights,
        batch_sizes=sorted(set(args.batch_sizes or BATCH_SIZES)),
        seconds=args.seconds or SECONDS,
        least=ITERATIONS[-1] if args.seconds or not backend.on_gpu else 1000,
        perf=find_perf(device.backend),
    )
    for folder in ("", "engines", "results"):
        files.make_folder(benchmark.output / folder)
    files.check_outputs(benchmark.output / name for name in REPORT)
    wanted = itertools.product(report.unique(models), lengths, report.unique(precisions))
    run(benchmark, [Configuration(*each) for each in wanted])


def run(benchmark: Benchmark, configurations: Sequence[Configuration]) -> None:
    """Builds and times each configuration and reports them all. Exits with 1 where some failed."""
    from helpers import engine_file
    from helpers.commands import cli

    rows: list[report.Row] = []
    failures: dict[str, list[str]] = {}  # what failed, by the reason
    timed: dict[str, Any] = {}
    done: list[Path] = []

    def kept() -> str:
        return f"what is timed is kept in {benchmark.output}: the same command goes on from there"

    with process.at_end(kept):
        for i, wanted in enumerate(configurations, 1):
            model = f"{'megatron-' * benchmark.megatron}{wanted.model}"
            name = f"{model}-{wanted.precision}-{wanted.sequence_length}"
            path = benchmark.output / "engines" / f"{name}{'-random' * benchmark.random_weights}.engine"
            at = f"[{i}/{len(configurations)}] {name}"
            try:
                with cli.elapsed(f"{at}: engine", bars.SLOW):
                    build(benchmark, wanted, path)
                with bars.bar(f"{at}: timing", "batch size", len(benchmark.batch_sizes), leave=True) as shown:
                    timed = measure(benchmark, wanted, path, shown)
                made = engine_file.read_description(path)
            except (InputError, RuntimeError, OSError) as e:
                if str(e) not in failures:
                    process.complain("warning", f"{name} failed: {e}")
                failures.setdefault(str(e), []).append(name)
                continue
            # To ask for sparse kernels does not mean that TensorRT takes any.
            sparse = made.sparse_layers if made else 0
            of_engine = {"model": model, "precision": wanted.precision, "packed": timed["packed"], "sparse_layers": sparse}
            rows += [{**of_engine, **row} for row in timed["results"]]
            done.append(result_path(benchmark, path))
    if rows:
        write(benchmark, rows, failures, timed)
    if failures:
        sys.stdout.flush()
        listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failures.items())
        process.complain("error", f"{sum(map(len, failures.values()))} of {len(configurations)} configurations failed: {listed}")
        raise SystemExit(1)
    for result in done:
        result.unlink(missing_ok=True)


def write(benchmark: Benchmark, rows: list[report.Row], failures: dict[str, list[str]], timed: dict[str, Any]) -> None:
    """Writes figures.json, plot and table, and prints the table."""
    shared = {name: timed[name] for name in ("backend", "version", "device")}
    shared |= {"enable_graph": timed.get("enable_graph", False), "random_weights": benchmark.random_weights}
    failed = [{"configuration": name, "reason": reason} for reason, names in failures.items() for name in names]
    title = f"{timed['device']}, {timed['backend']} {timed['version']}"
    title += ", CUDA graphs" * shared["enable_graph"] + ", random weights" * benchmark.random_weights
    plots, table = report.images(report.plot(rows, title)), report.markdown(rows)
    figures = files.json_bytes({**shared, "results": rows, "failures": failed})
    contents = (plots["png"], plots["svg"], table.encode(), figures)
    files.write({benchmark.output / name: [content] for name, content in zip(REPORT, contents)})
    print(f"Wrote table.md, figures.json, plot.png and plot.svg in {benchmark.output}\n")
    print(table, end="")


if __name__ == "__main__":
    process.main(main)
