"""What builder.py and builder_varseqlen.py share: from command line to engine file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from helpers import backends, checkpoints, engine_file, files
from helpers.commands import bars, cli
from helpers.config import TASKS, BertConfig
from helpers.quantization import calibration
from helpers.request import BuildRequest, Calibration

SHARED = ("config_dir", "vocab_file", "task", "fp16", "int8", "sparse", "workspace_mib", "timing_cache", "verbose")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both builders have."""
    add = parser.add_argument
    add("-m", "--ckpt", type=Path, help="TensorFlow checkpoint prefix (…/model.ckpt)")
    add("-x", "--onnx", type=Path, help="ONNX file whose initializers are the weights")
    add("-pt", "--pytorch", type=Path, help="PyTorch state dict, safetensors file, or Hugging Face folder")
    add("-o", "--output", type=Path, required=True, help="engine file to write; its description goes beside it")
    add("-c", "--config-dir", type=Path, help="folder with bert_config.json or config.json (default: the -pt folder)")
    add("-v", "--vocab-file", type=Path, help="tokenizer.json, or a vocabulary (default: in the config folder)")
    add("--task", choices=tuple(TASKS), default=BuildRequest.task, help="what the engine is for")
    add("-f", "--fp16", action="store_true", help="float16")
    add("-i", "--int8", action="store_true", help="int8")
    add(
        "-w",
        "--workspace-size",
        dest="workspace_mib",
        type=cli.positive,
        default=BuildRequest.workspace_mib,
        metavar="MIB",
        help="TensorRT's workspace",
    )
    add("-sp", "--sparse", action="store_true", help="2:4 structured sparsity")
    add("-tcf", "--timing-cache-file", dest="timing_cache", type=Path, help="TensorRT timing cache, read and written")
    add("-j", "--squad-json", type=Path, default=Calibration.squad_json, help="int8 calibration text")
    add("-n", "--calib-num", type=cli.positive, default=Calibration.windows, help="int8 calibration batches")
    add("-p", "--calib-path", type=Path, help="int8 calibration cache")
    cli.add_backend(parser)


def request(parser: cli.Parser, args: argparse.Namespace, **fields: Any) -> BuildRequest:
    """What the command line asks for.

    Args:
        fields: those of the request that only one of the builders has flags for.

    Raises:
        InputError: options that exclude each other.
    """
    source = cli.one_of(parser, args, *(name for name in checkpoints.LOADERS if hasattr(args, name)))
    shared = {name: getattr(args, name) for name in SHARED}
    shared["calibration"] = Calibration(args.squad_json, args.calib_num, args.calib_path)
    return BuildRequest(source=source, checkpoint=getattr(args, source), **shared, **fields)


def run(request: BuildRequest, backend: str, output: Path) -> None:
    """Builds the engine, with its description beside it.

    Raises:
        InputError: anything in the checkpoint, configuration, vocabulary, sizes or paths does not fit.
    """
    files.check_outputs((output, engine_file.description_path(output), *request.outputs()), request.inputs())
    if request.int8 and request.calibration.cache:
        calibration.check_cache(request.calibration.cache)
    family = BertConfig.load(request.folder, request.task).family
    built = backends.choose(backend, family, cli.warn).build(request, cli.Terminal())
    with cli.elapsed(f"Writing {output}", bars.SLOW):
        engine_file.save(output, built)
    print(f"Wrote {output} ({len(built.blob) / (1 << 20):.1f} MiB) and {engine_file.description_path(output).name}")
