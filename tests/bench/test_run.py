"""The command that runs sections: what it starts, what it says of those that fail, and that nothing outlives one."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import run

CHILD = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); {rest}"


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "SECTIONS", {"one": ("one.py", "--model", "25m"), "two": ("one.py",)})
    return tmp_path / "one.py"


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["run.py", *arguments])
    return run.main()


def test_named_sections_get_their_own_options_and_the_shared_ones(
    section: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    section.write_text(f"import sys; open({str(told)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')")
    assert main(monkeypatch, "one", "--quick", "--out", "x") == 0
    assert main(monkeypatch) == 0
    assert told.read_text().splitlines() == ["--model 25m --quick --out x", "--model 25m", ""]


def test_a_section_that_fails_does_not_keep_the_others(
    section: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    section.write_text("import sys; print('ran', flush=True); sys.exit(3 if sys.argv[1:] else 0)")
    assert main(monkeypatch) == 1
    out, err = capfd.readouterr()
    assert out.count("ran") == 2
    assert err == "one: it ended with 3\n"


@pytest.mark.parametrize(("rest", "trouble"), [("time.sleep(60)", "longer than 1 s"), ("sys.exit(1)", "ended with 1")])
def test_nothing_outlives_a_section(section: Path, capfd: pytest.CaptureFixture, rest: str, trouble: str) -> None:
    section.write_text(CHILD.format(rest=rest))
    start = time.monotonic()
    assert trouble in run.run("one", [], limit=1)
    assert time.monotonic() - start < 20
    left = int(capfd.readouterr().out.split()[-1])
    for _ in range(100):
        if not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail(f"process {left} is still there")
