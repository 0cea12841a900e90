# Sourced by the scripts beside it: a virtual environment in .venv with l2 in it.

# environment EXTRA: make or bring up to date .venv with that extra, and use it. torch comes first and pinned: a range
# would fetch gigabytes of CUDA libraries on machines without a GPU.
environment() {
    local stamp=".venv/l2-$1-$(cat pyproject.toml | sha256sum | cut -c1-16)"
    [ -e .venv/bin/python ] || python3 -m venv .venv
    source .venv/bin/activate
    if [ ! -e "$stamp" ]; then
        echo "Installing into .venv ..." >&2
        python -m pip install --quiet --disable-pip-version-check torch==2.13.0
        python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
        touch "$stamp"
    fi
}
