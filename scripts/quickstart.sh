#!/usr/bin/env bash
# The whole job on real data, on two CPU cores: shards, six trainings, scores, a picture, and an exported model.
#   bash scripts/quickstart.sh [--out DIR] [--fresh]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec "$PYTHON" "$FFF_ROOT/scripts/quickstart.py" "$@"
