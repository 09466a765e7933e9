"""The sandbox of a program: its limits, the ways to build it on this machine, and the command that does."""

from __future__ import annotations

import base64
import functools
import json
import marshal
import os
import secrets
import shutil
import sys
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import CodeType
from typing import Literal

from scrpo_cli.tasks.code.inside import kernel

Level = Literal["namespaces", "process"]
FLAGS = ("-S", "-P", "-s", "-B", "-X", "utf8")  # no site-packages, nothing from the working directory
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0"}
"""Nothing of ours. The fixed seed makes the order of sets, and with it verdicts, the same each time."""
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("null", "random", "urandom")  # not zero: mapped, it is memory that no limit counts
INSIDE = "scrpo_cli.tasks.code.inside"
UNUSED_UIDS = range(0x70000000, 0x7FFE0000)  # systemd's table of users leaves them to nobody


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
    files: int = 1000
    """Files and directories at one time (bubblewrap: no limit)."""
    depth: int = 32
    """Directories inside of each other (namespaces: no limit)."""
    answer_kib: int = 4096
    """One answer of the program to the tests. What it prints goes to /dev/null."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """One way to sandbox a program."""

    level: Level
    how: str
    """What builds the sandbox: `unshare`, `bubblewrap`, `landlock`, `user`."""
    python: str
    """The interpreter that the program runs in."""

    @property
    def needs_directory(self) -> bool:
        """Whether the program's directory lies on the host's disk; a namespace has a tmpfs of its own."""
        return self.level == "process"

    def command(self, limits: Limits, directory: Path | None, uid: int | None) -> list[str]:
        """Starts the program's process, which waits for its source on standard input."""
        program = [self.python, *FLAGS, "-c", script("program")]
        if self.how == "bubblewrap":
            return [*_bubblewrap(self.python, limits), *program]
        cfg = {
            "level": self.level,
            "command": program,
            "uid": uid,
            "read": readable(self.python),
            "devices": DEVICES,
            "disk_mib": limits.disk_mib,
            "files": limits.files,
            "directory": str(directory),
        }
        return [sys.executable, *FLAGS, "-c", script("launcher"), json.dumps(cfg)]

    def files(self, directory: Path | None) -> dict[str, list[str]] | None:
        """What Landlock lets the program open."""
        if self.how != "landlock":
            return None
        devices = [f"/dev/{name}" for name in DEVICES]
        return {"read": [*readable(self.python), *devices], "write": [str(directory), "/dev/null"]}


def new_uid() -> int | None:
    """A user of its own for each program, where we may choose: no other process is within its reach."""
    return secrets.choice(UNUSED_UIDS) if os.geteuid() == 0 else None


def readable(python: str) -> list[str]:
    """What a bare Python needs: its executable, its library, the system's shared libraries."""
    prefix = Path(python).parent.parent
    return list(dict.fromkeys([python, f"{prefix}/lib", f"{prefix}/lib64", *SYSTEM]))


@functools.cache
def script(main: str) -> str:
    """A side with the modules that it imports as text for `python -c`: it needs no file of ours that it could read.
    Compiled here, once: that halves the time to start.
    """
    modules = [(f"{INSIDE}.{name}", _compiled(name)) for name in ("wire", "kernel")]
    packed = base64.b85encode(zlib.compress(marshal.dumps((modules, _compiled(main)))))
    return f"""
import base64, marshal, sys, types, zlib
package = sys.modules[{INSIDE!r}] = types.ModuleType({INSIDE!r})
modules, main = marshal.loads(zlib.decompress(base64.b85decode({packed!r})))
for name, code in modules:
    module = sys.modules[name] = types.ModuleType(name)
    setattr(package, name.rpartition('.')[2], module)
    exec(code, module.__dict__)
exec(main, {{'__name__': '__main__'}})
"""


def _compiled(name: str) -> CodeType:
    return compile((files(INSIDE) / f"{name}.py").read_text(), f"<{name}>", "exec", dont_inherit=True)


def _bubblewrap(python: str, limits: Limits) -> list[str]:
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--die-with-parent",
        "--new-session",
    ]
    words += ["--cap-drop", "ALL", "--size", str(limits.disk_mib << 20), "--tmpfs", "/tmp"]
    for name in DEVICES:  # not --dev: its /dev/shm takes half of the machine's memory
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for path in readable(python):
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            words += ["--ro-bind", path, path]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def candidates() -> list[Isolation]:
    """From strong to weak. Bubblewrap does not limit the number of files, so it comes second: it works on systems that
    refuse user namespaces to all but known programs. Root needs no user namespace, and so no bubblewrap. Without root,
    a process that Landlock does not hold could write to our own memory and files: there is no such level.
    """
    if sys.platform != "linux":
        return []
    root = os.geteuid() == 0
    found = [Isolation("namespaces", "unshare", pythons()[0])]
    if not root and shutil.which("bwrap"):
        found.append(Isolation("namespaces", "bubblewrap", pythons()[0]))
    if kernel.landlock_version():
        found += [Isolation("process", "landlock", python) for python in pythons()]
    elif root:
        found += [Isolation("process", "user", python) for python in pythons()]
    return found


def pythons() -> list[str]:
    """Ours, and the system's of the same version: a home directory may hide ours from other users."""
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    other = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return list(dict.fromkeys([own, other] if os.path.exists(other) else [own]))
