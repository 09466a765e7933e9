"""A PostgreSQL server of its own in a directory, of what Debian's package `postgresql` installs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path("/usr/lib/postgresql")
USER = "postgres"


def why_not() -> str | None:
    """What this machine lacks."""
    if not _program("initdb"):
        return "no PostgreSQL server here (Debian: postgresql)"
    if os.geteuid() == 0 and USER not in {each.pw_name for each in pwd.getpwall()}:
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return None


def _program(name: str) -> str | None:
    found = sorted(PROGRAMS.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its URL. It listens on 127.0.0.1 alone, trusts everybody there, and does not sync to disk."""
    home = Path(tempfile.mkdtemp(prefix="scrpo-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = []
    if os.geteuid() == 0:
        shutil.chown(home, USER)
        run = ["runuser", "-u", USER, "--"]
    options = f"-p {port} -h 127.0.0.1 -k {home} -F"
    initdb, control = _program("initdb"), _program("pg_ctl")
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": home}
    try:
        data = str(home / "data")
        subprocess.run([*run, str(initdb), "-D", data, "-A", "trust", "-U", USER, "-E", "UTF8"], **quiet)
        subprocess.run([*run, str(control), "-D", data, "-w", "-l", str(home / "log"), "-o", options, "start"], **quiet)
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*run, str(control), "-D", data, "-m", "immediate", "-w", "stop"], **quiet)
    finally:
        shutil.rmtree(home, ignore_errors=True)
