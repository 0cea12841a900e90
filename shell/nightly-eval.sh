#!/usr/bin/env bash
# Evaluates the newest checkpoint, adds its results to a history, and fails with a sentence where a score has dropped.
#
#   nightly-eval.sh --runs DIR --history FILE --task NAME=FILE... [--baseline FILE] [--max-drop X] [-- EVALUATE_OPTIONS]
#
# The newest checkpoint is that below DIR whose config.json is the youngest. Its results are added to FILE (JSONL) in one
# step, once, when all tasks are done; killed in between, the next run does the tasks that are left. The baseline is the
# best that other models have in FILE, and in --baseline. What it says goes to FILE.log, of which five older ones are kept.
# For cron: no terminal, no PATH and no HOME are needed. L2 names the l2 command where it is not in .venv.
set -euo pipefail
export PATH=/usr/local/bin:/usr/bin:/bin${PATH:+:$PATH}
here=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "nightly-eval.sh: $*" >&2; exit "${status:-1}"; }
wrong() { status=2 fail "$*; --help tells what is needed"; }

runs= history= drop=() tasks=()
while [ $# -gt 0 ]; do
    case $1 in
        --runs | --history | --task | --baseline | --max-drop) [ $# -gt 1 ] || wrong "$1 needs a value" ;;&
        --runs) runs=$2; shift 2 ;;
        --history) history=$2; shift 2 ;;
        --task) shift; while [ $# -gt 0 ] && [[ $1 != -* ]]; do tasks+=("$1"); shift; done ;;
        --baseline | --max-drop) drop+=("$1" "$2"); shift 2 ;;
        --) shift; break ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) wrong "unknown option $1" ;;
    esac
done
[ -n "$runs" ] && [ -n "$history" ] && [ ${#tasks[@]} -gt 0 ] || wrong "--runs, --history and --task are not all given"
[ -d "$runs" ] || fail "$runs: no such directory"
# It is replaced by a longer one each night: as root, /dev/null would be, too.
[ ! -e "$history" ] || [ -f "$history" ] || fail "$history: not a file that can grow; name one for --history"
l2=${L2:-$here/.venv/bin/l2}
[ -x "$l2" ] || l2=$(command -v l2) || fail "no l2 command: name it with L2=/path/to/l2"

mkdir -p "$(dirname "$history")"
exec 9> "$history.lock"
flock -n 9 || fail "$history: another run is at it"

log=$history.log
if [ -e "$log" ] && [ "$(stat -c %s "$log")" -gt 1000000 ]; then
    for i in 4 3 2 1; do [ ! -e "$log.$i" ] || mv "$log.$i" "$log.$((i + 1))"; done
    mv "$log" "$log.1"
fi
note() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $*" >> "$log"; }

# A directory whose name starts with a dot is still being written.
newest=$(find "$runs" -mindepth 1 -name '.*' -prune -o -name config.json -printf '%T@ %h\n' 2> /dev/null | sort -n \
    | tail -n 1) || true  # one may be removed meanwhile
[ -n "$newest" ] || fail "$runs: no checkpoint"
model=${newest#* }

# A file of results for each task that is done with this checkpoint and these options, whole or not there.
done=$history.unfinished/$(printf '%s\n' "$newest" "$@" | cksum | tr ' ' -)
mkdir -p "$done"
for left in "$history.unfinished"/*; do [ "$left" = "$done" ] || rm -rf "$left"; done
results=()
for task in "${tasks[@]}"; do
    file=$done/$({ echo "$task"; stat -c '%Y %s' "${task#*=}" || true; } 2> /dev/null | cksum | tr ' ' -).jsonl
    if [ ! -e "$file" ]; then
        note "$model: ${task%%=*}"
        "$l2" evaluate --model "$model" --task "$task" -o "$file" "$@" >> "$log" 2>&1 9>&- < /dev/null \
            || fail "$model: ${task%%=*} failed: $(tail -n 1 "$log")"
    fi
    results+=("$file")
done

# The same line is added once, so that a run that was killed behind this step may take it again.
[ -e "$history" ] || : > "$history"
awk '!seen[$0]++' "$history" "${results[@]}" > "$history.new"
sync "$history.new"
mv "$history.new" "$history"

verdict=$("$l2" drops "${results[@]}" "${drop[@]}" --baseline "$history" 2>&1 9>&-) || { note "$verdict"; fail "${verdict#l2 drops: }"; }
note "$verdict"
