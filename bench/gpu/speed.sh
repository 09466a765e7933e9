#!/usr/bin/env bash
# How fast, in how much memory, and does it compute what a CPU does? Without a GPU it runs the same path on a tiny model.
#
#     bash bench/gpu/speed.sh [--models qwen2.5-0.5b] [--seconds N]   results: ${OUT:-bench/gpu/out}/gpu-speed-*.json
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/gpu/bare.sh
"$python" bench/gpu/speed.py --out "${OUT:-bench/gpu/out}" "$@"
