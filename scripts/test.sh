#!/usr/bin/env bash
# Installs what the tests need and runs all of them; those marked gpu only where TensorRT and a GPU are there.
# Further arguments go to pytest.
# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"
setup requirements.txt requirements-convert.txt requirements-notebook.txt requirements-report.txt requirements-dev.txt

.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
# mypy judges by the libraries' own annotations, and older Pythons get older libraries.
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then .venv/bin/python -m mypy; fi
if .venv/bin/python -c 'import sys; from helpers import backends; sys.exit(not backends.choose().on_gpu)' 2>/dev/null; then
  .venv/bin/python -m pytest "$@"
else
  .venv/bin/python -m pytest -m "not gpu" -n 2 --dist loadfile "$@"
fi
