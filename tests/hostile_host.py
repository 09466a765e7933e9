"""A machine for hostile programs: what there is to harm, planted in their way, and whether it has been harmed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from scrpo_cli.tasks.code import isolation as isolation_module

SECRET = "a secret that lies in the way"
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p


@dataclass
class Host:
    """What a program could harm, and whether it has."""

    outside: Path
    secret: Path
    temporary: Path
    victim: subprocess.Popen
    listeners: list[socket.socket]
    segment: int
    mark: str
    slots: int

    def fill(self, text: str) -> str:
        places = {
            "OUTSIDE": self.outside,
            "SECRET": self.secret,
            "PORT": self.listeners[0].getsockname()[1],
            "SOCKET": self.mark,
            "DATAGRAMS": f"{self.mark}-datagrams",
            "SERVICE": self.secret.parent / "service",
            "SEGMENT": self.segment,
        }
        for name, value in places.items():
            text = text.replace(f"@{name}@", str(value))
        return text

    def assert_unharmed(self) -> None:
        assert [path.name for path in self.outside.iterdir()] == ["kept"]
        assert self.outside.stat().st_mode & 0o777 == 0o777
        kept = (self.outside / "kept").stat()
        assert (kept.st_size, kept.st_mode & 0o777, kept.st_mtime) == (4, 0o666, 1)
        assert list(self.temporary.iterdir()) == []  # the program's directory is gone, whatever it left in it
        assert self.victim.poll() is None
        for listener in self.listeners:
            with pytest.raises(BlockingIOError):
                listener.accept() if listener.type == socket.SOCK_STREAM else listener.recv(10)
        address = LIBC.shmat(self.segment, None, 0o10000)  # SHM_RDONLY
        assert address not in (None, ctypes.c_void_p(-1).value)
        content = ctypes.string_at(address, 1)
        LIBC.shmdt(ctypes.c_void_p(address))
        assert content == b"\0"
        deadline = time.monotonic() + 5  # the kernel takes a moment to end a namespace
        while left := processes_with(self.mark):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.02)
        assert slots_of_aio() <= self.slots


def slots_of_aio() -> int:
    return int(Path("/proc/sys/fs/aio-nr").read_text())


def processes_with(mark: str) -> list[psutil.Process]:
    """Processes that carry a mark in their environment: ours, and what they started. One that forks and ends between
    the listing and the reading is in neither, and its child in the next listing.
    """
    return _listed_with(mark) or _listed_with(mark)


def _listed_with(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SCRPO_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextlib.contextmanager
def hosting() -> Iterator[Host]:
    mark = uuid.uuid4().hex
    root = Path(tempfile.mkdtemp(prefix="scrpo-host-"))
    root.chmod(0o755)
    (outside := root / "outside").mkdir()
    (kept := outside / "kept").write_text("kept")
    kept.chmod(0o666)
    os.utime(kept, (1, 1))
    outside.chmod(0o777)
    (secret := root / "secret").write_text(SECRET)
    (temporary := root / "tmp").mkdir()
    temporary.chmod(0o755)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    segment = LIBC.shmget(0, 4096, 0o1666)  # IPC_CREAT, for anyone
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("SCRPO_PLANTED", SECRET)
        patch.setitem(isolation_module.ENVIRONMENT, "SCRPO_MARK", mark)
        patch.setattr(tempfile, "tempdir", str(temporary))
        listeners = [stack.enter_context(listener) for listener in listening(mark, root / "service")]
        yield Host(outside, secret, temporary, victim, listeners, segment, mark, slots_of_aio())
    victim.kill()
    victim.wait()
    LIBC.shmctl(segment, 0, None)  # IPC_RMID
    subprocess.run(["rm", "-rf", str(root)], check=True)  # of any depth, should a check have left something


def listening(mark: str, service: Path) -> list[socket.socket]:
    listeners = [socket.create_server(("127.0.0.1", 0))]
    listeners.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    listeners[1].bind(listeners[0].getsockname())
    listeners.append(socket.socket(socket.AF_UNIX))
    listeners[2].bind("\0" + mark)
    listeners[2].listen()
    listeners.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    listeners[3].bind(f"\0{mark}-datagrams")
    listeners.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    listeners[4].bind(str(service))
    service.chmod(0o777)
    for listener in listeners:
        listener.setblocking(False)
    return listeners
