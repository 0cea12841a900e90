#!/usr/bin/env bash
# Installs what the tests need into .venv and runs everything: style, types, tests, and the stories in small.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

for extras in dev story story,contam; do environment "$extras"; done # all before anything runs
ruff check .
ruff format --check .
mypy

log=runs/quickstart-smoke.log failed=
mkdir -p runs
bash shell/quickstart.sh --smoke --fresh > "$log" 2>&1 & # beside the tests, which leave half of two cores idle
pytest "$@" || failed+=" pytest"
wait $! || failed+=" quickstart"
cat "$log"
python -m tests.mutants.check || failed+=" mutants"
rm -rf runs/{iterate,miniature}/seed-0--smoke # their stages see changes of commands and data, not of the code
bash shell/miniature.sh --smoke || failed+=" miniature"
[ -z "$failed" ] || { echo "test.sh: failed:$failed" >&2; exit 1; }
