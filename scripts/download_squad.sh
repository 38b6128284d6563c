#!/usr/bin/env bash
# Downloads files of SQuAD into squad/, each whole or not at all; skips what is there.
#
#   bash scripts/download_squad.sh [v1_1|v2_0] [dev|train|all] [--dry-run]      default: v1_1 dev
#
# Everything here needs the dev file alone, of 5 MB; train is of 30 to 42 MB. SQUAD_URL names another place to fetch them
# from. --dry-run prints the commands instead of running them.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

version='' kind=''
for word in "$@"; do
  case $word in
    v1_1 | v2_0) choose version "$word" ;;
    dev | train | all) choose kind "$word" ;;
    --dry-run) dry_run=1 ;;
    -h | --help) show_help; exit ;;
    *) misuse "unknown word $word: give v1_1 or v2_0, and dev, train or all; --help says more" ;;
  esac
done
version=${version:-v1_1}
kinds=("${kind:-dev}")
if [[ $kind == all ]]; then kinds=(dev train); fi
from=${SQUAD_URL:-https://rajpurkar.github.io/SQuAD-explorer/dataset}

# A bar on a terminal, else a word only where it fails.
if has curl || ! has wget; then
  program=(curl --fail --show-error --location --retry 3)
  if [[ -t 2 ]]; then program+=(--progress-bar); else program+=(--silent); fi
  program+=(--output)
else
  program=(wget --tries 3)
  if [[ -t 2 ]]; then program+=(--quiet --show-progress); else program+=(--no-verbose); fi
  program+=(--output-document)
fi

has python3 || fail "python3 is not on the PATH: it checks what is downloaded"
whole() { python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))["data"]' "$1" 2>/dev/null; }

for kind in "${kinds[@]}"; do
  file=$kind-${version/_/.}.json
  target=squad/$file
  if [[ -e $target ]]; then
    if whole "$target"; then say "$target is there"; continue; fi
    say "$target is not a whole SQuAD file: it is replaced"
  fi
  if [[ ! $dry_run ]]; then
    has "${program[0]}" || fail "neither curl nor wget is on the PATH: install one of them"
    say "Fetching $target"
  fi
  make_part "$target"
  fetch "${program[@]}" "$part/$file" "$from/$file" || fail "cannot fetch $from/$file: is the network there?"
  [[ $dry_run ]] || whole "$part/$file" || fail "$from/$file did not arrive whole: try again"
  run mv "$part/$file" "$target"
  run rm -rf "$part"
done
