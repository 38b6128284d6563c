#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Answers questions with a TensorRT engine, or scores it on SQuAD, through the C++ extension."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from helpers import cli, engine, inference
from helpers.errors import InputError
from helpers.sessions import Session
from helpers.sessions.cuda_graph import CudaGraphSession


def open_session(path: Path, backend: str, description: engine.Description | None, *, enable_graph: bool) -> Session:
    """Loads a TensorRT engine. Raises InputError where the file is not one, or cannot be run here."""
    if "onnxruntime" in (backend, engine.recognise(path)):
        raise InputError(f"the extension runs TensorRT engines only: use inference.py for {path}")
    if description:
        engine.check_same_machine(path, description)
    return CudaGraphSession(path, enable_graph)


def main(argv: list[str]) -> None:
    parser = cli.Parser(__doc__)
    inference.add_arguments(parser)
    parser.add_argument("--enable-graph", action="store_true", help="replay a captured CUDA graph")
    args = parser.parse_args(argv)
    inference.run(parser, args, partial(open_session, enable_graph=args.enable_graph))


if __name__ == "__main__":
    cli.main(main)
