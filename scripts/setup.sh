# shellcheck shell=bash
# Sourced by the other scripts: goes to the project's folder, makes .venv there, and installs into it what is asked for.
#
#   . "$(dirname "$0")/setup.sh"
#   setup requirements.txt …      installs only what changed since the last time
#
# PYTHON names the interpreter that .venv is made with (CPython 3.9 to 3.12; TensorRT 8.6 needs 3.10 or older).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

supported() { "$1" -c 'import sys, venv; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local candidates=(python3 python3.11 python3.12 python3.10 python3.9) candidate
  if has_gpu; then candidates=(python3.10 python3.9 python3 python3.11 python3.12); fi
  for candidate in ${PYTHON:-"${candidates[@]}"}; do
    if supported "$candidate"; then echo "$candidate"; return; fi
  done
  echo "error: CPython 3.9 to 3.12 with venv not found (looked for ${PYTHON:-${candidates[*]}}): name one with PYTHON=…" >&2
  return 2
}

install() {
  echo "Installing $1 into .venv: $(sed -n 's/^# Takes/it takes/p' "$1")"
  .venv/bin/python -m pip install --disable-pip-version-check -r "$1"
}

setup() {
  local python site=() file stamp
  # One that an interrupted run left has no pip.
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    # A container with TensorRT has it in the system's packages.
    if has_gpu && "$python" -c 'import tensorrt' 2>/dev/null; then site=(--system-site-packages); fi
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv ${site[@]+"${site[@]}"} .venv
  fi
  for file in "$@"; do
    stamp=.venv/installed-$file
    if ! cmp -s "$file" "$stamp"; then
      install "$file"
      cp "$file" "$stamp"
    fi
  done
  if has_gpu && ! .venv/bin/python -c 'import tensorrt, pycuda' 2>/dev/null && [[ ! -e .venv/no-tensorrt ]]; then
    if ! install requirements-gpu.txt || ! .venv/bin/python -c 'import tensorrt, pycuda' 2>/dev/null; then
      echo "warning: TensorRT or PyCUDA cannot be installed here: ONNX Runtime on the CPU does the work" >&2
      touch .venv/no-tensorrt
    fi
  fi
}
