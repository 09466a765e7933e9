#!/usr/bin/env bash
# Does ScRPO run on this GPU?
#
#     bash bench/gpu/smoke.sh [--shape two-layers] [--steps N]        results: ${OUT:-bench/gpu/out}/gpu-smoke-*.json
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/gpu/bare.sh
"$python" bench/gpu/smoke.py --out "${OUT:-bench/gpu/out}" "$@"
