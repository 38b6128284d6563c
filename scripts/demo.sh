#!/usr/bin/env bash
# Builds an engine from the bundled model and asks it a question: with TensorRT where there is one, else on the CPU.
# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"
setup requirements.txt

mkdir -p engines
engine=engines/demo.engine
if [[ ! -e $engine || ! -e $engine.json ]]; then
  precision=()
  if .venv/bin/python -c 'import sys; from helpers import backends; sys.exit(not backends.choose().on_gpu)' 2>/dev/null; then precision=(--fp16); fi
  .venv/bin/python builder.py -pt models/minilm-l6-squad -o $engine -s 128 ${precision[@]+"${precision[@]}"} \
    -tcf engines/timing.cache
fi
.venv/bin/python inference.py -e $engine \
  -p "TensorRT is a high performance deep learning inference platform that delivers low latency and high throughput \
for apps such as recommenders, speech and image/video on NVIDIA GPUs. It includes parsers to import models, and \
plugins to support novel ops and layers before applying optimizations for inference. Today NVIDIA is open sourcing \
parsers and plugins in TensorRT so that the deep learning community can customize and extend these components to take \
advantage of powerful TensorRT optimizations for your apps." \
  -q "What is TensorRT?"
