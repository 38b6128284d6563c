"""What builder.py and builder_varseqlen.py share: from command line to engine file."""

from __future__ import annotations

import argparse
from pathlib import Path

from helpers import cli, engine, files, tokenization
from helpers.checkpoints import onnx, pytorch, tensorflow
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.sessions.layouts import Profile

LOADERS = {"ckpt": tensorflow.load, "onnx": onnx.load, "pytorch": pytorch.load}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both builders have."""
    add = parser.add_argument
    add("-m", "--ckpt", type=Path, help="TensorFlow checkpoint prefix (…/model.ckpt)")
    add("-x", "--onnx", type=Path, help="ONNX file whose initializers are the weights")
    add("-pt", "--pytorch", type=Path, help="PyTorch state dict, safetensors file, or Hugging Face folder")
    add("-o", "--output", type=Path, required=True, help="engine file to write; its description goes beside it")
    add("-c", "--config-dir", type=Path, help="folder with bert_config.json or config.json (default: the -pt folder)")
    add("-v", "--vocab-file", type=Path, help="WordPiece vocabulary (default: vocab.txt in the config folder)")
    add("-f", "--fp16", action="store_true", help="float16")
    add("-i", "--int8", action="store_true", help="int8")
    add("-w", "--workspace-size", type=cli.positive, default=1200, metavar="MIB", help="TensorRT's workspace")
    add("-sp", "--sparse", action="store_true", help="2:4 structured sparsity")
    add("-tcf", "--timing-cache-file", type=Path, help="TensorRT timing cache, read and written")
    cli.add_backend(parser)


def build(
    parser: cli.Parser, args: argparse.Namespace, profiles: list[Profile], packed: bool = False, strict: bool = False
) -> None:
    """Builds the engine that the command line asks for.

    Raises:
        InputError: anything in the checkpoint, configuration, vocabulary, sizes or paths does not fit.
    """
    source = cli.one_of(parser, args, "ckpt", "onnx", "pytorch")
    checkpoint: Path = getattr(args, source)
    if args.int8 or args.sparse:
        raise InputError(f"{'--int8' if args.int8 else '--sparse'} is not supported yet: build with --fp16 or in float32")
    folder = args.config_dir
    if folder is None and source == "pytorch":
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if folder is None:
        parser.error("the configuration's folder is required: -c, --config-dir")

    config = BertConfig.load(folder)
    longest = max(profile.sequence_length for profile in profiles)
    if longest > config.max_position_embeddings:
        raise InputError(
            f"sequence length {longest} is above the model's max_position_embeddings, {config.max_position_embeddings}"
        )
    vocab_file = args.vocab_file or folder / "vocab.txt"
    vocab = tokenization.read_vocab(vocab_file)
    tokenization.check_vocab_size(vocab, config.vocab_size, vocab_file)
    for output in filter(None, (args.output, engine.description_path(args.output), args.timing_cache_file)):
        files.check_writable(output)
    backend = engine.choose_backend(args.backend, cli.warn)
    if backend == "onnxruntime" and args.fp16:
        cli.warn("ONNX Runtime on the CPU computes in float32: --fp16 is not honoured")

    weights = LOADERS[source](checkpoint, config)
    options = engine.BuildOptions(profiles, packed, args.fp16, strict, args.workspace_size, args.timing_cache_file, args.verbose)
    with cli.elapsed(f"Building {args.output} for {backend}"):
        blob = engine.build(weights, config, backend, options, cli.warn)
    lower_case = tokenization.is_lower_case(vocab, folder)
    description = engine.new_description(backend, options, checkpoint, vocab_file, config.vocab_size, lower_case)
    engine.save(args.output, blob, description)
    print(f"Wrote {args.output} ({len(blob) / engine.MIB:.1f} MiB) and {engine.description_path(args.output).name}")
