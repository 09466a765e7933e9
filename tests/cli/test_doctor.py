"""`scrpo doctor`: each trouble is found, and comes with a remedy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from scrpo_cli.jobs import doctor as checks
from scrpo_cli.pool.db import Database


@pytest.fixture
def doctor(scrpo: Callable, model_dir: Path):
    """`scrpo doctor` on the tiny task with the test's model; gives the exit code and the checks by name."""

    def run(*args: object) -> tuple:
        outcome = scrpo("doctor", "--json", "--set", f"model.name={model_dir}", "--set", "task.train.limit=50", *args)
        found: dict[str, list[dict]] = {}
        for check in outcome.json["checks"]:
            found.setdefault(check["name"], []).append(check)
        return outcome, found

    return run


def statuses(found: dict[str, list[dict]]) -> dict[str, list[str]]:
    return {name: [check["status"] for check in checks] for name, checks in found.items()}


def test_all_is_well(doctor) -> None:
    outcome, found = doctor()
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    named = {"python", "torch", "transformers", "peft", "device", "threads", "model", "prompt", "second turns"}
    assert named | {"prompt budget", "grader", "memory", "disk", "database", "tracking.wandb"} <= set(found)
    assert {"task.train", "task.validation", "task.test", "benchmark tiny"} <= set(found)
    assert {name: len(rows) for name, rows in found.items() if len(rows) > 1} == {}, (
        "a name says what and in which role"
    )
    assert "'<|user|>PROBLEM<|end|><|assistant|>'" in found["prompt"][0]["detail"]
    assert "stay as a prefix" in found["second turns"][0]["detail"]
    assert not Path(".scrpo").exists()  # it looks and leaves nothing behind


def test_the_table_shows_remedies(scrpo: Callable, model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    outcome = scrpo("doctor", "--set", f"model.name={model_dir}", "--set", "task.train.limit=5")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    line = next(i for i, text in enumerate(lines) if "holds no weights" in text)
    assert lines[line].startswith("fail")
    assert "-> Copy the *.safetensors files" in lines[line + 1]


def test_a_model_directory_that_is_not_there(doctor, model_dir: Path) -> None:
    outcome, found = doctor("--set", f"model.name={model_dir / 'gone'}")
    assert outcome.code == 1
    assert "directory does not exist" in found["model"][0]["detail"]
    assert found["grader"][0]["status"] == "ok"  # the other checks go on


def test_a_model_without_tokenizer(doctor, model_dir: Path) -> None:
    for file in model_dir.glob("token*"):
        file.unlink()
    outcome, found = doctor()
    assert outcome.code == 1
    failed = [name for name, of in statuses(found).items() if "fail" in of]
    assert failed == ["template"]  # said once, although the prompt budget needs the tokenizer too
    assert "tokenizer" in found["template"][0]["detail"]


def test_a_tokenizer_without_chat_template(doctor, model_dir: Path) -> None:
    (model_dir / "chat_template.jinja").unlink()
    outcome, found = doctor()
    assert outcome.code == 1
    assert "chat template" in found["template"][0]["detail"]


def test_a_template_that_prefills_think_and_drops_earlier_thinking(doctor, model_dir: Path) -> None:
    """As R1 distillates do it."""
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'].split('</think>')[-1] + '<|end|>' }}"
        "{% endfor %}{{ '<|assistant|><think>\n' }}"
    )
    (model_dir / "chat_template.jinja").write_text(template)
    outcome, found = doctor()
    assert outcome.code == 0  # a warning, not a failure
    assert (statuses(found)["think tag"], statuses(found)["second turns"]) == (["warn"], ["ok"])
    assert "<think>" in found["think tag"][0]["detail"]
    assert "rendered as new prompts" in found["second turns"][0]["detail"]


def test_prompts_over_budget(doctor) -> None:
    outcome, found = doctor("--set", "task.max_prompt_tokens=3")
    assert outcome.code == 1
    assert "over the budget of 3 tokens" in found["prompt budget"][0]["detail"]
    assert "task.max_prompt_tokens" in found["prompt budget"][0]["remedy"]


def test_data_that_is_not_there(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", "nowhere")
    sets = ("--set", "task.name=math", "--set", "task.train={source: gsm8k}", "--set", "task.validation=")
    outcome, found = doctor(*sets, "--set", "eval.benchmarks=[math500]")
    assert outcome.code == 1
    assert "gsm8k" in found["task.train"][0]["detail"]
    assert "SCRPO_DATA_DIR" in found["task.train"][0]["remedy"]
    assert statuses(found)["grader"] == ["ok"]


def test_a_benchmark_that_is_not_there_is_a_warning(doctor, tmp_path: Path) -> None:
    row = {"id": "1", "problem": "1+1?", "answer": "2"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    sets = ("--set", "task.name=math", "--set", "task.train={source: mine.jsonl}")
    sets += ("--set", "task.validation=", "--set", "task.test=")
    outcome, found = doctor(*sets, "--set", "eval.benchmarks=[no-such-set]")
    assert (outcome.code, statuses(found)["benchmark no-such-set"]) == (0, ["warn"])


def test_a_package_outside_its_window(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda name: "99.0" if name in ("peft", "sqlmodel") else version(name))
    outcome, found = doctor()
    assert outcome.code == 1
    assert statuses(found)["peft"] == ["fail"]
    assert "pip install 'peft<" in found["peft"][0]["remedy"]
    assert statuses(found)["sqlmodel"] == ["fail"]  # not shown while it is fine


def test_an_old_python(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "sys", SimpleNamespace(version_info=(3, 10, 1)))
    assert statuses(doctor()[1])["python"] == ["fail"]


def test_the_thread_trap(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    assert statuses(doctor()[1])["threads"] == ["ok"]
    found = doctor("--set", "model.threads=2")[1]
    assert (found["threads"][0]["status"], found["threads"][0]["remedy"]) == ("warn", "Set model.threads=1.")


def test_cuda_asked_for_and_not_there(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome, found = doctor("--set", "model.device=cuda", "--set", "model.dtype=float32")
    assert (outcome.code, statuses(found)["device"]) == (1, ["fail"])


def test_a_full_disk_and_little_memory(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    outcome, found = doctor()
    assert outcome.code == 1
    assert (statuses(found)["disk"], statuses(found)["memory"]) == (["fail"], ["warn"])


def test_the_database(doctor, tmp_path: Path) -> None:
    Database.open(str(tmp_path / "good.db")).dispose()
    assert "opened" in doctor("--db", "good.db")[1]["database"][0]["detail"]
    (tmp_path / "bad.db").write_text("this is no database" * 100)
    outcome, found = doctor("--db", "bad.db")
    assert (outcome.code, statuses(found)["database"]) == (1, ["fail"])


def test_a_database_on_a_network_disk(doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    found = doctor()[1]
    assert (statuses(found)["database"], statuses(found)["database disk"]) == (["ok"], ["warn"])
    assert "nfs4" in found["database disk"][0]["detail"]


def test_wandb(doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert "wandb login" in doctor()[1]["tracking.wandb"][0]["remedy"]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert doctor()[1]["tracking.wandb"][0]["detail"] == "online"


def test_a_wrong_recipe_is_the_users_input(scrpo: Callable) -> None:
    assert scrpo("doctor", "--recipe", "tinny").code == 2


def test_doctor_leaves_no_worker_behind(doctor) -> None:
    sets = ("--set", "task.name=math", "--set", "task.train={source: nowhere.jsonl}", "--set", "task.validation=")
    doctor(*sets)
    workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    assert not workers, sys.platform


def test_how_programs_are_sandboxed(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remark where nothing runs programs, a failure where the task does."""
    from scrpo_cli.tasks.code import execute

    monkeypatch.setattr(execute, "candidates", lambda: [execute.Isolation("process", "landlock", "/no/python")])
    _, found = doctor()
    _, needed = doctor("--set", "task.name=code")
    assert found["sandbox"][0]["status"] == "ok"
    assert "does not need it" in found["sandbox"][0]["detail"]
    failed = [check for checks in needed.values() for check in checks if "programs cannot be run" in check["detail"]]
    assert [check["status"] for check in failed] == ["fail"]
    assert "docs/data.md" in failed[0]["remedy"]
