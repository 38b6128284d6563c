#!/usr/bin/env bash
# Downloads the train and dev files of SQuAD into squad/, each whole or not at all; skips what is there.
#
#   bash scripts/download_squad.sh [v1_1|v2_0] [--dry-run]      default: v1_1
#
# SQUAD_URL names another place to fetch them from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "error: $1" >&2; exit 2; }

version=v1.1 dry_run=
for argument in "$@"; do
  case $argument in
    v1_1) version=v1.1 ;;
    v2_0) version=v2.0 ;;
    --dry-run) dry_run=1 ;;
    *) fail "unknown argument $argument: give v1_1 or v2_0, and --dry-run to see what would be done" ;;
  esac
done
from=${SQUAD_URL:-https://rajpurkar.github.io/SQuAD-explorer/dataset}

fetch() { # URL FILE
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --retry 3 --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --tries 3 --output-document "$2" "$1"
  else
    fail "neither curl nor wget is installed"
  fi
}

for file in "train-$version.json" "dev-$version.json"; do
  target=squad/$file
  if [[ -s $target ]]; then
    echo "$target is there"
  elif [[ $dry_run ]]; then
    echo "would fetch $from/$file into $target"
  else
    echo "Fetching $target"
    trap 'rm -f "$target.part"' EXIT
    fetch "$from/$file" "$target.part" || fail "cannot fetch $from/$file: is the network there?"
    [[ $(tail -c 100 "$target.part") =~ \}[[:space:]]*$ ]] || fail "$from/$file did not arrive whole: try again"
    mv "$target.part" "$target"
  fi
done
