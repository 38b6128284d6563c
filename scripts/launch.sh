#!/usr/bin/env bash
# Runs a command, else a shell, in a container of the image bert-qa: all GPUs, this folder mounted, port 8888 open.
#
#   bash scripts/launch.sh [--dry-run] [COMMAND …]
#   bash scripts/launch.sh jupyter lab --ip 0.0.0.0 --no-browser
#
# build/ and .venv/ are the image's own in there: the host's were made for another system, and are left as they are.
# --dry-run prints the commands instead of running them.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

case ${1-} in
  --dry-run) dry_run=1; shift ;;
  -h | --help) show_help; exit ;;
  -*) misuse "unknown argument $1: only --dry-run and --help may stand before the command" ;;
esac

if [[ ! $dry_run ]]; then
  need_docker
  has nvidia-ctk || has nvidia-container-cli || docker info --format '{{json .Runtimes}}' | grep -q nvidia ||
    fail "the NVIDIA Container Toolkit, which gives containers the GPU, is not installed: \
https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
  docker image inspect bert-qa >/dev/null 2>&1 || fail "there is no image bert-qa yet: bash scripts/build.sh"
fi

terminal=()
if [[ -t 0 && -t 1 ]]; then terminal=(--tty); fi

# Where the two are missing docker would make them, as root's. An unnamed volume begins with the image's files.
run mkdir -p build .venv
run docker run --rm --interactive ${terminal[@]+"${terminal[@]}"} --gpus all --shm-size 1g --publish 8888:8888 \
  --volume "$PWD:/workspace/bert" --volume /workspace/bert/build --volume /workspace/bert/.venv bert-qa "$@"
