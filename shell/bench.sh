#!/usr/bin/env bash
# Times generation beside its peers, on this machine, nothing else running; figures belong into LOG.md.
# bash shell/bench.sh [decode prefill best-of heads] [--shapes 8M] [--peer 'llama2.c=./run {model} -t 1.0 -n 256']
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

environment dev
git log -1 --format='commit %h, %cs'
python -m tests.bench.generation "$@"
