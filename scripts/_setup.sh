# Sourced by the commands beside it: finds a Python, makes or repairs .venv, and leaves
# VENV_PYTHON. Works with the bash 3.2 of macOS. What is installed, and how, is in _setup.py.

# A foreign PYTHONPATH or a running cluster's address would change what is installed and tested.
unset PYTHONPATH PYTHONHOME RAY_ADDRESS

_find_python() {
    local name
    if [ -n "${POLICYSTORE_PYTHON:-}" ]; then
        if _is_new_enough "$POLICYSTORE_PYTHON"; then
            FOUND_PYTHON=$POLICYSTORE_PYTHON
            return 0
        fi
        echo "error: POLICYSTORE_PYTHON=$POLICYSTORE_PYTHON is not a Python 3.10 or newer that runs." >&2
        echo "  Set it to one (a name on PATH or a full path), or unset it." >&2
        return 1
    fi
    for name in python3 python3.12 python3.11 python3.13 python3.10 python3.14 python; do
        if _is_new_enough "$name"; then
            FOUND_PYTHON=$name
            return 0
        fi
    done
    echo "error: no Python 3.10 or newer found on PATH." >&2
    echo "  Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install" >&2
    echo "  python), or say where it is: POLICYSTORE_PYTHON=/path/to/python3 $0" >&2
    return 1
}

# Runs it: names such as pyenv's exist on PATH without a Python behind them.
_is_new_enough() {
    command -v -- "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 </dev/null
}

_find_python || exit 1
"$FOUND_PYTHON" "$here/_setup.py" </dev/null || exit 1
VENV_PYTHON=$(dirname -- "$here")/.venv/bin/python
