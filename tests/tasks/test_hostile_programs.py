"""No program forges success, none harms the host: each one of the list at every level that this machine has."""

from __future__ import annotations

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
from hostile_programs import HONEST, HOSTILE, Hostile, table
from sandbox_walls import WALLS, walls_by

from scrpo_cli.tasks.code import isolation as isolation_module
from scrpo_cli.tasks.code.execute import Isolation, Limits, Tests, check
from scrpo_cli.types import Verdict

SECRET = "a secret that lies in the way"
LIMITS = Limits(wall_s=8, memory_mib=512, disk_mib=16, file_mib=4, processes=24, answer_kib=1024)
SHORT = Limits(wall_s=1, memory_mib=512, disk_mib=16, file_mib=4, processes=24, answer_kib=1024)


@dataclass
class Host:
    """What a program could harm, and whether it has."""

    outside: Path
    secret: Path
    temporary: Path
    victim: subprocess.Popen
    listeners: list[socket.socket]
    mark: str

    def fill(self, text: str) -> str:
        places = {"OUTSIDE": self.outside, "SECRET": self.secret, "SOCKET": self.mark}
        for name, value in (places | {"PORT": self.listeners[0].getsockname()[1]}).items():
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
        deadline = time.monotonic() + 5  # the kernel takes a moment to end a namespace
        while left := processes_with(self.mark):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.02)


def processes_with(mark: str) -> list[psutil.Process]:
    """Processes that carry a mark in their environment: ours, and what they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SCRPO_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("SCRPO_PLANTED", SECRET)
    monkeypatch.setitem(isolation_module.ENVIRONMENT, "SCRPO_MARK", mark)
    with tempfile.TemporaryDirectory(prefix="scrpo-host-") as name:
        root = Path(name)
        root.chmod(0o755)
        (outside := root / "outside").mkdir()
        (kept := outside / "kept").write_text("kept")
        kept.chmod(0o666)
        os.utime(kept, (1, 1))
        outside.chmod(0o777)
        (secret := root / "secret").write_text(SECRET)
        (temporary := root / "tmp").mkdir()
        temporary.chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        listeners = [socket.create_server(("127.0.0.1", 0))]
        listeners.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listeners[1].bind(listeners[0].getsockname())
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[2].bind("\0" + mark)
        listeners[2].listen()
        for listener in listeners:
            listener.setblocking(False)
        victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        yield Host(outside, secret, temporary, victim, listeners, mark)
        victim.kill()
        victim.wait()
        for listener in listeners:
            listener.close()


@pytest.fixture(params=WALLS)
def walls(request: pytest.FixtureRequest) -> Isolation:
    return walls_by(request.param)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name.replace(" ", "-"))
def test_no_program_cheats_or_harms(hostile: Hostile, walls: Isolation, host: Host) -> None:
    if hostile.uncovered == walls.how:
        pytest.skip(f"documented as not covered by {walls.how}")
    limits = SHORT if hostile.ends.startswith("timeout") else LIMITS
    tests = Tests(hostile.tests, "f", (("node", "class Node:\n    pass\n"),))
    judgement = check(host.fill(hostile.source), tests, limits, walls)
    host.assert_unharmed()
    endings = hostile.ends.split(" or ")
    if judgement.verdict is Verdict.TIMEOUT:
        assert "timeout" in endings, judgement
    else:
        assert judgement.verdict is Verdict.WRONG, judgement
        assert any(ending in (judgement.reason or "") for ending in endings), judgement
    assert SECRET not in (judgement.reason or "")


def test_the_honest_program_passes_the_same_tests(walls: Isolation, host: Host) -> None:
    """Else the tests above would prove nothing."""
    assert check(HONEST, Tests("assert f(3) == 9\nassert f(4) == 16", "f"), LIMITS, walls).verdict is Verdict.CORRECT
    host.assert_unharmed()


@pytest.mark.parametrize("name", ["environment", "secret file", "link to a secret"])
def test_the_secrets_can_be_read_without_walls(name: str, host: Host, tmp_path: Path) -> None:
    """Control: what the spies try does work where nothing stops them."""
    source = host.fill(next(h.source for h in HOSTILE if h.name == name))
    shown = subprocess.run(
        [sys.executable, "-c", f"{source}\nprint(f(3))"], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.stdout.strip() == SECRET


@pytest.mark.parametrize(
    "name",
    [
        "write outside",
        "delete outside",
        "empty a file outside",
        "lock a file outside",
        "touch a file outside",
        "connect",
        "datagram",
        "local socket",
        "daemon",
    ],
)
def test_the_harm_is_seen_without_walls(name: str, host: Host, tmp_path: Path) -> None:
    """Control: the checks of the host do notice."""
    source = host.fill(next(h.source for h in HOSTILE if h.name == name))
    environment = {**os.environ, "SCRPO_MARK": host.mark}
    subprocess.run([sys.executable, "-c", f"{source}\nf(3)"], cwd=tmp_path, env=environment, check=True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        host.assert_unharmed()
    for process in processes_with(host.mark):
        process.kill()


def test_the_documented_table_is_this_list() -> None:
    document = (Path(__file__).parents[2] / "docs" / "validation" / "sandbox.md").read_text()
    assert "\n".join(table()) in document
    assert len(HOSTILE) >= 30
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)
