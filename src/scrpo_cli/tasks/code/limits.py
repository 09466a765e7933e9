"""What a program may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one check; what goes beyond is ended. [I] our choice throughout."""

    wall_s: float = 10.0
    """From the start of the program's source to the end of the tests."""
    cpu_s: float = 10.0
    """CPU time of all its processes; a second more of any one of them."""
    memory_mib: int = 1024
    """Address space of each process, and resident memory of all together."""
    processes: int = 32
    """Processes and threads at one time."""
    file_mib: int = 16
    """Size of one file."""
    disk_mib: int = 64
    """All files together."""
    answer_kib: int = 4096
    """One answer of the program to the tests. What it prints goes to /dev/null."""
