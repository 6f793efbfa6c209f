#!/usr/bin/env bash
# The tests with the newest released dependencies in place of scripts/constraints.txt, in an environment that is removed
# afterwards (7 GB meanwhile, below TMPDIR). Prints what is newer than the pins; arguments go to pytest. Where
# OPEN_CLIP_MAIN names a clone of OpenCLIP's main branch, the trainer is tested on that, too.
set -euo pipefail
FFF_VENV="$(mktemp -d)/venv"
export FFF_VENV FFF_PINS=/dev/null
trap 'rm -rf "$(dirname "$FFF_VENV")"' EXIT
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
cd "$FFF_ROOT"

echo "Newer than scripts/constraints.txt (<) is (>):"
diff <(grep -v '^#' scripts/constraints.txt | sort) \
  <("$FFF_VENV/bin/uv" pip freeze --python "$PYTHON" | grep -v '^-e' | sort) | grep '^[<>]' || true
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$PYTHON" -m pytest -n 3 --dist worksteal "$@"
