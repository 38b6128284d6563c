"""What builder.py and builder_varseqlen.py share: from command line to engine file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from helpers import calibrator, cli, engine, files, ranges, tokenization
from helpers.checkpoints import megatron, onnx, pytorch, tensorflow
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.graphs import Int8
from helpers.sessions.layouts import Profile
from helpers.tokenization import Tokenizer
from helpers.weights import BertWeights

# What only TensorRT can do, by the name of the argument.
TENSORRT_FLAGS = {
    "fp16": "--fp16",
    "strict": "--strict",
    "sparse": "--sparse",
    "interleaved": "--interleaved",
    "force_int8_multihead": "--force-int8-multihead",
    "force_int8_skipln": "--force-int8-skipln",
    "force_fc2_gemm": "--force-fc2-gemm",
}
LOADERS = {"ckpt": tensorflow.load, "onnx": onnx.load, "pytorch": pytorch.load, "pickle": megatron.load}


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
    # What only one of the builders has is off in the other.
    parser.set_defaults(**dict.fromkeys(TENSORRT_FLAGS, False), megatron=False, squad_json=None, calib_path=None)


def build(parser: cli.Parser, args: argparse.Namespace, profiles: list[Profile], packed: bool = False) -> None:
    """Builds the engine that the command line asks for.

    Raises:
        InputError: anything in the checkpoint, configuration, vocabulary, sizes or paths does not fit.
    """
    if args.interleaved and not args.int8:
        raise InputError("--interleaved is a layout of int8: add --int8 --fp16")
    source = cli.one_of(parser, args, *(name for name in LOADERS if hasattr(args, name)))
    if args.megatron and not (args.interleaved and source == "pickle"):
        raise InputError(
            "--megatron residuals exist in interleaved int8 alone, of a pickle: add --pickle --interleaved --int8 --fp16"
        )
    checkpoint: Path = getattr(args, source)
    folder = args.config_dir
    if folder is None and source == "pytorch":
        folder = pytorch.find_file(checkpoint).parent
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
    outputs = (args.output, engine.description_path(args.output), args.timing_cache_file, args.calib_path)
    for output in filter(None, outputs):
        files.check_writable(output, checkpoint, vocab_file, args.squad_json)
    backend = engine.choose_backend(args.backend)
    ignored = [flag for name, flag in TENSORRT_FLAGS.items() if getattr(args, name)]
    if backend == "onnxruntime" and ignored:
        computes = "int8 and float32" if args.int8 else "float32"
        cli.warn(f"ONNX Runtime on the CPU computes in {computes}: not honoured are {', '.join(ignored)}")

    weights = LOADERS[source](checkpoint, config)
    weights = engine.fit(weights, config, backend, args.fp16 or args.int8)
    lower_case = tokenization.is_lower_case(vocab, folder)
    flags = (True, True, False) if packed else (args.force_int8_multihead, args.force_int8_skipln, args.force_fc2_gemm)
    options = engine.BuildOptions(
        profiles=profiles,
        packed=packed,
        interleaved=args.interleaved,
        megatron=args.megatron,
        fp16=args.fp16,
        int8=Int8({}, *flags) if args.int8 else None,
        strict=args.strict,
        sparse=args.sparse,
        workspace_mib=args.workspace_size,
        timing_cache=args.timing_cache_file,
        verbose=args.verbose,
    )
    if backend == "tensorrt":
        engine.check_kernels(options, config, weights, cli.warn)
    if args.int8:
        found = find_ranges(args, weights, config, longest, tokenization.Tokenizer(vocab, lower_case))
        if backend == "onnxruntime" and not weights.ranges:  # nothing was trained to be rounded: round only what pays
            found = ranges.of_projections(found)
        options = replace(options, int8=Int8(found, *flags))
    if args.sparse:
        report_sparsity(weights)
    with cli.elapsed(f"Building {args.output} for {backend}"):
        blob = engine.build(weights, config, backend, options, cli.warn)
    description = engine.new_description(backend, options, checkpoint, vocab_file, config.vocab_size, lower_case)
    engine.save(args.output, blob, description)
    if args.sparse and backend == "tensorrt":
        print(f"TensorRT chose sparse kernels for {description.sparse_layers} layers")
    print(f"Wrote {args.output} ({len(blob) / engine.MIB:.1f} MiB) and {engine.description_path(args.output).name}")


def find_ranges(
    args: argparse.Namespace, weights: BertWeights, config: BertConfig, sequence_length: int, tokenizer: Tokenizer
) -> dict[str, float]:
    """The activation ranges for int8: the checkpoint's, or else those that calibration finds or has found.

    Raises:
        InputError: the checkpoint lacks some ranges, or has none and the engine cannot be calibrated.
    """
    if weights.ranges or args.squad_json is None:
        return ranges.from_checkpoint(weights.ranges, config.num_hidden_layers, args.megatron)
    if not args.squad_json.exists():
        raise InputError(
            f"int8 needs text to calibrate with, but {args.squad_json} does not exist: name a SQuAD file with --squad-json, "
            "or take a checkpoint with activation ranges"
        )
    batches = calibrator.windows(args.squad_json, args.calib_num, sequence_length, tokenizer)
    computed_for = calibrator.stamp(weights, config, batches)
    if args.calib_path:
        cached = calibrator.read_cache(args.calib_path, computed_for, config.num_hidden_layers, cli.warn)
        if cached:
            return cached
    found = calibrator.calibrate(weights, config, tqdm(batches, "Calibrating", unit=" windows"))
    if args.calib_path:
        calibrator.write_cache(args.calib_path, found, computed_for)
    return found


def report_sparsity(weights: BertWeights) -> None:
    """Says how many of the encoder's matrices are 2:4 sparse along their input."""
    matrices = [array for name, array in weights.tensors().items() if name.startswith("bert.encoder") and array.ndim == 2]
    sparse = sum(map(is_sparse, matrices))
    print(f"2:4 sparse are {sparse} of the encoder's {len(matrices)} matrices")
    if not sparse:
        cli.warn("--sparse has nothing to work on: no matrix of this checkpoint is 2:4 sparse")


def is_sparse(matrix: np.ndarray) -> bool:
    """Whether of every 4 neighbours along a matrix's input at least 2 are zero (Mishra et al., 2021, arXiv:2104.08378)."""
    rows, columns = matrix.shape
    return columns % 4 == 0 and bool(((matrix.reshape(rows, -1, 4) != 0).sum(-1) <= 2).all())
