#!/usr/bin/env bash
# The same as inference_benchmark.sh for the sparse int8 model of Megatron: dense against 2:4 sparse kernels.
exec bash "$(dirname "$0")/inference_benchmark.sh" --megatron "$@"
