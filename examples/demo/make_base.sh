#!/usr/bin/env bash
# Pretrain the demo's base model: make_base.sh RAW_DIR OUT_DIR
#
# The weights say how often a language is drawn. Welsh, Swahili and Turkish are low-resource here.
set -euo pipefail
raw=${1:?usage: make_base.sh RAW_DIR OUT_DIR}
out=${2:?usage: make_base.sh RAW_DIR OUT_DIR}
shares=(en:1 de:1 es:1 ru:0.5 id:0.5 tr:0.3 cy:0.3 sw:0.3)

sources=()
for share in "${shares[@]}"; do
    lang=${share%:*} weight=${share#*:}
    sources+=(--text "$lang=$raw/$lang.txt:$weight")
done
for share in "${shares[@]:1}"; do
    lang=${share%:*} weight=${share#*:}
    sources+=(--parallel "$lang-en=$raw/$lang-en.tsv:$weight")
done
# Keep freed memory for the next step instead of giving it back to the system each time.
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=4000000000
exec python "$(dirname "$0")/../pretrain_base.py" "$out" "${sources[@]}" \
    --steps 6000 --vocab 4000 --threads 2 --seed 1
