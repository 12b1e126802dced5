#!/usr/bin/env bash
# The whole pipeline on a pretrained model of 135 million parameters; see README.md.
#
#   examples/smollm2/run.sh MASSIVE_DIR PAIRS_DIR MODEL [OUT]
#
# MASSIVE_DIR contains {locale}.jsonl or .jsonl.gz, PAIRS_DIR de-en.tsv[.gz] and so on. MODEL is
# HuggingFaceTB/SmolLM2-135M-Instruct, or a folder (from_gguf.py makes one). FLORES=DIR, with
# FLORES-200's files, adds retrieval by layer.
set -euo pipefail

usage="usage: run.sh MASSIVE_DIR PAIRS_DIR MODEL [OUT]"
export MASSIVE_DIR PAIRS_DIR MODEL
MASSIVE_DIR=$(realpath "${1:?$usage}")
PAIRS_DIR=$(realpath "${2:?$usage}")
MODEL=${3:?$usage}
if [ -d "$MODEL" ]; then MODEL=$(realpath "$MODEL"); fi
out=${4:-runs/smollm2}

here=$(dirname "$(realpath "$0")")
if [ -e "$out" ]; then
    echo "error: $out exists; name another folder" >&2
    exit 5
fi
mkdir -p "$out"
awk '{ gsub("MODEL", ENVIRON["MODEL"]); gsub("MASSIVE_DIR", ENVIRON["MASSIVE_DIR"])
       gsub("PAIRS_DIR", ENVIRON["PAIRS_DIR"]); print }' "$here/adaptermix.toml" >"$out/adaptermix.toml"

cd "$out"
adaptermix train-task
adaptermix train-align
adaptermix merge task.safetensors align.safetensors --search 0.5,0.7,0.9
adaptermix merge task.safetensors --weights 0.7 -o scaled.safetensors # a control, unaligned
adaptermix eval
systems=(--adapter task.safetensors --adapter align.safetensors --adapter merged.safetensors)
if [ -n "${FLORES:-}" ]; then
    adaptermix retrieval --data "$FLORES" --langs en,de,fr --limit 40 --pool-skip 1 "${systems[@]}"
fi
adaptermix report .
