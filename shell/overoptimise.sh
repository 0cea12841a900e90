#!/usr/bin/env bash
# How much of a reward is real: proxy reward and true worth by distance from the chat model (Gao et al. 2022), for the
# best of N answers, for fine-tuning on them (rejection sampling), and for PPO.
#
#   bash shell/overoptimise.sh [--seed N] [--preset nano|small] [--smoke]
#
# Needs what shell/quickstart.sh leaves behind, of the same seed and preset. Everything is written to runs/overoptimise/; at
# its end stands a table, and curve.json with the same numbers.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh
source shell/sizes.sh

seed=0 preset=nano smoke=
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=$2; shift 2 ;;
        --preset) preset=$2; shift 2 ;;
        --smoke) smoke=--smoke; shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "overoptimise.sh: unknown option $1; --help tells which there are" >&2; exit 2 ;;
    esac
done
sizes "$preset"
start=$PWD/runs/quickstart/seed-$seed$size$smoke
[ -e "$start/safe-rm/model.safetensors" ] || { echo "overoptimise.sh: $start: run shell/quickstart.sh first" >&2; exit 1; }
environment story
story=$PWD/shell/story
home=runs/overoptimise/seed-$seed$size$smoke
mkdir -p "$home"
cd "$home"

if [ -z "$smoke" ]; then most=64 best_of="4 16 64" iterations=60 every=4 held_out=200 learned=600
else most=4 best_of=4 iterations=2 every=1 held_out=16 learned=32; fi
chat=$start/sft
rms=(--rm helpful="$start/helpful-rm" --rm safe="$start/safe-rm")
short=(--max-new-tokens 48 --seed "$seed" --quiet)
stage() { python "$story/stage.py" "$@"; }
lexicon=$start/raw/lexicon.txt
judged() { stage "$2" "$1" "$lexicon" -- python "$story/annotator.py" score "$1" --lexicon "$lexicon" -o "$2"; }

stage val.jsonl "$start/raw/prompts.val.jsonl" -- sh -c "head -n $held_out '$start/raw/prompts.val.jsonl' > val.jsonl"
stage prompts.jsonl "$start/prompts.jsonl" -- sh -c "head -n $learned '$start/prompts.jsonl' > prompts.jsonl"

# Best of N: of 64 answers, what the best of every smaller number would have been.
stage tried.jsonl "$chat" val.jsonl "$start/helpful-rm" "$start/safe-rm" -- l2 rs-sample --model "$chat" "${rms[@]}" \
    -k $most "${short[@]}" --prompts val.jsonl --all tried.jsonl -o best.jsonl
judged tried.jsonl best-of.jsonl

# Rejection sampling: the chat model itself fine-tuned on the best of N answers to other prompts.
tuned=()
for n in $best_of; do
    stage chosen-$n.jsonl "$chat" prompts.jsonl "$start/helpful-rm" "$start/safe-rm" -- \
        l2 rs-sample --model "$chat" "${rms[@]}" -k $n "${short[@]}" --prompts prompts.jsonl -o chosen-$n.jsonl
    stage rs-$n "$chat" chosen-$n.jsonl -- l2 sft --model "$chat" --data chosen-$n.jsonl --seq-len 384 --batch 8 \
        --lr "$further_lr" --epochs 2 --seed "$seed" --quiet --out rs-$n
    stage rs-$n.answers.jsonl rs-$n val.jsonl -- l2 generate --model rs-$n --prompts val.jsonl -n 2 "${short[@]}" \
        -o rs-$n.answers.jsonl
    stage rs-$n.scored.jsonl rs-$n.answers.jsonl -- l2 score "${rms[@]}" rs-$n.answers.jsonl --quiet -o rs-$n.scored.jsonl
    stage rs-$n.kl.jsonl rs-$n.scored.jsonl rs-$n -- python "$story/overoptimise.py" kl rs-$n.scored.jsonl \
        --reference "$chat" -o rs-$n.kl.jsonl
    judged rs-$n.kl.jsonl rs-$n.gold.jsonl
    tuned+=(--tuned "$n=rs-$n.gold.jsonl")
done

# PPO, with hardly a KL penalty, further than anybody should go.
stage ppo "$chat" "$start/helpful-rm" "$start/safe-rm" "$start/prompts.jsonl" val.jsonl -- l2 ppo --model "$chat" \
    --helpful-rm "$start/helpful-rm" --safety-rm "$start/safe-rm" --prompts "$start/prompts.jsonl" --eval-prompts val.jsonl \
    --eval-every $every --preset tiny --lr "$ppo_lr" --beta 0.005 --iterations $iterations --max-new-tokens 48 \
    --seed "$seed" --out ppo
judged ppo/samples.jsonl ppo.jsonl

python "$story/overoptimise.py" table --best-of best-of.jsonl "${tuned[@]}" --ppo ppo.jsonl --json curve.json
