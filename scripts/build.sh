#!/usr/bin/env bash
# Builds the Docker image bert-qa: TensorRT, what this project needs, and its C++ extension.
#
#   bash scripts/build.sh [--dry-run]
#
# The image's user gets the ids of this folder's owner, so that it may write here. --dry-run prints the command instead of
# running it.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

case "$*" in
  '') need_docker ;;
  --dry-run) dry_run=1 ;;
  -h | --help) show_help; exit ;;
  *) misuse "unknown argument $*: only --dry-run and --help are known" ;;
esac
run docker build --tag bert-qa --build-arg "USER_ID=$(stat -c %u .)" --build-arg "GROUP_ID=$(stat -c %g .)" .
