#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Times answering SQuAD questions on one CPU core: this project's ONNX engines beside CTranslate2 and Optimum.

Each contestant answers in a process of its own, from a SQuAD file to a file of predictions. What counts is that
process's CPU seconds, less those of the same process with a file of one question, which start-up takes. They take turns.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
import argparse
import json
import resource
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Callable, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# What takes time to import, functions do.
from helpers import files, reading  # noqa: E402
from helpers.commands import bars, children, report  # noqa: E402
from helpers.errors import InputError  # noqa: E402

PACKAGES = ("torch", "transformers", "ctranslate2", "optimum.onnxruntime", "onnxruntime")
INSTALL = "pip install torch==2.13.0 && pip install ctranslate2 transformers 'optimum[onnxruntime]'"
PEERS = ("ctranslate2", "optimum")
PRECISIONS = ("float32", "int8")
LENGTH, STRIDE, LONGEST_ANSWER = 384, 128, 30
VERSIONS = """
import importlib, importlib.metadata, sys
for package in sys.argv[1:]:
    try:
        importlib.import_module(package)
        print(package.split(".")[0], importlib.metadata.version(package.split(".")[0]))
    except ImportError:
        print(package)
"""


class Contestant(NamedTuple):
    """Something that answers: `command` takes a SQuAD file and a file for predictions after it."""

    name: str
    precision: str
    batch_size: int
    command: tuple[str, ...]


class Record(NamedTuple):
    """What was seen of a contestant so far, a number a run: CPU seconds, those of the network; and its answers by id."""

    seconds: list[float]
    network: list[float]
    answers: dict[str, str]


def main(argv: list[str]) -> None:
    from helpers.commands import cli
    from helpers.request import of_model

    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("-pt", "--checkpoint", type=Path, default=ROOT / "models/minilm-l6-squad", help="Hugging Face folder")
    add("-qat", "--int8-checkpoint", type=Path, help="one with activation ranges, for further int8 engines of ours")
    add("-j", "--squad-json", type=Path, default=ROOT / "squad/dev-v1.1.json", help="SQuAD file; int8 is calibrated on it too")
    add("-n", "--questions", type=cli.whole_number(2), default=300, help="how many of its questions, the first ones")
    add("-b", "--batch-size", type=cli.positive, action="append", help="windows a batch; may be repeated (default: 1 and 8)")
    add("-r", "--runs", type=cli.positive, default=3, help="how often each contestant answers all questions")
    add("--precision", choices=PRECISIONS, action="append", help="may be repeated (default: both)")
    add("--peers-python", default=sys.executable, help="the Python that has the peers' packages")
    add("--json", type=Path, help="write all figures there")
    args = parser.parse_args(argv)
    if args.json:
        models = (path for folder in (args.checkpoint, args.int8_checkpoint) if folder for path in of_model(folder))
        files.check_outputs([args.json], [args.squad_json, *models], streams=True)
    versions = check_packages(args.peers_python)
    sizes, precisions = sorted(set(args.batch_size or [1, 8])), args.precision or PRECISIONS

    with children.temporary_folder() as folder:
        one, many = (first_questions(args.squad_json, count, folder / f"{count}.json") for count in (1, args.questions))
        with bars.bar("Making the contestants", "model", leave=True) as shown:
            records = {contestant: Record([], [], {}) for contestant in build(args, folder, sizes, precisions, shown)}
        with bars.bar("Answering", "run", args.runs * len(records), leave=True) as shown:
            for _ in range(args.runs):
                for contestant, record in records.items():
                    shown.set_description_str(f"Answering: {in_words(contestant)}", refresh=False)
                    take_turn(contestant, record, one, many, folder / "predictions.json")
                    shown.n += 1
                if args.json and not files.is_stream(args.json):
                    write(args, versions, records)
    if args.json:
        write(args, versions, records)
    header = ["precision", "runtime", "batch", "CPU seconds", "runs", "network", f"of {args.questions} as the first"]
    rows = [cells(contestant, record, same_answers(records, contestant)) for contestant, record in records.items()]
    print(report.table(header, rows, numbers_from=2), end="")
    print(", ".join(versions))


def take_turn(contestant: Contestant, record: Record, one: Path, many: Path, out: Path) -> None:
    """Has a contestant answer all questions once."""
    start_up, _ = spend([*contestant.command, one, out])
    total, printed = spend([*contestant.command, many, out])
    record.seconds.append(total - start_up)
    record.network.extend(float(line.split()[1]) for line in printed.splitlines() if line.startswith("network "))
    record.answers.update(reading.read_object(out, ""))


def same_answers(records: dict[Contestant, Record], contestant: Contestant) -> int:
    """How many of its answers are those of the first one of its precision."""
    reference = next(record for each, record in records.items() if each.precision == contestant.precision)
    return sum(text == reference.answers[key] for key, text in records[contestant].answers.items())


def cells(contestant: Contestant, record: Record, same: int) -> list[str]:
    """A row of the table."""
    of_network = f"{median(record.network):.2f}" if record.network else "–"
    runs = [f"{median(record.seconds):.2f}", " ".join(f"{run:.2f}" for run in record.seconds), of_network]
    return [contestant.precision, contestant.name, str(contestant.batch_size), *runs, str(same)]


def write(args: argparse.Namespace, versions: list[str], records: dict[Contestant, Record]) -> None:
    """Writes all figures so far."""
    figures = [
        {
            **contestant._asdict(),
            "command": None,
            "seconds": record.seconds,
            "network_seconds": record.network,
            "same_answers": same_answers(records, contestant),
        }
        for contestant, record in records.items()
    ]
    files.write_json(args.json, {"versions": versions, "questions": args.questions, "results": figures})


def check_packages(python: str) -> list[str]:
    """The peers' versions. Raises InputError where one is missing."""
    try:
        found = children.run([python, "-c", VERSIONS, *PACKAGES]).stdout.splitlines()
    except OSError:
        found = []
    missing = [line for line in found if " " not in line]
    if missing or not found:
        raise InputError(f"{python} has no {', '.join(missing) or 'Python'}", f"{INSTALL}; or name another with --peers-python")
    return found


def first_questions(path: Path, count: int, out: Path) -> Path:
    """Writes the first questions of a SQuAD file as one."""
    from helpers.qa import squad

    squad.read(path)  # refuses what is no such file
    left, articles = count, []
    for article in reading.read_object(path, "SQuAD file", reading.LARGE)["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            if left:
                paragraphs.append({**paragraph, "qas": paragraph["qas"][:left]})
                left -= len(paragraphs[-1]["qas"])
        if paragraphs:
            articles.append({**article, "paragraphs": paragraphs})
    out.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return out


def build(
    args: argparse.Namespace, folder: Path, sizes: Sequence[int], precisions: Sequence[str], shown: Any
) -> Iterator[Contestant]:
    """Makes every contestant's model, which a bar counts, and yields the contestants, those of one precision side by side."""
    from helpers import backends

    this = [args.peers_python, __file__, "--peer"]
    for peer in PEERS:
        run([*this, "make", peer, args.checkpoint, folder / peer, *precisions])
        shown.n += 1
    for precision in precisions:
        int8 = ["--int8", "-j", args.squad_json, "-p", folder / "ranges.json"] if precision == "int8" else []
        # A packed int8 engine takes ranges from the checkpoint, and from nowhere else.
        variants = [("ours", args.checkpoint, "builder.py", int8)]
        if precision == "float32":
            variants.append(("ours, packed", args.checkpoint, "builder_varseqlen.py", []))
        elif args.int8_checkpoint:
            variants.append(("ours, with ranges", args.int8_checkpoint, "builder.py", ["--int8"]))
            variants.append(("ours, with ranges, packed", args.int8_checkpoint, "builder_varseqlen.py", ["--int8"]))
        made = []
        for name, checkpoint, builder, flags in variants:
            engine = folder / f"{name} {precision}.engine"
            shape = ["-s", LENGTH, "-b", max(sizes), "--backend", backends.observer().name]
            run([sys.executable, ROOT / builder, "-pt", checkpoint, "-o", engine, *shape, *flags])
            made.append((name, engine))
            shown.n += 1
        for size in sizes:
            for name, engine in made:
                command = [sys.executable, ROOT / "inference.py", "-e", engine, "-b", size, "-o"]
                yield Contestant(name, precision, size, tuple(map(str, command)))
            for peer in PEERS:
                command = [*this, "answer", peer, args.checkpoint, folder / peer, precision, size]
                yield Contestant(peer, precision, size, tuple(map(str, command)))


def in_words(contestant: Contestant) -> str:
    return f"{contestant.precision}, {contestant.name}, batch {contestant.batch_size}"


def run(command: Sequence[Any]) -> str:
    """Runs a command on one core; returns what it prints. Ends this script, with its errors, where it fails."""
    core = max(os.sched_getaffinity(0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = children.run(command, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr[-1000:]}")
    return done.stdout


def spend(command: Sequence[Any]) -> tuple[float, str]:
    """(CPU seconds that a command takes, what it prints). The last two arguments are the SQuAD file and the predictions."""
    *rest, squad, out = command
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = run([*rest, out, "-sq", squad] if rest[-1] == "-o" else [*rest, squad, out])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, printed


# What follows runs in the peers' Python, which need not have what this project needs.


def peer(argv: list[str]) -> None:
    """`make PEER CHECKPOINT FOLDER PRECISION…` or `answer PEER CHECKPOINT FOLDER PRECISION BATCH SQUAD PREDICTIONS`."""
    task, name, checkpoint, folder, *rest = argv
    if task == "make":
        {"ctranslate2": make_ctranslate2, "optimum": make_optimum}[name](checkpoint, Path(folder), rest)
    else:
        precision, size, squad, out = rest
        open_network = {"ctranslate2": open_ctranslate2, "optimum": open_optimum}[name]
        answer(open_network(checkpoint, Path(folder) / precision), checkpoint, int(size), Path(squad), Path(out))


def make_ctranslate2(checkpoint: str, folder: Path, precisions: Sequence[str]) -> None:
    from ctranslate2.converters import TransformersConverter

    for precision in precisions:
        TransformersConverter(checkpoint).convert(str(folder / precision), quantization=precision)


def make_optimum(checkpoint: str, folder: Path, precisions: Sequence[str]) -> None:
    """int8 as Optimum's own guide has it: weights before, activations as they come."""
    from optimum.onnxruntime import ORTModelForQuestionAnswering, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = ORTModelForQuestionAnswering.from_pretrained(checkpoint, export=True)
    model.save_pretrained(folder / "float32")
    if "int8" in precisions:
        vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
        recipe = AutoQuantizationConfig.avx512_vnni if vnni else AutoQuantizationConfig.avx2
        ORTQuantizer.from_pretrained(model).quantize(save_dir=folder / "int8", quantization_config=recipe(is_static=False))


def open_ctranslate2(checkpoint: str, folder: Path) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    import ctranslate2
    import numpy as np
    from transformers import AutoModelForQuestionAnswering

    encoder = ctranslate2.Encoder(str(folder), compute_type=folder.name, inter_threads=1, intra_threads=1)
    head = AutoModelForQuestionAnswering.from_pretrained(checkpoint).qa_outputs  # CTranslate2 has encoders without heads
    weight, bias = head.weight.detach().numpy().T, head.bias.detach().numpy()

    def network(ids: Any, segments: Any, mask: Any) -> tuple[Any, Any]:
        view, lengths = (ctranslate2.StorageView.from_array(each.astype(np.int32)) for each in (ids, mask.sum(1)))
        hidden = np.array(encoder.forward_batch(view, lengths, segments.tolist()).last_hidden_state)
        logits = hidden @ weight + bias
        return logits[..., 0], logits[..., 1]

    return network


def open_optimum(checkpoint: str, folder: Path) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForQuestionAnswering

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    [file] = folder.glob("*.onnx")
    model = ORTModelForQuestionAnswering.from_pretrained(folder, file_name=file.name, session_options=options)

    def network(ids: Any, segments: Any, mask: Any) -> tuple[Any, Any]:
        outputs = model(input_ids=ids, token_type_ids=segments, attention_mask=mask)
        return outputs.start_logits, outputs.end_logits

    return network


def answer(network: Callable[[Any, Any, Any], tuple[Any, Any]], checkpoint: str, size: int, squad: Path, out: Path) -> None:
    """Tokenizes and windows as transformers' own example does, runs windows of similar length together, takes the best span."""
    import numpy as np
    from transformers import AutoTokenizer

    asked = [
        (question["id"], question["question"], paragraph["context"])
        for article in json.loads(squad.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoded = tokenizer(
        [question for _, question, _ in asked],
        [passage for _, _, passage in asked],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = encoded.encodings
    order = iter(sorted(range(len(windows)), key=lambda i: len(windows[i].ids)))
    best: dict[str, tuple[float, str]] = {}
    spent = 0.0
    while batch := list(islice(order, size)):
        shape = (len(batch), max(len(windows[i].ids) for i in batch))
        ids, segments, mask = (np.zeros(shape, np.int64) for _ in range(3))
        for row, i in enumerate(batch):
            length = len(windows[i].ids)
            ids[row, :length], segments[row, :length], mask[row, :length] = windows[i].ids, windows[i].type_ids, 1
        before = time.process_time()
        starts, ends = network(ids, segments, mask)
        spent += time.process_time() - before
        for row, i in enumerate(batch):
            key, _, passage = asked[encoded["overflow_to_sample_mapping"][i]]
            last = len(windows[i].ids) - 1
            first = windows[i].ids.index(tokenizer.sep_token_id) + 1
            pairs = starts[row, first:last, None] + ends[row, None, first:last]
            allowed = np.tri(last - first, k=LONGEST_ANSWER - 1, dtype=bool) & ~np.tri(last - first, k=-1, dtype=bool)
            start, end = np.unravel_index(np.where(allowed, pairs, -np.inf).argmax(), pairs.shape)
            text = passage[windows[i].offsets[first + start][0] : windows[i].offsets[first + end][1]]
            best[key] = max(best.get(key, (-np.inf, "")), (float(pairs[start, end]), text))
    out.write_text(json.dumps({key: text for key, (_, text) in best.items()}), encoding="utf-8")
    print(f"network {spent:.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2:])
    else:
        process.main(main)
