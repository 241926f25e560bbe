#!/usr/bin/env bash
# build.sh [BIN/]: build/site from the pages, with the programs of BIN/ (else of the PATH). Warnings are
# errors, and so a link or an anchor that leads nowhere ends the build.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf build/pages build/site
mkdir -p build/pages
cp docs/*.md build/pages
"${1:-}axolotl-ual" agent-docs errors > build/pages/errors.md
"${1:-}python" -m sphinx --fail-on-warning --keep-going --quiet -c site build/pages build/site
