#!/usr/bin/env bash
# Installs what the tests need into .venv and runs everything: style, types, tests, and the whole story in small.
set -euo pipefail
cd "$(dirname "$0")/.."
source shell/environment.sh

environment dev
ruff check .
ruff format --check .
mypy
pytest "$@"
python -m tests.mutants.check
bash shell/quickstart.sh --smoke --fresh
rm -rf runs/{iterate,miniature}/seed-0--smoke # their stages see changes of commands and data, not of the code
bash shell/miniature.sh --smoke
