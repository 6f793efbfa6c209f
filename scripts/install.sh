#!/usr/bin/env bash
# Makes .venv with the package and its pinned dependencies, once; sourced by the other scripts, which then use $PYTHON.
# FFF_VENV chooses another place, FFF_PINS other versions (/dev/null: the newest). Needs Python >= 3.11 with pip and venv,
# and nothing else.
set -euo pipefail

# Set in many containers, where each of hundreds of processes would compile PyTorch's sources anew, for ten seconds.
unset PYTHONDONTWRITEBYTECODE

FFF_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
FFF_VENV="${FFF_VENV:-$FFF_ROOT/.venv}"
FFF_PINS="${FFF_PINS:-$FFF_ROOT/scripts/constraints.txt}"
PYTHON="$FFF_VENV/bin/python"
FFF_STAMP="$FFF_VENV/open_clip_fff.installed"

# Installed already, from these very pins?
if ! cmp -s "$FFF_PINS" "$FFF_STAMP"; then
  FFF_BASE=""
  for candidate in python3 python python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      FFF_BASE="$candidate"
      break
    fi
  done
  if [ -z "$FFF_BASE" ]; then
    echo "scripts/install.sh: no Python >= 3.11 found; install one, or put it first on PATH" >&2
    exit 2
  fi
  echo "Installing into $FFF_VENV ($("$FFF_BASE" --version)), once; about a minute."
  "$FFF_BASE" -m venv "$FFF_VENV"
  # uv resolves and unpacks in seconds what takes pip minutes; it comes from pip itself.
  "$PYTHON" -m pip install --quiet --disable-pip-version-check uv
  "$FFF_VENV/bin/uv" pip install --quiet --python "$PYTHON" \
    --constraint "$FFF_PINS" --editable "$FFF_ROOT[test]"
  cp "$FFF_PINS" "$FFF_STAMP"
fi
