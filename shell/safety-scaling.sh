#!/usr/bin/env bash
# How much safety data is enough (paper Figure 15): the base model is fine-tuned six times, on all helpful dialogs and
# on 0, 1, 10, 25, 50 and 100 % of the safety dialogs, each share with those before it; two reward models score answers
# to prompts of both kinds, and answers to prompts that only sound dangerous show false refusals (Figure 33).
#
#   safety-scaling.sh --base DIR --helpful DIALOGS --safety DIALOGS --helpful-prompts FILE --safety-prompts FILE
#                     --helpful-rm DIR --safe-rm DIR --out DIR [-- SFT_OPTIONS]
#
# DIALOGS, prompts: JSONL. Models and answers are in --out, results in its results.jsonl. Run again, it goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wrong() { echo "safety-scaling.sh: $*; --help tells what is needed" >&2; exit 2; }

declare -A given
while [ $# -gt 0 ]; do
    case $1 in
        --base | --helpful | --safety | --helpful-prompts | --safety-prompts | --helpful-rm | --safe-rm | --out)
            [ $# -gt 1 ] || wrong "$1 needs a value"
            given[${1#--}]=$2; shift 2 ;;
        --) shift; break ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) wrong "unknown option $1" ;;
    esac
done
for name in base helpful safety helpful-prompts safety-prompts helpful-rm safe-rm out; do
    [ -n "${given[$name]:-}" ] || wrong "--$name is not given"
done
out=${given[out]}
mkdir -p "$out"
given[borderline-prompts]=$here/prompts/borderline.jsonl

# The same order each time, so that a larger share holds a smaller one.
[ -e "$out/safety.jsonl" ] || {
    shuf --random-source=<(yes) "${given[safety]}" > "$out/safety.part" && mv "$out/safety.part" "$out/safety.jsonl"
}
total=$(wc -l < "$out/safety.jsonl")
for share in 0 1 10 25 50 100; do
    model=$out/safety-$share
    part=()
    if [ $share -gt 0 ]; then
        part=("$out/safety-$share.jsonl")
        head -n $(((total * share + 99) / 100)) "$out/safety.jsonl" > "${part[0]}"
    fi
    l2 sft --model "${given[base]}" --data "${given[helpful]}" "${part[@]}" --out "$model" "$@" > /dev/null
    for kind in helpful safety borderline; do
        answers=$model.$kind.jsonl
        [ -e "$answers" ] || l2 generate --model "$model" --prompts "${given[$kind-prompts]}" --max-new-tokens 128 \
            | l2 score --rm helpful="${given[helpful-rm]}" --rm safe="${given[safe-rm]}" -o "$answers"
    done
done
rm -f "$out/results.jsonl"
for kind in helpful safety borderline; do
    cat "$out"/safety-{0,1,10,25,50,100}."$kind.jsonl" \
        | l2 survey --by model --task "$kind" -o /dev/null --append "$out/results.jsonl"
done
