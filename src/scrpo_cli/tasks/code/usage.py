"""What a program uses, as the kernel tells: its time, its memory and its files; and how its directory is removed.

The program runs meanwhile and wants to be counted wrong. So a process is looked at by its threads (of one whose first
thread has ended, /proc shows no memory and no files), and a directory by open descriptors: a path can be too long, and
what it names can change. Nothing here raises an OSError.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil

from scrpo_cli.tasks.code.inside.kernel import LIBC, MIB, descendants, knows_children, threads
from scrpo_cli.tasks.code.isolation import Limits

BLOCK = 4096  # bytes that a file takes at least
MAX_MAPS = 1 << 19  # bytes of the list of one process's mappings: some 5,000, where Python has 100 to 300
MEMORY = re.compile(rb"^Vm(?:RSS|PTE|Swap):\s+(\d+) kB", re.MULTILINE)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Excess(Exception):
    """The program goes beyond a limit; says which."""


def family(pid: int) -> list[int]:
    """A process and all its descendants, parents before their children."""
    if knows_children():
        return [pid, *descendants(pid)]
    with contextlib.suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of processes, and of the children that they have waited for. A process that ends moves its time to its
    parent, which has been read by then: no time counts twice.
    """
    ticks = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pids: list[int]) -> int:
    """Resident and swapped pages of processes, and the tables of their pages."""
    return sum(_memory_kib(pid) for pid in pids) * 1024


def _memory_kib(pid: int) -> int:
    for thread in threads(pid):
        if found := MEMORY.findall(_read(f"/proc/{pid}/task/{thread}/status")):
            return sum(map(int, found))
    return 0


def check_files(directory: Path, pids: list[int], limits: Limits) -> None:
    """Excess if the directory, with the files that have lost their name and are still open, is too large."""
    most = limits.disk_mib * MIB
    total = 0
    with contextlib.suppress(OSError), _opened(directory) as top:
        for count, size in enumerate(_sizes(top, limits), 1):
            total += size
            if count > limits.files:
                raise Excess(f"the program made more than {limits.files} files")
            if total > most:
                break
    if total + _nameless_bytes(pids, directory, limits.file_mib * MIB) > most:
        raise Excess(f"the program wrote more than {limits.disk_mib} MiB")


def _sizes(folder: int, limits: Limits, depth: int = 1) -> Iterator[int]:
    """Bytes of each file and directory below an open directory."""
    if depth > limits.depth:
        raise Excess(f"the program nested directories more than {limits.depth} deep")
    with os.scandir(folder) as listed:
        entries = list(itertools.islice(listed, limits.files + 1))
    for entry in entries:
        with contextlib.suppress(OSError):  # it is gone
            yield _size(entry.stat(follow_symlinks=False))
            if entry.is_dir(follow_symlinks=False):
                with _opened(entry.name, folder) as inner:
                    yield from _sizes(inner, limits, depth + 1)


def _size(status: os.stat_result) -> int:
    """The length too: some file systems assign blocks seconds later."""
    return max(BLOCK, status.st_blocks * 512, status.st_size)


def _nameless_bytes(pids: list[int], directory: Path, most: int) -> int:
    """Of files that the processes hold open or mapped and that no directory shows. One that is only mapped cannot be
    looked at: it counts as the `most` that a file may have.
    """
    held: dict[int, int] = {}
    mapped: set[int] = set()
    deleted = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +%s/.* \(deleted\)$" % re.escape(bytes(directory)), re.MULTILINE)
    for pid in pids:
        with contextlib.suppress(OSError), _as_owner(pid):
            maps = b""  # threads share them, and may have descriptors of their own
            for thread in threads(pid):
                held |= _nameless(f"/proc/{pid}/task/{thread}/fd")
                maps = maps or _read(f"/proc/{pid}/task/{thread}/maps", MAX_MAPS)
            if len(maps) == MAX_MAPS:
                raise Excess("the program mapped too many pieces of memory")
            mapped |= {int(inode) for inode in deleted.findall(maps)}
    return sum(held.values()) + most * len(mapped - held.keys())


def _nameless(descriptors: str) -> dict[int, int]:
    """Open files without a name: inode and bytes."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(descriptors):
            with contextlib.suppress(OSError):
                status = os.stat(f"{descriptors}/{name}")
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    found[status.st_ino] = _size(status)
    return found


@contextlib.contextmanager
def _as_owner(pid: int) -> Iterator[None]:
    """A process's files are shown to its user, and to root only with CAP_SYS_PTRACE, which containers take away. For
    this thread only.
    """
    owner = os.stat(f"/proc/{pid}")
    LIBC.setfsgid(owner.st_gid)
    LIBC.setfsuid(owner.st_uid)
    try:
        yield
    finally:
        LIBC.setfsuid(os.geteuid())
        LIBC.setfsgid(os.getegid())


def _read(path: str, most: int = -1) -> bytes:
    """A file of /proc; empty if the process has ended."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(most)
    return b""


@contextlib.contextmanager
def _opened(name: str | Path, above: int | None = None) -> Iterator[int]:
    """A directory, never by way of a link, and also if the program has closed it to its own user."""
    try:
        descriptor = os.open(name, DIRECTORY, dir_fd=above)
    except PermissionError:
        _unlock(name, above)
        descriptor = os.open(name, DIRECTORY, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unlock(name: str | Path, above: int | None) -> None:
    """All rights of its owner for a directory. By descriptor: meanwhile its name may have become that of a link."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
    finally:
        os.close(place)


def remove(directory: Path) -> None:
    """Of any depth and whatever rights the program left: each inner directory moves to the top before its turn. What
    cannot be removed stays.
    """
    with contextlib.suppress(OSError), _opened(directory) as top:
        waiting = _cleared(top, top)
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(OSError), _opened(name, top) as folder:
                waiting += _cleared(folder, top)
                os.rmdir(name, dir_fd=top)
        os.rmdir(directory)


def _cleared(folder: int, top: int) -> list[str]:
    """Removes the files of a directory and moves its directories to the top; their new names."""
    moved = []
    with os.scandir(folder) as listed:
        entries = list(listed)
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                _unlock(entry.name, folder)  # only what can be written can be moved
                name = secrets.token_hex(16)
                os.rename(entry.name, name, src_dir_fd=folder, dst_dir_fd=top)
                moved.append(name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return moved
