# shellcheck shell=bash
# Sourced by the scripts that only run other programs: goes to the project's folder; --help, --dry-run, errors, what is
# half there.
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

# What is fetched is made in the folder $part, whose name nobody else has, and moved to its place when it is whole. The
# folder goes when the script ends, whatever ends it.
part='' child=''
make_part() { # PLACE
  if [[ $dry_run ]]; then
    part=$1.part
    run mkdir -p "$part"
    return
  fi
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap remove_part EXIT
  mkdir -p "$(dirname "$1")"
  part=$(mktemp -d "$(dirname "$1")/.part.XXXXXXXX")
}

remove_part() {
  if [[ $child ]]; then
    kill "$child" || true
    wait "$child" || true
  fi
  rm -rf "$part"
}

# As run, but a signal need not wait for the program.
fetch() {
  local code=0
  if [[ $dry_run ]]; then
    run "$@"
    return
  fi
  "$@" &
  child=$!
  wait "$child" || code=$?
  child=
  return $code
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
