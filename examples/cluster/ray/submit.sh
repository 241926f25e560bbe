#!/usr/bin/env bash
# Run the recipe of this folder as a job of the cluster: the command runs on the head node, whose
# disk has the cache and the output.
#
#   RAY_ADDRESS=http://head.example.org:8265 ./submit.sh [--dry-run | --max-cost 50 | ...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${RAY_ADDRESS:?the address of the dashboard, http://HEAD:8265}"
exec ray job submit --working-dir "$here" -- axolotl-ual annotate annotate.yaml "$@"
