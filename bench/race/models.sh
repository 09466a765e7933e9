#!/usr/bin/env bash
# The models of the map, beside the shipped one: students that check more or fewer lines when they are told that they
# were wrong, and students whose first answers never held a check. Then a larger one, of 3M parameters, for questions of
# size. About two hours on one core.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
TOOL=../../tools/think_model/build.py THINK=../../src/scrpo_cli/assets/think-model
build() {  # NAME STEPS [--init MODEL] [--layers N] [--world RATE=VALUE...]
    [ -f "models/$1/world.json" ] || "${PYTHON:-python}" "$TOOL" --out "models/$1" --steps "${@:2}"
}
NONE=(check_first=0 dense=0)
build checks-seldom 500 --init "$THINK" --world check_told=0.35
build checks-often 500 --init "$THINK" --world check_told=0.95
build holds-none 1500 --world "${NONE[@]}"
build holds-none-seldom 500 --init models/holds-none --world "${NONE[@]}" check_told=0.35
build holds-none-often 500 --init models/holds-none --world "${NONE[@]}" check_told=0.95
build deep 500 --init "$THINK" --layers 14
