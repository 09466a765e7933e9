#!/usr/bin/env bash
# The main job on the embedded tiny world: no network, no GPU, no account, some minutes on two cores.
# Every command below is one that you can type yourself; a second run adds a new run to the same database.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[1m$ %s\033[0m\n' "$*"; "$@"; }

pool="demo-$(date +%Y%m%d-%H%M%S)"
say "1. A small model tries arithmetic; its errors land in the pool"
run scrpo collect --limit 48 --pool "$pool"
say "2. It is told that its answers are wrong, reflects on them and tries again"
run scrpo correct --pool "$pool"
say "3. One wrong attempt with its reflection and correction"
example=$(scrpo pool ls --pool "$pool" --json | python -c '
import json, sys
entries = json.load(sys.stdin)["entries"]
print(next((e for e in entries if e["repairs"]), entries[0])["attempt_id"])')
run scrpo pool show "$example"
say "4. The pool"
run scrpo pool stats --pool "$pool"
say "5. ScRPO: first-answer steps fill an error pool of the run's own, reflection steps learn from it"
run scrpo train
