#!/usr/bin/env bash
# The tests, and ruff before them. `bash scripts/test.sh` runs mypy and all tests, `bash scripts/test.sh quick` those
# without whole programs and trainings; further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
cd "$FFF_ROOT"

"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --quiet --check .
MARK=()
if [ "${1:-}" = quick ]; then
  MARK=(-m "not slow")
  shift
elif [ $# = 0 ]; then
  "$PYTHON" -m mypy --no-error-summary open_clip_fff &
  TYPES=$!
fi
# One thread per process: the tests run four at a time, as many wait for others, and small tensors gain nothing from more.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ ! -d tests/__pycache__ ]; then # compiled once, and not by each of four workers at the same time
  "$PYTHON" -m pytest --collect-only --quiet >/dev/null || true
fi
CODE=0
"$PYTHON" -m pytest -n 4 --dist worksteal ${MARK[@]+"${MARK[@]}"} "$@" || CODE=$?
if [ -n "${TYPES:-}" ]; then
  wait "$TYPES" || CODE=$?
fi
exit "$CODE"
