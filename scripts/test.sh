#!/usr/bin/env bash
# Installs what the tests need and runs them; those marked gpu only where TensorRT and a GPU are there.
#
#   bash scripts/test.sh                     all of them
#   bash scripts/test.sh --fast              those that need no TensorFlow, PyTorch, notebook or plot: a minute
#   bash scripts/test.sh tests/test_files.py -k locked      further arguments go to pytest
#
# Into .venv go 3.2 GB, or with --fast 0.6 GB, once; pip shows how far it is. Where it takes a PyTorch with CUDA it is some
# GB more.
# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"

fast=()
if [[ ${1-} == --fast ]]; then
  shift
  fast=(
    tests/backends/onnxruntime/test_model.py tests/backends/test_*.py tests/checkpoints/test_folder.py
    tests/commands/test_{ask,bars,children,cli,perf,process,timing}.py tests/qa tests/scripts/test_downloads.py tests/squad
    tests/test_{engine_file,errors,files,graph,layouts,precision,progress,reading,request,scheduling}.py tests/tokenization
  )
  setup requirements.txt requirements-dev.txt
else
  setup requirements.txt requirements-{convert,torch,notebook,report,dev}.txt
fi

.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
# mypy judges by the libraries' own annotations, and older Pythons get older libraries.
if [[ ! ${fast[*]-} ]] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then .venv/bin/python -m mypy; fi
if .venv/bin/python -c 'import sys; from helpers import backends; sys.exit(not backends.choose().on_gpu)' 2>/dev/null; then
  .venv/bin/python -m pytest ${fast[@]+"${fast[@]}"} "$@"
else
  .venv/bin/python -m pytest -m "not gpu" -n 2 --dist loadfile ${fast[@]+"${fast[@]}"} "$@"
fi
