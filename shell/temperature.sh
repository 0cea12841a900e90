#!/usr/bin/env bash
# Self-BLEU by temperature (paper Figure 21): 25 answers to 10 factual and 10 creative prompts, T = 0.1 to 1.5.
#
#   temperature.sh RESULTS MODEL... [-- GENERATE_OPTIONS]
#
# Results are added to RESULTS (JSONL), for each model, kind of prompt and temperature: Self-BLEU and what else l2 survey tells.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 1 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
results=$1; shift
models=()
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; break ;;
        *) models+=("$1"); shift ;;
    esac
done
for model in "${models[@]}"; do
    for tenths in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        l2 generate --model "$model" --prompts "$here/prompts/temperature.jsonl" -n 25 \
            --temperature "$((tenths / 10)).$((tenths % 10))" "$@" \
            | l2 survey -o /dev/null --append "$results"
    done
done
