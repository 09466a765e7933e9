"""Published versions of an adapter: files that live as long as the process, and no longer than that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from training.tiny_policy import random_policy

from scrpo_cli.rollout import adapters
from scrpo_cli.rollout.adapters import PREFIX, Publisher, sweep

LEAVES = """
import os, sys
from pathlib import Path
from training.tiny_policy import random_policy
from scrpo_cli.rollout import adapters
adapters.MEMORY = Path(sys.argv[1])
adapters.Publisher(random_policy(5), "left").publish()
print("ready", flush=True)
sys.stdin.read()
os._exit(9)
"""


@pytest.fixture
def memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(adapters, "MEMORY", tmp_path)
    return tmp_path


def homes(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX}*") if path.is_dir()]


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(memory, monkeypatch) -> None:
    path = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))
    command = [sys.executable, "-c", LEAVES, str(memory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        monkeypatch.setattr("os.getpid", lambda: 1)  # whatever the numbers of processes say, as between two containers
        sweep(memory)
        assert [[file.name for file in home.iterdir()] for home in homes(memory)] == [["left-v1"]]
        other.stdin.close()
    sweep(memory)
    assert list(memory.iterdir()) == []


def test_closing_leaves_nothing(memory) -> None:
    publisher = Publisher(random_policy(5), "mine")
    assert publisher.publish().directory.is_dir()
    publisher.close()
    publisher.close()  # at the end of the process once more
    assert list(memory.iterdir()) == []
