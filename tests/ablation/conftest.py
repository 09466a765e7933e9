import json
import shlex

import pytest
from ablation_fakes import FakeExecutor

from scrpo_cli.cli.app import main


@pytest.fixture
def scrpo(tmp_path, capsys, monkeypatch):
    """Runs a command line; returns (exit code, the JSON document, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRPO_DB", str(tmp_path / "scrpo.db"))
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def run(line):
        with pytest.raises(SystemExit) as exit_:
            main([*shlex.split(line), "--json"])
        out, err = capsys.readouterr()
        return exit_.value.code, json.loads(out), err

    return run


@pytest.fixture
def executor(monkeypatch):
    """Puts a FakeExecutor in the place of the local one."""

    def install(**options):
        fake = FakeExecutor(**options)
        monkeypatch.setattr("scrpo_cli.ablation.executors.local.LocalExecutor", lambda *_, **__: fake)
        return fake

    return install
