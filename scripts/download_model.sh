#!/usr/bin/env bash
# Downloads a fine-tuned model from NVIDIA's NGC into models/fine-tuned/, whole or not at all; skips what is there.
#
#   bash scripts/download_model.sh [tf|pyt] [base|large|megatron-large] [128|384] [v2|v1_1] [sparse] [int8-qat] [--dry-run]
#
# The words come in any order; the default is tf large 128 v2. There are
#
#   tf [base|large] [128|384] [v2|v1_1]     TensorFlow checkpoint
#   pyt [large] [v1_1] [int8-qat]           ONNX file with int8 ranges
#   pyt megatron-large sparse int8-qat      Megatron's state dict with int8 ranges, 2:4 sparse
#   mini                                    the model that comes with the project: nothing to download
#
# All but mini need the NGC CLI, https://ngc.nvidia.com/setup/installers/cli. --dry-run prints the commands instead of
# running them.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

framework='' size='' length='' squad='' sparse='' precision=''
for word in "$@"; do
  case $word in
    tf | pyt) choose framework "$word" ;;
    base | large | megatron-large | mini) choose size "$word" ;;
    128 | 384) choose length "$word" ;;
    v2 | v1_1) choose squad "$word" ;;
    sparse) sparse=$word ;;
    int8-qat) precision=$word ;;
    --dry-run) dry_run=1 ;;
    -h | --help) show_help; exit ;;
    *) misuse "unknown word $word: --help lists them" ;;
  esac
done

if [[ $size == mini ]]; then
  [[ -z $framework$length$squad$sparse$precision ]] || misuse "mini takes no other word: it is one model"
  say "models/minilm-l6-squad comes with the project. Build an engine from it:"
  say "  mkdir -p engines; python builder.py -pt models/minilm-l6-squad -o engines/minilm-l6-squad.engine -s 384"
  exit
fi

tf_name() { # SIZE SQUAD LENGTH
  local trained=${2/v1_1/v11}
  echo "bert_tf_ckpt_$1_qa_squad${trained#v}_amp_$3"
}

# weights: a pattern for the file that the builder takes.
kind="${framework:-tf} ${size:-large}${sparse:+ sparse}${precision:+ $precision}"
case $kind in
  "tf base" | "tf large")
    name=$(tf_name "${size:-large}" "${squad:-v2}" "${length:-128}") version=19.03.1 weights='model.ckpt*.index' ;;
  "pyt large" | "pyt large int8-qat")
    name=bert_pyt_onnx_large_qa_squad11_amp_fake_quant version=1 weights='*.onnx' ;;
  "pyt megatron-large sparse int8-qat")
    name=bert_pyt_statedict_megatron_sparse_int8qat version=21.03.0 weights='*statedict*' ;;
  *) misuse "there is no model $kind: there are tf base, tf large, pyt large and pyt megatron-large sparse int8-qat" ;;
esac
[[ $kind != pyt* || $squad != v2 ]] || misuse "the pyt models were trained on SQuAD 1.1: leave v2 out"

# Prints the weights in a folder as the builder takes them; fails where a file that it needs is missing.
find_weights() { # FOLDER
  local file shards
  for file in "$1"/$weights; do
    [[ -s $file ]] || continue
    if [[ $kind == tf* ]]; then
      file=${file%.index}
      # The last of N shards, where there are N of them, is N-1 of N.
      shards=("$file".data-*)
      [[ -s $(printf '%s.data-%05d-of-%05d' "$file" $((${#shards[@]} - 1)) ${#shards[@]}) ]] || continue
      [[ -s $1/bert_config.json && -s $1/vocab.txt ]] || continue
    fi
    echo "$file"
    return
  done
  return 1
}

show_builder() {
  local found config=$target build
  found=$(find_weights "$target")
  if [[ $kind == pyt* ]]; then config=models/fine-tuned/$(tf_name large v2 384)_v19.03.1; fi
  case $kind in
    tf*) build="builder.py -m $found -s ${length:-128} --fp16" ;;
    *megatron*) build="builder_varseqlen.py -pkl $found -s 384 --int8 --fp16 -il --megatron -sp" ;;
    *) build="builder.py -x $found -s 384 --int8 --fp16" ;;
  esac
  say "$target is there. Build an engine from it:"
  [[ -e $config ]] || say "  bash scripts/download_model.sh tf large 384 v2   # for its configuration and vocabulary"
  say "  mkdir -p engines; python $build -c $config -o engines/$name.engine"
}

target=models/fine-tuned/${name}_v$version
if find_weights "$target" >/dev/null; then show_builder; exit; fi
[[ $dry_run ]] || has ngc ||
  fail "the NGC CLI (ngc) is not on the PATH: get it from https://ngc.nvidia.com/setup/installers/cli"
make_part "$target"
fetch ngc registry model download-version "nvidia/$name:$version" --dest "$part" ||
  fail "ngc could not download nvidia/$name:$version, for the reason above: is the network there? Does it want 'ngc config set'?"
[[ $dry_run ]] || find_weights "$part/${name}_v$version" >/dev/null ||
  fail "nvidia/$name:$version did not arrive whole: try again"
# Another run may have been faster, and none takes its place while it is looked at.
if [[ ! $dry_run ]] && has flock; then
  exec 9<models/fine-tuned
  flock 9
fi
if [[ $dry_run ]] || ! find_weights "$target" >/dev/null; then
  run rm -rf "$target"
  run mv -T "$part/${name}_v$version" "$target"
fi
run rm -rf "$part"
[[ $dry_run ]] || show_builder
