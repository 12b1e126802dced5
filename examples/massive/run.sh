#!/usr/bin/env bash
# The whole pipeline on the real MASSIVE: a small base from raw utterances, a task adapter, an
# alignment adapter, their merge, and a test of all four systems side by side.
#
#   examples/massive/run.sh MASSIVE_DIR PAIRS_DIR [OUT]
#
# MASSIVE_DIR contains {locale}.jsonl or .jsonl.gz, PAIRS_DIR cy-en.tsv and so on (or Moses or
# FLORES files); OUT is a new folder, runs/massive by default. Other languages and sizes:
#
#   TASK=en,fr PAIRS=is-en,af-en OTHER=de,tr STEPS=3000 examples/massive/run.sh ...
set -euo pipefail

massive=$(realpath "${1:?usage: run.sh MASSIVE_DIR PAIRS_DIR [OUT]}")
pairs_dir=$(realpath "${2:?usage: run.sh MASSIVE_DIR PAIRS_DIR [OUT]}")
out=${3:-runs/massive}
task=${TASK:-en,es,de}          # languages with task data
pairs=${PAIRS:-cy-en,sw-en,tl-en}  # aligned, without task data
other=${OTHER:-fr,af,tr}        # neither
steps=${STEPS:-4500}            # of pretraining
limit=${LIMIT:-150}             # test utterances of each language
weight=${WEIGHT:-0.9}           # of the task adapter in the merge

here=$(dirname "$(realpath "$0")")
python=${PYTHON:-python3}
aligned=$(tr ',' '\n' <<<"$pairs" | cut -d- -f1 | paste -sd,)
if [ -e "$out" ]; then
    echo "error: $out exists; name another folder" >&2
    exit 5
fi
mkdir -p "$out"

# Keep freed memory for the next step: giving 16 MiB of logits back to the system and asking for
# them again, step after step, costs a third of the time on some machines.
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=4000000000

# The base model always includes English, because the pairs are pulled toward it.
texts=()
mkdir "$out/raw"
for lang in $(tr ',' '\n' <<<"en,$task,$aligned,$other" | awk 'NF && !seen[$0]++'); do
    "$python" - "$lang" "$massive" >"$out/raw/$lang.txt" <<'PYTHON'
import pathlib, sys
from adaptermix.tasks.massive import read_massive

for example in read_massive(sys.argv[1], "train", pathlib.Path(sys.argv[2])):
    print(example.utterance)
PYTHON
    case ",en,$task," in *",$lang,"*) share=1 ;; *) share=0.3 ;; esac
    texts+=(--text "$lang=$out/raw/$lang.txt:$share")
done
"$python" "$here/../pretrain_base.py" "$out/base" "${texts[@]}" --steps "$steps" --vocab 6000

cat >"$out/adaptermix.toml" <<TOML
model = "base"
data-dir = "$massive"

[train-task]
langs = "$task"
system-prompt = ""
batch-size = 32
lr = 3e-3
epochs = 2
eval-steps = 400
dev-limit = 200

[train-align]
pairs = "$pairs"
pairs-dir = "$pairs_dir"
limit = 1000
epochs = 8
lr = 5e-4
eval-steps = 50

[merge]
weight = $weight

[eval]
langs = "$task,$aligned,$other"
groups = "trained=$task;aligned=$aligned;other=$other"
adapters = ["task.safetensors", "align.safetensors", "merged.safetensors"]
system-prompt = ""
max-new-tokens = 48
limit = $limit
TOML

cd "$out"
adaptermix train-task
adaptermix train-align
adaptermix merge task.safetensors align.safetensors
adaptermix eval --task massive
