#!/usr/bin/env bash
# Times l2 beside its peers, on this machine, nothing else running; figures belong into LOG.md.
# bash shell/bench.sh [decode prefill best-of heads] [--shapes 8M] [--peer 'llama2.c=./run {model} -t 1.0 -n 256']
# bash shell/bench.sh filter --docs docs.jsonl \
#     [--peer 'datatrove all=PYTHON tests/bench/datatrove_filter.py {docs} {most} all']   # PYTHON has datatrove, spacy
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

environment dev
git log -1 --format='commit %h, %cs'
if [ "${1:-}" = filter ]; then
    python -m tests.bench.filter "${@:2}"
else
    python -m tests.bench.generation "$@"
fi
