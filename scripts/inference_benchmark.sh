#!/usr/bin/env bash
# Fetches and builds what is missing and times BERT base and large in float16 and int8. --help lists the arguments, among
# them --random-weights, where no checkpoint can be had.
here=$PWD
# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"
needed=(requirements.txt)
if [[ ! " $* " =~ " -h "|" --help " ]]; then
  needed+=(requirements-report.txt)
  # Trained checkpoints are TensorFlow's.
  if [[ " $* " != *" --random-weights "* ]]; then needed+=(requirements-convert.txt); fi
fi
setup "${needed[@]}"

project=$PWD
cd "$here"
exec "$project/.venv/bin/python" "$project/scripts/inference_benchmark.py" "$@"
