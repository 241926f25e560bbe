#!/usr/bin/env bash
# hosts.sh [--where-possible] AXOLOTL...: run the host-facing tests with each Axolotl (0.19, 0.21),
# in an environment of its own under .hosts/, or in .venv where that has it. An Axolotl whose Python
# this machine has not is named and left out; with --where-possible also one that does not install.
set -uo pipefail
cd "$(dirname "$0")/.."

not_installed=1
if [ "${1:-}" = --where-possible ]; then
    not_installed=0
    shift
fi

python_for() {  # The first Python that the Axolotl of this minor version installs on.
    case $1 in
        0.19) echo 3.11 ;;
        *) echo 3.12 ;;
    esac
}

find_python() {
    local name=python$1 root=${PYENV_ROOT:-$HOME/.pyenv} found
    for found in "$(command -v "$name")" "$root"/versions/"$1".*/bin/python; do
        # A shim of pyenv is on the PATH also where no version of it is chosen.
        if [ -n "$found" ] && "$found" -c '' 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}

has_axolotl() {  # has_axolotl VENV AXOLOTL
    "$1"/bin/python -c "
from importlib.metadata import version
raise SystemExit(not version('axolotl').startswith('$2.'))" 2>/dev/null
}

install() {  # install VENV PYTHON AXOLOTL
    local stamp=$1/.installed
    if [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ]; then
        return
    fi
    rm -rf "$1"
    "$2" -m venv "$1" &&
        "$1"/bin/python -m pip install --quiet --upgrade pip &&
        "$1"/bin/python -m pip install --quiet -e '.[train,local,evaluate,dev]' "axolotl==$3.*" &&
        touch "$stamp"
}

failed=0
export AXOLOTL_DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
for axolotl in "$@"; do
    venv=.venv
    if ! has_axolotl "$venv" "$axolotl"; then
        venv=.hosts/$axolotl
        wanted=$(python_for "$axolotl")
        python=$(find_python "$wanted")
        if [ -z "$python" ]; then
            echo "test-hosts: Axolotl $axolotl not tested: this machine has no Python $wanted"
            continue
        fi
        if ! install "$venv" "$python" "$axolotl"; then
            echo "test-hosts: Axolotl $axolotl not tested: it could not be installed"
            [ $not_installed = 0 ] || failed=1
            continue
        fi
    fi
    echo "test-hosts: Axolotl $axolotl with $("$venv"/bin/python --version)"
    "$venv"/bin/python -m pytest -m host || failed=1
done
exit $failed
