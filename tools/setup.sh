#!/bin/sh
# Makes .venv once, and again whenever what it was made from changes. Run by `make setup`; quiet when nothing is to do.
#
#   PYTHON   the Python to use, 3.11 or later (default: python3)
#   TORCH    cpu | cuda: the build of PyTorch (default: cpu on Linux without an NVIDIA GPU, elsewhere what pip chooses)
#
# .venv/equiv-setup is written last and holds what .venv was made from: without it, .venv is half made and made anew.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

venv=.venv
stamp=$venv/equiv-setup
case ${TORCH:-} in '' | cpu | cuda) ;; *) fail "\`TORCH\`=$TORCH, but should be cpu or cuda, or not set" ;; esac

# PYTHON and TORCH count only when given, so that a plain `make test` keeps what `make setup TORCH=cuda` made.
inputs=$(cksum tools/setup.sh constraints.txt pyproject.toml && pwd -P)
made_of() { sed -n "s/^$1: //p" "$stamp"; }
if [ -f "$stamp" ] && [ "$(sed '/^PYTHON: /d; /^TORCH: /d' "$stamp")" = "$inputs" ] &&
    [ "${PYTHON:-$(made_of PYTHON)}" = "$(made_of PYTHON)" ] &&
    [ "${TORCH:-$(made_of TORCH)}" = "$(made_of TORCH)" ] &&
    "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 ||
    fail "there is no $python here; name a Python, 3.11 or later: make setup PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version 2>&1) is too old, 3.11 or later is needed: make setup PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python lacks venv or ensurepip; on Debian and Ubuntu install the package python3-venv"
# Where .venv, or another environment, is active: the Python below it, which survives the removal of .venv.
base=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')

torch=$(grep '^torch==' constraints.txt)
if [ -n "${TORCH:-}" ]; then
    build=$TORCH
elif [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
    build=cpu
else
    build=cuda
fi
# The CPU builds bear the local version +cpu on Linux only; those for macOS are CPU builds anyway.
if [ "$build" = cpu ] && [ "$(uname -s)" = Linux ]; then torch=$torch+cpu; fi

trap 'status=$?; if [ $status -ne 0 ]; then rm -rf "$venv"; fi' EXIT
trap 'say interrupted; exit 130' HUP INT TERM
say "making $venv with $("$base" --version 2>&1) and $torch, for once; this takes minutes"
rm -rf "$venv"
"$base" -m venv "$venv"

unset PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIREMENT  # they would lead the packages astray
pip() { "$venv/bin/python" -I -m pip "$@" --disable-pip-version-check --no-input; }

if ! pip install --no-deps "$torch"; then
    say "pip could not install $torch for $("$base" --version 2>&1) on $(uname -sm): its reason is above."
    case $torch in *+cpu)
        say 'No NVIDIA GPU was found, so this asks for the CPU build of PyTorch; the default one has gigabytes of CUDA.'
        say 'If pip found no such version, point it at the index of CPU wheels, named on pytorch.org, "Get Started",'
        say '    export PIP_EXTRA_INDEX_URL=...   and then again   make setup'
        say 'or accept the CUDA build:   make setup TORCH=cuda' ;;
    esac
    exit 1
fi
pip install -c constraints.txt --no-deps --upgrade setuptools  # which builds equiv; venv may have put an older one here
pip install -c constraints.txt --no-build-isolation -e '.[dev]'

printf '%s\nPYTHON: %s\nTORCH: %s\n' "$inputs" "${PYTHON:-}" "$build" >"$stamp"
