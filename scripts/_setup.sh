# The environment that scripts/demo and scripts/test share. Sourced, never run.
#
#   make_environment [EXTRA]   makes .venv beside the project, or checks that it is there, complete and up to date;
#                              afterwards "$VENV/bin/python" has the project and its pinned dependencies.
#
# PYTHON chooses the interpreter to make it with, RECON_VENV another folder to make it in.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${RECON_VENV:-$ROOT/.venv}

fail() {
    echo "$*" >&2
    exit 1
}

find_python() {
    local candidate found=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$candidate"
                return
            fi
            found=$candidate
        elif [[ $candidate == "${PYTHON:-}" ]]; then
            fail "PYTHON=$PYTHON is not a Python from 3.11 to 3.13."
        fi
    done
    if [[ -n $found ]]; then
        fail "$found has no venv module. On Debian and Ubuntu: sudo apt install python3-venv"
    fi
    fail "A Python from 3.11 to 3.13 is needed and was not found. Install it, or name it: PYTHON=/path/to/python3 $0"
}

# What an environment was made from. It is written last, so one that was interrupted has none.
recipe() {
    echo "$ROOT"
    cat "$ROOT/constraints.txt" "$ROOT/pyproject.toml"
}

make_environment() {
    local extra=${1:-} python started=$SECONDS
    local stamp="$VENV/.made-for${extra:+-$extra}"
    if "$VENV/bin/python" -c '' 2>/dev/null && [[ $(recipe) == "$(cat "$stamp" 2>/dev/null)" ]]; then
        return
    fi
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "Making the environment $VENV with $("$python" --version)"
        "$python" -m venv --clear "$VENV"
    fi
    rm -f "$VENV"/.made-for*
    echo "Installing the pinned packages (2 GB, more with a CUDA build of PyTorch; minutes on a slow line)"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$VENV/bin/python" -m pip install --quiet --constraint "$ROOT/constraints.txt" setuptools
    "$VENV/bin/python" -m pip install --quiet --constraint "$ROOT/constraints.txt" --no-build-isolation \
        --editable "$ROOT${extra:+[$extra]}"
    recipe >"$VENV/.made-for"
    recipe >"$stamp"
    echo "Installed in $((SECONDS - started)) s"
}
