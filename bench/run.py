"""All benches, or those that are named: one process each, of less than five minutes where nothing else runs.

python bench/run.py [SECTION ...] [--quick] [--vllm-python PYTHON] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 600
"""Seconds after which a section is ended: its measurements end by clocks of their own, in less than half of that."""
SECTIONS: dict[str, tuple[str, ...]] = {
    "update": ("update.py",),
    "update-25m": ("update.py", "--model", "25m"),
    "update-vocabulary": ("update.py", "--model", "vocabulary"),
    "masked": ("masked.py",),
    "step": ("step.py",),
    "step-25m": ("step.py", "--model", "25m"),
    "step-vocabulary": ("step.py", "--model", "vocabulary"),
    "world": ("world.py",),
    "phases": ("phases.py",),
    "engines": ("engines.py",),
    "packed": ("packed.py",),
    "pool": ("pool.py",),
    "grading": ("grading.py",),
    "start": ("start.py",),
}
"""Name -> script and arguments; the name is also that of the JSON file and of the place in docs/results/bench.md."""


def run(name: str, arguments: list[str], limit: float) -> str:
    """What went wrong, or nothing."""
    script, *own = SECTIONS[name]
    command = [sys.executable, str(HERE / script), *own, *arguments]
    print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
    one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    process = subprocess.Popen(command, env=one_thread, process_group=0)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"it took longer than {limit:.0f} s"
    finally:
        end_all(process)
    return f"it ended with {status}" if status else ""


def end_all(process: subprocess.Popen[bytes]) -> None:
    """A section that is stopped takes its own processes along: those of vLLM would keep their memory."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of: {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few repeats; says little more than that it runs")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="of the environment with vLLM, for `engines`")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds of a section (default {LIMIT})")
    parser.add_argument("--out", help="where the JSON files go (default bench/results)")
    args = parser.parse_args()
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    shared = [*(["--quick"] if args.quick else []), *(["--out", args.out] if args.out else [])]
    vllm = ["--vllm-python", args.vllm_python] if args.vllm_python else []
    failed = {
        name: trouble
        for name in args.sections or SECTIONS
        if (trouble := run(name, [*shared, *(vllm if name == "engines" else [])], args.limit))
    }
    for name, trouble in failed.items():
        print(f"{name}: {trouble}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
