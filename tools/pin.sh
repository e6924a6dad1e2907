#!/bin/sh
# Pins the newest versions of everything but torch, whose line is edited by hand, in constraints.txt.
# Run by `make constraints`.
set -eu
cd "$(dirname "$0")/.."

old=$(cat constraints.txt)
trap 'printf "%s\n" "$old" >constraints.txt' EXIT
trap 'exit 130' HUP INT TERM
printf '%s\n' "$old" | grep '^torch==' >constraints.txt
TORCH=cpu tools/setup.sh
# Without the local version: the same pins serve the CPU and the CUDA builds (which name their libraries exactly).
new=$(.venv/bin/python -I -m pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//')
old=$(printf '%s\n' "$old" | grep '^#' && printf '%s\n' "$new")
