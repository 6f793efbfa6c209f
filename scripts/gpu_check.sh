#!/usr/bin/env bash
# What a GPU shows of this package, in at most 8 minutes; `--device cpu` tries the command itself. Runs $PYTHON if that
# is set, else .venv's as it is, and makes .venv where there is none.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
  PYTHON="${FFF_VENV:-$ROOT/.venv}/bin/python"
  [ -x "$PYTHON" ] || source "$ROOT/scripts/install.sh"
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # $PYTHON may not have the package installed
exec "$PYTHON" "$ROOT/scripts/gpu_check.py" "$@"
