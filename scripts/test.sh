#!/usr/bin/env bash
# The tests, and ruff before them. `bash scripts/test.sh` runs mypy and all tests, `bash scripts/test.sh quick` those
# without whole programs and trainings; further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
cd "$FFF_ROOT"

"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --quiet --check .
HOW=(-n 4) # many tests wait for programs that they start
if [ "${1:-}" = quick ]; then
  HOW=(-n logical --maxprocesses 4 -m "not slow") # few of these do, and a worker takes ten seconds to start
  shift
elif [ $# = 0 ]; then
  "$PYTHON" -m mypy --no-error-summary open_clip_fff &
  TYPES=$!
fi
# One thread per process: several tests run at a time, and small tensors gain nothing from more.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ ! -d tests/__pycache__ ]; then # compiled once, and not by each worker at the same time
  "$PYTHON" -m pytest --collect-only --quiet >/dev/null || true
fi
CODE=0
"$PYTHON" -m pytest "${HOW[@]}" --dist worksteal "$@" || CODE=$?
if [ -n "${TYPES:-}" ]; then
  wait "$TYPES" || CODE=$?
fi
exit "$CODE"
