"""How every hostile program ends at each level that this machine has, by class:

    python tests/hostile_verdicts.py [unshare|landlock|bubblewrap|user ...]

prints a table of docs/validation/sandbox.md, and on stderr what ended as it must not. Takes some minutes.
"""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hostile_host import hosting
from hostile_programs import CLASSES, Hostile
from sandbox_walls import LEVELS, walls_by

from scrpo_cli.tasks.code.execute import Tests, check
from scrpo_cli.tasks.code.isolation import Isolation, Limits

LIMITS = Limits(wall_s=8, memory_mib=512, disk_mib=16, file_mib=4, processes=24, answer_kib=1024)
BAD = ("correct", "error", "harm")


@dataclass
class Ends:
    """Of the programs of one class at one level."""

    how: Counter[str] = field(default_factory=Counter)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        counts = [str(self.how[key]) for key in ("wrong", "timeout", *BAD)]
        return [*counts, f"{max(self.wall_s):.1f}", f"{max(self.cpu_s):.1f}"]


def run(hostile: Hostile, walls: Isolation, ends: Ends) -> None:
    tests = Tests(hostile.tests, "f", (("node", "class Node:\n    pass\n"),))
    limits = replace(LIMITS, wall_s=1 if hostile.ends.startswith("timeout") else 8, cpu_s=hostile.cpu_s)
    with hosting() as host:
        start, before = time.monotonic(), cpu_seconds()
        try:
            verdict = str(check(host.fill(hostile.source), tests, limits, walls).verdict)
        except Exception as error:  # noqa: BLE001 - what a task's grading would make an error of
            verdict = f"error, {type(error).__name__}"
        ends.wall_s.append(time.monotonic() - start)
        ends.cpu_s.append(cpu_seconds() - before)
        said = "error" if "error" in verdict else verdict
        ends.how[said] += 1
        try:
            host.assert_unharmed()
        except (AssertionError, pytest.fail.Exception) as harm:
            ends.how["harm"] += 1
            verdict += f", harm: {traceback.extract_tb(harm.__traceback__)[-1].line}"
    if said in BAD or "harm" in verdict:
        print(f"{walls.how}: {hostile.name}: {verdict}", file=sys.stderr)  # noqa: T201


def cpu_seconds() -> float:
    """Of this process, which watches and cleans up; the program's own end with its sandbox."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(names: list[str]) -> None:
    print("| level | class | programs | wrong | timeout | correct | error | harm | most wall (s) | watcher's CPU (s) |")  # noqa: T201
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")  # noqa: T201
    for name in names:
        walls = walls_by(name)
        for kind, programs in CLASSES.items():
            ends = Ends()
            for hostile in programs:
                if hostile.uncovered != name:
                    run(hostile, walls, ends)
            total = str(len(ends.wall_s))
            print("|", " | ".join([f"{LEVELS[name]} ({name})", kind, total, *ends.row()]), "|", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:] or ["unshare", "landlock"])
