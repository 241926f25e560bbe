#!/bin/bash
# Train on several machines. Run the same line on each, at the same time, in a folder that all of
# them share, or that holds the same annotated copy:
#
#   ./several-nodes.sh recipe.yaml HEAD NODES GPUS
#
# HEAD is a name or address of one of the machines that all others reach at port 29500. A machine
# that is lost ends the run on all; started again on all, it goes on from the last checkpoint.
set -euo pipefail
recipe=${1:?usage: $0 RECIPE.yaml HEAD NODES GPUS}
head=${2:?the address of one of the machines}
nodes=${3:?how many machines}
gpus=${4:?how many GPUs each has}

axolotl train "$recipe" --launcher torchrun --auto-resume-from-checkpoints -- \
  --nnodes="$nodes" \
  --nproc-per-node="$gpus" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$head:29500" \
  --rdzv-id="$(basename "$recipe")"
