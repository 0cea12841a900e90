#!/usr/bin/env bash
# RLHF, V1 to V5, as the paper went about it (§3.2.3): each version is preferred over, learned from, and compared.
#
#   bash shell/iterate.sh [--seed N] [--preset nano|small] [--smoke] [--versions N]
#
# Starts from base and sft of shell/quickstart.sh, which it runs that far where they are missing. Run again, it does
# what is not done, and what depends on something that has changed. --smoke: the same on a handful of prompts.
# Everything is written to runs/iterate/; at its end stands a table of all versions, and versions.json.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh
source shell/sizes.sh

seed=0 preset=nano smoke= versions=5
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=$2; shift 2 ;;
        --preset) preset=$2; shift 2 ;;
        --smoke) smoke=--smoke; shift ;;
        --versions) versions=$2; shift 2 ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "iterate.sh: unknown option $1; --help tells which there are" >&2; exit 2 ;;
    esac
done
sizes "$preset"
start=$PWD/runs/quickstart/seed-$seed$size$smoke
[ -e "$start/sft/model.safetensors" ] || bash shell/quickstart.sh --seed "$seed" --preset "$preset" $smoke --until 4
environment story
SECONDS=0
story=$PWD/shell/story
home=runs/iterate/seed-$seed$size$smoke
mkdir -p "$home"
cd "$home"

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
# stage OUT INPUT... -- COMMAND...: made once for the same inputs and command (story/stage.py).
stage() { python "$story/stage.py" "$@"; }
# beside COMMAND: in the background, until all_done, which fails where one of them failed.
beside() { "$@" & pids+=($!); }
all_done() { for pid in "${pids[@]}"; do wait "$pid"; done; pids=(); }
pids=()
lexicon=$start/raw/lexicon.txt
annotator() { echo python "$story/annotator.py" "$@" --lexicon "$lexicon"; }

if [ -z "$smoke" ]; then
    asked=500 sampled=1100 k=8 iterations=20 held_out=400
    rm=(--batch 64 --lr "$rm_lr" --eval-every 1000)
else
    asked=24 sampled=16 k=2 iterations=1 held_out=16
    rm=(--batch 16 --lr "$rm_lr" --eval-every 1000)
fi
base=$start/base chat=$start/sft dialogs=$start/raw/dialogs.jsonl
rm+=(--margin small --seed "$seed" --quiet)
sft=(--seq-len 384 --batch 8 --epochs 1 --lr "$chat_lr" --seed "$seed" --quiet)
ppo=(--preset tiny --lr "$ppo_lr" --beta 0.05 --iterations "$iterations" --max-new-tokens 48 --seed "$seed" --quiet)
short=(--max-new-tokens 48 --quiet)
# Every version is asked something new; the prompts that are answered for rejection sampling stay, so that the answers of
# earlier versions compete with the new ones. Nobody learns from those that are held out.
part() { stage "$1" "$2" -- sh -c "tail -n +$3 '$2' | head -n $4 > $1.part && mv $1.part $1"; }
part prompts.jsonl "$start/raw/prompts.jsonl" 1 "$sampled"
part val.jsonl "$start/raw/prompts.val.jsonl" 1 "$held_out"
[ -z "$smoke" ] || { part dialogs.jsonl "$dialogs" 1 100; dialogs=dialogs.jsonl; }

# evaluate NAME MODEL: answers to the held-out prompts, with what they are truly worth.
evaluate() {
    stage "$1/answers.jsonl" "$2" val.jsonl -- l2 generate --model "$2" --prompts val.jsonl -n 2 "${short[@]}" \
        --seed "$seed" -o "$1/answers.jsonl"
    stage "$1/gold.jsonl" "$1/answers.jsonl" "$lexicon" -- $(annotator score "$1/answers.jsonl" -o "$1/gold.jsonl")
}

say "V0. The chat model that has seen no feedback."
beside evaluate v0 "$chat"
newest=$chat helpful=() safe=() chosen=()
for ((v = 1; v <= versions; v++)); do
    say "V$v. Preferences between answers of the newest model, on prompts that were not asked before (§3.2.1)."
    part v$v/asked.jsonl "$start/raw/prompts.jsonl" $((sampled + (v - 1) * asked + 1)) "$asked"
    stage v$v/samples.jsonl "$newest" v$v/asked.jsonl -- l2 generate --model "$newest" --prompts v$v/asked.jsonl -n 4 \
        "${short[@]}" --seed "$v" -o v$v/samples.jsonl
    for kind in helpful safe; do
        beside stage v$v/$kind.jsonl v$v/samples.jsonl "$lexicon" -- \
            $(annotator pairs v$v/samples.jsonl --kind $kind --seed "$v" -o v$v/$kind.jsonl)
    done
    all_done
    helpful+=(v$v/helpful.jsonl) safe+=(v$v/safe.jsonl)

    say "V$v. Both reward models learn from all preferences so far, the newest answers among them (§3.2.2)."
    beside stage v$v/helpful-rm "$chat" "${helpful[@]}" -- \
        l2 rm-train --model "$chat" --data "${helpful[@]}" "${rm[@]}" --out v$v/helpful-rm
    beside stage v$v/safe-rm "$chat" "${safe[@]}" -- \
        l2 rm-train --model "$chat" --data "${safe[@]}" --aux-weight 0.5 --epochs 2 "${rm[@]}" --out v$v/safe-rm
    all_done
    rms=(--rm helpful=v$v/helpful-rm --rm safe=v$v/safe-rm)

    say "V$v. The best of $k answers of the newest model and of what all earlier versions chose (§3.2.3)."
    stage v$v/best.jsonl "$newest" v$v/helpful-rm v$v/safe-rm prompts.jsonl ${chosen[@]+"${chosen[@]}"} -- \
        l2 rs-sample --model "$newest" "${rms[@]}" -k $k "${short[@]}" --seed "$v" --prompts prompts.jsonl \
        ${chosen[@]+--pool "${chosen[@]}"} --curve v$v/curve.json -o v$v/best.jsonl
    chosen+=(v$v/best.jsonl)

    say "V$v. Fine-tuning starts from the base model again."
    stage v$v/rs "$base" "$dialogs" v$v/best.jsonl -- \
        l2 sft --model "$base" --data "$dialogs" v$v/best.jsonl --mix 'best=2,*=1' "${sft[@]}" --out v$v/rs
    newest=v$v/rs
    if ((v >= 4)); then
        say "V$v. Since V4: PPO on top."
        stage v$v/ppo v$v/rs v$v/helpful-rm v$v/safe-rm v$v/asked.jsonl -- \
            l2 ppo --model v$v/rs --helpful-rm v$v/helpful-rm --safety-rm v$v/safe-rm --prompts v$v/asked.jsonl "${ppo[@]}" \
            --out v$v/ppo
        beside evaluate v$v-rs v$v/rs
        newest=v$v/ppo
    fi
    beside evaluate v$v "$newest"
done
all_done

say "All versions, on the same held-out prompts (Figure 11): the reward, by the newest reward models; and the truth."
gold=(v0/gold.jsonl)
for ((v = 1; v <= versions; v++)); do
    if ((v >= 4)); then gold+=(v$v-rs/gold.jsonl); fi
    gold+=(v$v/gold.jsonl)
done
stage scored.jsonl "${gold[@]}" v$versions/helpful-rm v$versions/safe-rm -- \
    l2 score "${rms[@]}" --quiet "${gold[@]}" -o scored.jsonl
python "$story/versions.py" scored.jsonl --json versions.json
printf '\nIt took %d:%02d minutes.\n' $((SECONDS / 60)) $((SECONDS % 60)) >&2
