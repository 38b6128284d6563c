#!/usr/bin/env bash
# Downloads the train and dev files of SQuAD into squad/, each whole or not at all; skips what is there.
#
#   bash scripts/download_squad.sh [v1_1|v2_0] [--dry-run]      default: v1_1
#
# SQUAD_URL names another place to fetch them from. --dry-run prints the commands instead of running them.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

version=
for word in "$@"; do
  case $word in
    v1_1 | v2_0) choose version "$word" ;;
    --dry-run) dry_run=1 ;;
    -h | --help) show_help; exit ;;
    *) misuse "unknown word $word: give v1_1 or v2_0; --help says more" ;;
  esac
done
version=${version:-v1_1}
from=${SQUAD_URL:-https://rajpurkar.github.io/SQuAD-explorer/dataset}

fetch=(curl --fail --silent --show-error --location --retry 3 --output)
if ! has curl && has wget; then fetch=(wget --no-verbose --tries 3 --output-document); fi

has python3 || fail "python3 is not on the PATH: it checks what is downloaded"
whole() { python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))["data"]' "$1" 2>/dev/null; }

for file in "train-${version/_/.}.json" "dev-${version/_/.}.json"; do
  target=squad/$file
  if [[ -e $target ]]; then
    if whole "$target"; then say "$target is there"; continue; fi
    say "$target is not a whole SQuAD file: it is replaced"
  fi
  if [[ ! $dry_run ]]; then
    has "${fetch[0]}" || fail "neither curl nor wget is on the PATH: install one of them"
    trap 'rm -f "$target.part"' EXIT
    say "Fetching $target"
  fi
  run "${fetch[@]}" "$target.part" "$from/$file" || fail "cannot fetch $from/$file: is the network there?"
  [[ $dry_run ]] || whole "$target.part" || fail "$from/$file did not arrive whole: try again"
  run mv "$target.part" "$target"
done
