#!/usr/bin/env bash
#SBATCH --job-name=fff-captions
#SBATCH --array=0-63
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# Captions and features as a Slurm array, a GPU per task; tasks that were stopped are started again and go on.
#
#   SHARDS='data/{00000..06999}.tar' OUT=/mnt/work sbatch --export=ALL scripts/recipes/slurm.sh
#
# A task embeds the shards that it captioned, so that tasks wait for no other. Start the whole array again, not some of
# its tasks: what is there is not made twice. Keep its size while some still run. The other variables are in steps.sh.
set -euo pipefail
if [[ -n "${DRY_RUN:-}" ]]; then  # before it is submitted: the commands of one task
  : "${SLURM_ARRAY_TASK_ID:=0}" "${SLURM_ARRAY_TASK_MIN:=0}" "${SLURM_ARRAY_TASK_COUNT:=1}"
  : "${RECIPES:=$(dirname "${BASH_SOURCE[0]}")}"
fi
# Slurm runs a copy of this file: RECIPES says where the others are
source "${RECIPES:-${SLURM_SUBMIT_DIR:-.}/scripts/recipes}/steps.sh"
if (( SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN >= SLURM_ARRAY_TASK_COUNT )); then
  echo "slurm.sh: --array=$SLURM_ARRAY_TASK_MIN,… has gaps, and tasks share the shards by their number: start all of them" >&2
  exit 2
fi
SHARE=(--share "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT")
caption "${PYTHON:-python}"
embed "${PYTHON:-python}"
