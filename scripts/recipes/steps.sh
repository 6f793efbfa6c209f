# The steps from shards to training, for the two recipes beside this file, which say how a program is started.
#
#   SHARDS    the shards, with braces: 'data/{00000..02999}.tar', 3,000 of 10,000 images for 30 million
#   OUT       a folder that all machines see
#   CAPTIONER, MINER, MINER_WEIGHTS   the models (defaults below)
#   MORE_CAPTION, MORE_EMBED          further flags
#   DRY_RUN=1 prints the commands and runs none
#
# Where a shard cannot be read, its step ends with an error once the others are done: take it out of SHARDS, go on.

: "${SHARDS:?name the shards, SHARDS='data/{00000..02999}.tar'}" "${OUT:?name a folder that all machines see, OUT=/mnt/work}"
CAPTIONER="${CAPTIONER:-Salesforce/blip2-opt-2.7b}"
MINER="${MINER:-ViT-L-14-quickgelu}"
MINER_WEIGHTS="${MINER_WEIGHTS:-openai}"
DEVICE="${DEVICE:-cuda}"
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DATA=(--train-data "$SHARDS" --text-key txt --caption-sidecar "$OUT/captions" --sidecar-text-key captions)

run() { # a command, shown first
  printf '%q ' "$@"
  echo
  [ -n "${DRY_RUN:-}" ] || "$@"
}

caption() { # five captions of each image, a parquet per shard; $@ starts a program
  # shellcheck disable=SC2086
  run "$@" "$SCRIPTS/caption.py" --train-data "$SHARDS" --out "$OUT/captions" --model "$CAPTIONER" --captions 5 \
    --device "$DEVICE" ${MORE_CAPTION:-} ${SHARE[@]+"${SHARE[@]}"}
}

embed() { # features of images and captions, for mining without a second tower
  # shellcheck disable=SC2086
  run "$@" "$SCRIPTS/embed.py" --out "$OUT/features" --device "$DEVICE" ${MORE_EMBED:-} ${SHARE[@]+"${SHARE[@]}"} \
    -- "${DATA[@]}" --mining-model "$MINER" --mining-pretrained "$MINER_WEIGHTS"
}
