# shellcheck shell=bash
# Sourced by the scripts that only run other programs: goes to the project's folder; --help, --dry-run, errors.
#
#   . "$(dirname "$0")/common.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=

# The comment at a script's head is its help.
show_help() { sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "scripts/$(basename "$0")"; }

misuse() { echo "error: $1" >&2; exit 2; }
fail() { echo "error: $1" >&2; exit 1; }

has() { command -v "$1" >/dev/null; }

# A dry run prints commands, and everything else as comments.
say() { echo "${dry_run:+# }$1"; }

run() {
  local line
  if [[ $dry_run ]]; then
    printf -v line ' %q' "$@"
    echo "${line:1}"
  else
    "$@"
  fi
}

# choose VARIABLE WORD: one word of several that exclude each other.
choose() {
  [[ -z ${!1} || ${!1} == "$2" ]] || misuse "${!1} and $2 exclude each other: give one of them"
  printf -v "$1" %s "$2"
}

need_docker() {
  has docker || fail "docker is not on the PATH: install it, https://docs.docker.com/engine/install"
  docker info >/dev/null || fail "docker's daemon does not answer: is it running, and may you use it (group docker)?"
}
