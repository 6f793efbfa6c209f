#!/usr/bin/env bash
# Captions and features for any number of shards, on one machine or several, a process per GPU by torchrun.
#
#   SHARDS='data/{00000..02999}.tar' OUT=/mnt/work bash scripts/recipes/torchrun.sh
#   NODES=8 HEAD=node0:29500 ... the same on each of eight machines
#
# Started again it does what is missing. The other variables are in steps.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
PYTHON="${PYTHON:-python}"
LAUNCH=("$PYTHON" -m torch.distributed.run --nproc-per-node "${GPUS:-8}")
if [ "${NODES:-1}" -gt 1 ]; then
  : "${HEAD:?name the first machine, HEAD=node0:29500}"
  LAUNCH+=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id fff)
else
  LAUNCH+=(--standalone)
fi
SHARE=()
caption "${LAUNCH[@]}"
embed "${LAUNCH[@]}"
