#!/usr/bin/env bash
# The paper's claims as experiments on real text, in miniature: what holds at this size, what does not, what can't be told.
#
#   bash shell/miniature.sh [--seeds 'N...'] [--preset nano|small] [--smoke]
#
# For each seed (0, 1 and 2) the story of shell/quickstart.sh and RLHF V1 to V5 of shell/iterate.sh, then the experiments
# that they leave out: an hour and more on 2 cores. Run again, it does what is not done. --preset small: with models of 30 M
# parameters, not 1.8 M, which want a GPU. --smoke: one seed, on a handful of everything, to see that it works. Everything
# is written to runs/miniature/; at its end stand, in claims/, claims.md, its short form brief.md, claims.jsonl, figures
# and report.html.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh
source shell/sizes.sh

seeds=(0 1 2) preset=nano smoke=
while [ $# -gt 0 ]; do
    case $1 in
        --seeds) read -ra seeds <<< "$2"; shift 2 ;;
        --preset) preset=$2; shift 2 ;;
        --smoke) smoke=--smoke seeds=(0); shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "miniature.sh: unknown option $1; --help tells which there are" >&2; exit 2 ;;
    esac
done
sizes "$preset"
environment story,contam
top=$PWD story=$PWD/shell/story
if [ -z "$smoke" ]; then
    versions=5 held_out=200 k=16 best_of=60 adversarial=200 dialogs=2000 diverse=10 turns=20 talks=100
    shares='8 2' sampled=(-k 8) rm=(--batch 64 --lr "$rm_lr" --eval-every 1000 --quiet)
else
    experiment+=(--steps 8 --batch-tokens 4096) versions=4 held_out=16 k=3 best_of=8 adversarial=12 dialogs=150 diverse=2 turns=4 talks=4
    widths='32 64' shares='4 1' sampled=(-k 2) rm=(--batch 16 --lr "$rm_lr" --eval-every 1000 --quiet)
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
stage() { python "$story/stage.py" "$@"; }
beside() { "$@" & pids+=($!); }
all_done() { for pid in "${pids[@]}"; do wait "$pid"; done; pids=(); }
pids=()
experiment() { echo python "$story/experiments.py" "$@"; }
# The first lines of a file.
part() { stage "$1" "$2" -- sh -c "head -n $3 '$2' > $1.part && mv $1.part $1"; }
# judged NAME MODEL: answers to the held-out prompts, with what they are truly worth.
judged() {
    stage "$1.answers.jsonl" "$2" val.jsonl -- l2 generate --model "$2" --prompts val.jsonl -n 2 "${short[@]}" \
        -o "$1.answers.jsonl"
    stage "$1.gold.jsonl" "$1.answers.jsonl" "$lexicon" -- python "$story/annotator.py" score "$1.answers.jsonl" \
        --lexicon "$lexicon" -o "$1.gold.jsonl"
}
# ranked NAME RM KIND: what a reward model makes of held-out preferences.
ranked() {
    stage "$1.pairs.jsonl" "$2" "$start/val-$3.jsonl" -- l2 evaluate --model "$2" --task "pairs=$start/val-$3.jsonl" \
        --quiet -o "$1.pairs.jsonl"
}
# documents NAME MODEL: bits of each held-out document.
documents() {
    stage "$1.bits.jsonl" "$2" "$val" -- l2 evaluate --model "$2" --task "documents=$val" --quiet \
        --samples "$1.bits.jsonl" -o "$1.results.jsonl"
    stage "$1.items.jsonl" "$1.bits.jsonl" -- $(experiment scored "$val" --results "$1.bits.jsonl" --seed "$seed" \
        -o "$1.items.jsonl")
}
# tuned NAME MODEL DATA...: fine-tuned, and judged.
tuned() {
    local name=$1 model=$2
    shift 2
    stage "$name" "$model" "$@" -- l2 sft --model "$model" --data "$@" "${sft[@]}" --out "$name"
    judged "$name" "$name"
}

attention_and_context() {
    say "Seed $seed. Attention of all heads, of groups and of one, at equal parameters; twice the context (§A.2.1)."
    stage planted.jsonl "$val" -- $(experiment plant "$val" --seed "$seed" -o planted.jsonl)
    stage data/planted-00000.bin planted.jsonl -- l2 tokenize planted.jsonl --tokenizer "$start/tok.model" --out data \
        --name planted --quiet
    # Half of what they are to be evaluated on is among what they learn from, so that contamination shows, too.
    local shards=("$start"/data/train-*.bin data/planted-00000.bin) kind more
    for kind in mha gqa mqa long; do
        more=(--preset "$preset-$kind")
        [ "$kind" != long ] || more=(--preset "$preset-gqa" --seq-len 512)
        stage $kind "${shards[@]}" -- l2 pretrain --shards "${shards[@]}" --mix 'planted*=16,*=1' "${experiment[@]}" \
            "${more[@]}" --eval-every 100000 --seed "$seed" --quiet --out $kind
        beside documents $kind $kind
    done
    beside documents base "$start/base"
    all_done
    stage latency.jsonl mha gqa mqa -- $(experiment latency mha gqa mqa -o latency.jsonl)

    say "Seed $seed. Contamination (§A.6)."
    stage contamination.jsonl gqa.items.jsonl "${shards[@]}" -- l2 contam gqa.items.jsonl --shards "${shards[@]}" \
        --metric score --index suffixes --samples found.jsonl --quiet -o contamination.jsonl
}

reward_models() {
    say "Seed $seed. Reward models: margins, the auxiliary loss, size and data (§3.2.2, §A.3.3)."
    local margin
    for margin in none large; do
        beside stage margin-$margin "$chat" "$start/helpful.jsonl" -- l2 rm-train --model "$chat" \
            --data "$start/helpful.jsonl" --margin $margin --seed "$seed" "${rm[@]}" --out margin-$margin
    done
    beside stage no-aux "$chat" "$start/safe.jsonl" -- l2 rm-train --model "$chat" --data "$start/safe.jsonl" \
        --margin small --epochs 2 --seed "$seed" "${rm[@]}" --out no-aux
    all_done
    (cd "$top" && bash shell/rm-scaling.sh --home "$start" --out "$home/scaling" --widths "$widths" --shares "$shares" \
        --seed "$seed" > /dev/null 2> "$home/scaling.log") || { cat scaling.log >&2; return 1; }
    beside ranked margin-none margin-none helpful
    beside ranked margin-large margin-large helpful
    all_done
    beside ranked helpful-on-helpful "$start/helpful-rm" helpful
    beside ranked helpful-on-safe "$start/helpful-rm" safe
    all_done
    beside ranked safe-on-helpful "$start/safe-rm" helpful
    beside ranked safe-on-safe "$start/safe-rm" safe
    all_done
    ranked no-aux no-aux safe
}

best_of_n() {
    say "Seed $seed. The best and the median of N answers, by temperature (Figures 7 and 8)."
    local model
    part few.jsonl "$start/raw/prompts.val.jsonl" $best_of
    for model in sft ppo; do
        beside stage $model.curve.json "$start/$model" few.jsonl "$start/helpful-rm" "$start/safe-rm" -- \
            l2 rs-sample --model "$start/$model" "${rms[@]}" -k $k --temperature 0.6 --temperature 0.8 --temperature 1 \
            --temperature 1.2 --temperature 1.4 --prompts few.jsonl "${short[@]}" --curve $model.curve.json \
            -o $model.best.jsonl
    done
    all_done
}

pool() {
    say "Seed $seed. V4 from the newest model's answers alone, where iterate.sh lets those of all versions compete (§3.2.3)."
    local rms=(--rm helpful="$iterated/v4/helpful-rm" --rm safe="$iterated/v4/safe-rm") all=$start/raw/dialogs.jsonl
    [ -z "$smoke" ] || all=$iterated/dialogs.jsonl
    stage alone.best.jsonl "$iterated/v3/rs" "$iterated/v4/helpful-rm" "$iterated/v4/safe-rm" "$iterated/prompts.jsonl" -- \
        l2 rs-sample --model "$iterated/v3/rs" "${rms[@]}" "${sampled[@]}" --max-new-tokens 48 --seed 4 --quiet \
        --prompts "$iterated/prompts.jsonl" -o alone.best.jsonl
    stage alone "$start/base" "$all" alone.best.jsonl -- l2 sft --model "$start/base" --data "$all" alone.best.jsonl \
        --mix 'alone.best=2,*=1' --seq-len 384 --batch 8 --epochs 1 --lr "$chat_lr" --seed "$seed" --quiet --out alone
    beside judged alone alone
    beside judged pool "$iterated/v4/rs"
    all_done
}

safety() {
    say "Seed $seed. Safety data: none, a tenth, all (Figures 15 and 33)."
    local share safe total
    stage helpful-all.jsonl "$start/raw/dialogs.jsonl" -- $(experiment dialogs "$start/raw/dialogs.jsonl" \
        -o helpful-all.jsonl)
    stage safety-100.jsonl "$start/raw/dialogs.jsonl" -- $(experiment dialogs "$start/raw/dialogs.jsonl" --safety \
        -o safety-100.jsonl)
    part helpful.jsonl helpful-all.jsonl $dialogs
    total=$(wc -l < safety-100.jsonl)
    part safety-10.jsonl safety-100.jsonl $(((total + 9) / 10))
    for share in 0 10 100; do
        safe=(safety-$share.jsonl)
        [ $share -gt 0 ] || safe=()
        tuned share-$share "$start/base" helpful.jsonl ${safe[@]+"${safe[@]}"}
        stage share-$share.borderline.jsonl share-$share -- l2 generate --model share-$share -n 4 "${short[@]}" \
            --prompts "$top/shell/prompts/borderline.jsonl" -o share-$share.borderline.jsonl
    done
}

distillation() {
    say "Seed $seed. Context distillation: a pre-prompt, a template for the risk, the reward model's gate (§4.2.4)."
    local kind category
    for kind in generic template; do
        category=()
        [ $kind = generic ] || category=(--category violence)
        stage $kind.prompts.jsonl "$start/prompts.jsonl" -- $(experiment adversarial "$start/prompts.jsonl" \
            --count $adversarial ${category[@]+"${category[@]}"} -o $kind.prompts.jsonl)
        beside stage $kind.both.jsonl $kind.prompts.jsonl "$chat" "$start/safe-rm" -- l2 distill-build $kind.prompts.jsonl \
            --model "$chat" --rm "$start/safe-rm" "${short[@]}" --all $kind.both.jsonl -o $kind.kept.jsonl
    done
    all_done
    stage generic.ungated.jsonl generic.both.jsonl -- $(experiment ungated generic.both.jsonl -o generic.ungated.jsonl)
    sft=(--seq-len 384 --batch 8 --epochs 3 --lr "$further_lr" --seed "$seed" --quiet)
    beside tuned distilled "$chat" generic.kept.jsonl
    beside tuned distilled-ungated "$chat" generic.ungated.jsonl
    all_done
    beside tuned distilled-template "$chat" template.kept.jsonl
    beside judged chat "$chat"
    all_done
}

ghost() {
    say "Seed $seed. Ghost Attention over many turns (Table 30)."
    local model
    stage talks.jsonl "$start/raw/gatt.val.jsonl" -- $(experiment longer "$start/raw/gatt.val.jsonl" --turns $turns \
        --count $talks -o talks.jsonl)
    for model in ppo gatt; do
        beside stage $model.turns.jsonl "$start/$model" talks.jsonl -- l2 evaluate --model "$start/$model" \
            --task ghost=talks.jsonl --max-new-tokens 8 --seed "$seed" --quiet --samples $model.turns.jsonl -o $model.ghost.jsonl
    done
    all_done
}

diversity() {
    say "Seed $seed. Self-BLEU by temperature (Figure 21)."
    local model heat files=()
    for heat in 0.3 0.8 1.3; do
        for model in sft ppo; do
            beside stage $model-$heat.diverse.jsonl "$start/$model" -- l2 generate --model "$start/$model" -n $diverse \
                --prompts "$top/shell/prompts/temperature.jsonl" --temperature $heat "${short[@]}" \
                -o $model-$heat.diverse.jsonl
            files+=($model-$heat.diverse.jsonl)
        done
        all_done
    done
    stage diversity.jsonl "${files[@]}" -- l2 survey "${files[@]}" --quiet -o diversity.jsonl
}

homes=()
for seed in "${seeds[@]}"; do
    name=seed-$seed$size$smoke
    start=$top/runs/quickstart/$name iterated=$top/runs/iterate/$name home=$top/runs/miniature/$name
    [ -e "$start/gold-gatt.jsonl" ] || bash shell/quickstart.sh --seed "$seed" --preset "$preset" $smoke
    bash shell/iterate.sh --seed "$seed" --preset "$preset" $smoke --versions $versions
    homes+=("$name")
    mkdir -p "$home"
    cd "$home"
    chat=$start/sft val=$start/raw/documents.val.jsonl lexicon=$start/raw/lexicon.txt
    short=(--max-new-tokens 48 --seed "$seed" --quiet)
    sft=(--seq-len 384 --batch 8 --epochs 1 --lr "$chat_lr" --seed "$seed" --quiet)
    rms=(--rm helpful="$start/helpful-rm" --rm safe="$start/safe-rm")
    part val.jsonl "$start/raw/prompts.val.jsonl" $held_out
    attention_and_context
    reward_models
    best_of_n
    pool
    safety
    distillation
    ghost
    diversity
    cd "$top"
done
cd runs/miniature
claims=claims$size$smoke
python "$story/claims.py" "${homes[@]}" --out "$claims"
l2 report "$claims" --quiet -o "$claims/report.html" --figures "$claims"
printf '\nIt took %d:%02d minutes; runs/miniature/%s/report.html shows it.\n' $((SECONDS / 60)) $((SECONDS % 60)) \
    "$claims" >&2
