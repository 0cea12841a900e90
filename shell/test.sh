#!/usr/bin/env bash
# Installs what the tests need into .venv and runs everything: style, types, tests, and beside them the stories in small.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

for extras in dev story story,contam; do environment "$extras"; done # all before anything runs
ruff check .
ruff format --check .
mypy

stories() {
    bash shell/quickstart.sh --smoke --fresh
    rm -rf runs/{iterate,miniature}/seed-0--smoke # their stages see changes of commands and data, not of the code
    bash shell/miniature.sh --smoke
}
log=runs/stories.log failed=
mkdir -p runs
stories > "$log" 2>&1 & # the tests leave half of two cores idle
pytest "$@" || failed+=" pytest"
python -m tests.mutants.check || failed+=" mutants"
echo "Waiting for the stories in small ($log) ..." >&2
wait $! || failed+=" stories"
cat "$log"
[ -z "$failed" ] || { echo "test.sh: failed:$failed" >&2; exit 1; }
