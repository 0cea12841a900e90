#!/usr/bin/env bash
# How a reward model's accuracy grows with its size and its data (paper Figure 6): half an hour on 2 cores.
#
#   bash shell/rm-scaling.sh [--home DIR] [--out DIR] [--widths 'N...'] [--shares 'N...'] [--seed N] [--smoke]
#
# Chat models of several widths, in nano's proportions, learn the dialogs of the quickstart; a reward model of each
# learns an eighth, a quarter, a half and all of its preferences, and is judged on those held out. --home: the
# quickstart's directory (runs/quickstart/seed-0), or any with tok.model, dialogs.jsonl, train.jsonl and held-out.jsonl.
# --shares 8: an eighth. --smoke: two sizes, two shares, on a made-up world, in seconds. Everything is written to
# runs/rm-scaling/ or --out; run again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

home=runs/quickstart/seed-0 smoke= out= widths=(32 64 128 192) shares=(8 4 2 1) seed=0
while [ $# -gt 0 ]; do
    case $1 in
        --home) home=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --widths) read -ra widths <<< "$2"; shift 2 ;;
        --shares) read -ra shares <<< "$2"; shift 2 ;;
        --seed) seed=$2; shift 2 ;;
        --smoke) smoke=-smoke; shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "rm-scaling.sh: unknown option $1; --help tells which there are" >&2; exit 2 ;;
    esac
done
environment story

scaling() { python shell/scaling/scaling.py "$@"; }
out=${out:-runs/rm-scaling$smoke}
mkdir -p "$out"
if [ -n "$smoke" ]; then
    widths=(32 64) shares=(4 1) home=$out/world quiet=--quiet
    mkdir -p "$home"
    [ -e "$home/held-out.jsonl" ] || scaling world --out "$home"
    [ -e "$home/tok.model" ] || l2 tok-train "$home/documents.jsonl" --vocab-size 340 --quiet -o "$home/tok.model"
else
    quiet=
fi
first() { for name in "$@"; do [ ! -e "$home/$name" ] || { echo "$home/$name"; return; }; done
    echo "rm-scaling.sh: $home has none of $*; run shell/quickstart.sh first, or give --home or --smoke" >&2; exit 1; }
dialogs=$(first dialogs.jsonl raw/dialogs.jsonl)
train=$(first train.jsonl helpful.jsonl)
held_out=$(first held-out.jsonl val-helpful.jsonl)
pairs=$(wc -l < "$train")

for dim in "${widths[@]}"; do
    here=$out/width-$dim
    mkdir -p "$here"
    [ -e "$here/untrained/config.json" ] || scaling shape --tokenizer "$home/tok.model" --dim "$dim" --seed "$seed" \
        --out "$here/untrained"
    l2 sft --model "$here/untrained" --data "$dialogs" --epochs 1 --lr 2e-3 --batch 8 --seed "$seed" $quiet \
        --out "$here/chat" > /dev/null
    for share in "${shares[@]}"; do
        [ -e "$here/results-$share.jsonl" ] || {
            head -n $((pairs / share)) "$train" > "$here/data-$share.jsonl"
            rm=$(l2 rm-train --model "$here/chat" --data "$here/data-$share.jsonl" --batch 64 --lr 1e-3 \
                --eval-every 100000 --seed "$seed" $quiet --out "$here/rm-$share")
            l2 evaluate --model "$rm" --task "1/$share=$held_out" $quiet -o "$here/results-$share.jsonl"
        }
    done
done
cat "$out"/width-*/results-*.jsonl > "$out/results.jsonl"
scaling table "$out/results.jsonl"
