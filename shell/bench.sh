#!/usr/bin/env bash
# Times l2 beside its peers, on this machine, nothing else running; figures belong into LOG.md. The first word may name
# a file of tests/bench (generation where it names none); each tells its options with --help.
# bash shell/bench.sh [decode prefill best-of heads] [--shapes 8M] [--peer 'llama2.c=./run {model} -t 1.0 -n 256']
# bash shell/bench.sh train [contenders] [--shapes 8M] [--peer 'litgpt=PYTHON tests/bench/train_peers.py litgpt {shape}']
# bash shell/bench.sh train --memory [contenders]  # how much each takes at most
# bash shell/bench.sh time_to --home runs/quickstart/seed-0 --target 2.2 --litgpt PYTHON  # seconds to a loss
# bash shell/bench.sh corpus documents.jsonl runs/dedup --megabytes 210  # real text, 10 MB or more: the quickstart's
# bash shell/bench.sh dedup runs/dedup --peer 'rensa=VENV/bin/python tests/bench/dedup_peers.py rensa {docs} {kept}'
# bash shell/bench.sh filter --docs docs.jsonl \
#     --peer 'datatrove=PYTHON tests/bench/datatrove_filter.py {docs} {most} all'  # PYTHON has datatrove and spacy
# bash shell/bench.sh tokenization runs/dedup/docs.jsonl --tokenizer tokenizer.model
# bash shell/bench.sh dialogs --peer 'trl=VENV/bin/python -m tests.bench.dialogs --trl {kind} --shapes {shape}'
# bash shell/bench.sh pairs --peer 'trl=VENV/bin/python -m tests.bench.pairs --trl {kind} --shapes {shape} --shared {shared}'
# bash shell/bench.sh ppo --peer 'trl=VENV/bin/python -m tests.bench.ppo --trl --worlds {world} --updates {updates}'
# torchrun --nproc-per-node 2 -m tests.bench.ranks  # generating from slices of weights
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

case ${1-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
environment dev
git log -1 --format='commit %h, %cs'
what=generation
if [ -f "tests/bench/${1-}.py" ]; then what=$1; shift; fi
python -m "tests.bench.$what" "$@"
