#!/usr/bin/env bash
# Times l2 beside its peers, on this machine, nothing else running; figures belong into LOG.md.
# bash shell/bench.sh train [contenders] [--shapes 8M] [--peer 'litgpt=~/litgpt/bin/python bench.py {shape}']
# bash shell/bench.sh [decode prefill best-of heads] [--shapes 8M] [--peer 'llama2.c=./run {model} -t 1.0 -n 256']
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

environment dev
git log -1 --format='commit %h, %cs'
if [ "${1:-}" = train ]; then
    python -m tests.bench.train "${@:2}"
else
    python -m tests.bench.generation "$@"
fi
