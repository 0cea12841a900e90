# Sourced by the scripts beside it: a virtual environment in .venv with l2 in it.

# environment EXTRA: make or bring up to date .venv with that extra, and use it. torch comes first and pinned, so that
# what the tests saw is what runs; an index of CPU builds (PIP_EXTRA_INDEX_URL) saves gigabytes without a GPU.
environment() {
    local stamp=".venv/l2-$1-$(cksum < pyproject.toml | tr -d ' ')"
    [ -e .venv/bin/activate ] || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "$(python3 --version 2>&1), and l2 needs 3.11 or later: python3.11 -m venv .venv, and run this again" >&2
        return 1
    }
    [ -e .venv/bin/activate ] || python3 -m venv .venv || { rm -rf .venv; return 1; }
    source .venv/bin/activate
    if [ ! -e "$stamp" ]; then
        echo "Installing torch and what else l2 needs into .venv, once; this may take minutes ..." >&2
        python -m pip install --quiet --disable-pip-version-check torch==2.13.0
        python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
        touch "$stamp"
    fi
}
