#!/bin/bash
# Annotate and train on all GPUs of this machine. Started again, it goes on where it was.
#
#   ./one-node.sh recipe.yaml
set -euo pipefail
recipe=${1:?usage: $0 RECIPE.yaml}

axolotl-ual recipes check "$recipe"
if grep --quiet '^rl:' "$recipe"; then
  axolotl-ual pairs "$recipe"
else
  axolotl-ual annotate "$recipe"
fi
axolotl train "$recipe" --auto-resume-from-checkpoints
