"""No program forges success, none harms the host: each one of the list at every level that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_host import SECRET, Host, hosting, processes_with
from hostile_programs import HONEST, HOSTILE, Hostile, table
from sandbox_walls import WALLS, walls_by

from scrpo_cli.tasks.code.execute import Isolation, Limits, Tests, check
from scrpo_cli.types import Verdict

LIMITS = Limits(wall_s=8, memory_mib=512, disk_mib=16, file_mib=4, processes=24, answer_kib=1024)
SHORT = Limits(wall_s=1, memory_mib=512, disk_mib=16, file_mib=4, processes=24, answer_kib=1024)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """After `tmp_path`, whose place would otherwise be below the temporary directory of this machine."""
    with hosting() as machine:
        yield machine


@pytest.fixture(params=WALLS)
def walls(request: pytest.FixtureRequest) -> Isolation:
    return walls_by(request.param)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name.replace(" ", "-"))
def test_no_program_cheats_or_harms(hostile: Hostile, walls: Isolation, host: Host) -> None:
    if hostile.uncovered == walls.how:
        pytest.skip(f"documented as not covered by {walls.how}")
    limits = replace(SHORT if hostile.ends.startswith("timeout") else LIMITS, cpu_s=hostile.cpu_s)
    tests = Tests(hostile.tests, "f", (("node", "class Node:\n    pass\n"),))
    judgement = check(host.fill(hostile.source), tests, limits, walls)
    host.assert_unharmed()
    assert judgement.verdict in (Verdict.WRONG, Verdict.TIMEOUT), judgement
    said = f"{judgement.verdict}: {judgement.reason}"
    assert any(ending in said for ending in hostile.ends.split(" or ")), judgement
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
        "datagram pair",
        "raw pair",
        "datagram message",
        "shared segment of others",
        "removed segment",
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
