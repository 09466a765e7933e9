"""An evaluation as a log of Inspect: inspect-ai reads our scores in it, and `inspect view` shows it."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from browser import chromium, why_not
from exported_run import HOSTILE, OUTCOMES, RUN, answers

from scrpo_cli.errors import UserError
from scrpo_cli.jobs import export as jobs
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.recipe.load import load_recipe

SECONDS = 60  # for the server to answer


@pytest.fixture
def folder(db: Database, run: RunRow, tmp_path: Path) -> Path:
    """The directory of the one log, of two problems with four samples each."""
    pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: pip install 'scrpo-cli[inspect]'")
    assert jobs.export_inspect(db, run, tmp_path / "logs") == (1, 8)
    return tmp_path / "logs"


@pytest.fixture
def log(folder: Path) -> Any:
    from inspect_ai.log import list_eval_logs, read_eval_log

    (info,) = list_eval_logs(str(folder))
    return read_eval_log(info.name)


def test_inspect_reads_the_scores_that_we_have(log: Any, db: Database, run: RunRow) -> None:
    from inspect_ai.scorer import value_to_float

    (evaluation,) = jobs.evaluations_of(db, run.id)
    to_float = value_to_float()
    by_problem: dict[str, list[float]] = {}
    for sample in log.samples:
        score = sample.scores["first"]
        if not (isinstance(score.value, float) and math.isnan(score.value)):
            by_problem.setdefault(sample.id, []).append(to_float(score.value))
    means = [sum(values) / len(values) for values in by_problem.values()]
    assert by_problem == {"train-1": [1, 0, 1, 0], "train-2": [1, 1, 0]}
    assert sum(means) / 2 == pytest.approx(evaluation.metrics["avg"])
    accuracy = {score.name: score for score in log.results.scores}
    first = accuracy["first"].metrics["accuracy"]
    assert (first.value, first.metadata) == (evaluation.metrics["avg"], {"ci95": evaluation.metrics["ci95"]})
    assert (accuracy["first"].scored_samples, accuracy["first"].unscored_samples) == (7, 1)
    assert accuracy["second"].metrics["accuracy"].value == evaluation.metrics["t2"]["value"] == 1
    assert accuracy["repair"].metrics["repair_rate"].metadata["ci95"] == evaluation.metrics["repair_rate"]["ci95"]
    assert log.eval.metadata["metrics"] == json.loads(json.dumps(evaluation.metrics))


def test_in_inspect_samples_are_epochs_and_later_turns_are_messages(log: Any) -> None:
    by_epoch = {(sample.id, sample.epoch): sample for sample in log.samples}
    assert by_epoch.keys() == {(name, epoch) for name in OUTCOMES for epoch in (1, 2, 3, 4)}
    wrong = by_epoch["train-1", 2]
    task = load_recipe("tiny").task
    assert [message.role for message in wrong.messages] == ["user", "assistant"] * 3
    asked = [message.text for message in wrong.messages[::2]]
    assert asked == [wrong.input, task.check_prompt, task.reflect_prompt]
    assert [m.metadata["part"] for m in wrong.messages[1::2]] == ["first", "second", "repair"]
    assert HOSTILE in wrong.output.completion == wrong.messages[1].text
    assert {name: score.value for name, score in wrong.scores.items()} == {"first": "I", "second": "C", "repair": "C"}
    assert (log.eval.model, log.eval.task, log.eval.config.epochs) == ("tiny", "test:after", 4)


def test_our_reader_takes_the_log_back(log: Any, tmp_path: Path) -> None:
    from inspect_ai.log import write_eval_log

    from scrpo_cli.tasks.formats import read_records

    write_eval_log(log, str(tmp_path / "log.json"), format="json")
    rows = [record.row for record in read_records(tmp_path / "log.json", "inspect")]
    firsts = [a for a in answers() if a.part == "first"]
    assert sorted((r["id"], r["sample"], r["response"]) for r in rows) == [
        (a.problem.id, a.sample, a.completion.text) for a in firsts
    ]


def test_inspect_is_asked_for_where_it_is_not_installed(
    db: Database, run: RunRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        jobs.export_inspect(db, run, tmp_path / "logs")
    assert "scrpo-cli[inspect]" in caught.value.fix
    with pytest.raises(UserError, match="writes a directory"):
        jobs.export_inspect(db, run, Path("-"))


# --- inspect view -------------------------------------------------------------------------------------------------


@pytest.fixture
def view(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `inspect view` on that directory. It ends whichever process its own files say had the port
    before, so it gets files of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "inspect_ai", "view", "start", "--log-dir", str(folder), "--port", str(port)]
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data")}
    with (tmp_path / "said").open("w") as said:
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            wait_for(server, f"http://127.0.0.1:{port}", tmp_path / "said")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(server: subprocess.Popen[bytes], address: str, said: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            httpx.get(address).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"inspect view does not answer: {said.read_text()}")


def test_inspect_view_lists_and_reads_the_log(view: str, db: Database, run: RunRow) -> None:
    def asked(path: str) -> Any:
        return httpx.get(f"{view}/api/{path}", timeout=SECONDS).raise_for_status().json()

    (listed,) = asked("logs")["files"]
    assert listed["task"] == "test:after"
    place = f"logs/{quote(listed['name'], safe='')}"
    header = asked(f"{place}?header-only=0")
    (evaluation,) = jobs.evaluations_of(db, run.id)
    assert (header["status"], header["eval"]["run_id"], header.get("samples")) == ("success", RUN, None)
    assert header["eval"]["metadata"]["metrics"]["ci95"] == evaluation.metrics["ci95"]
    first = next(score for score in header["results"]["scores"] if score["name"] == "first")
    assert first["metrics"]["accuracy"]["metadata"] == {"ci95": evaluation.metrics["ci95"]}
    samples = {(sample["id"], sample["epoch"]): sample for sample in asked(place)["samples"]}
    assert samples.keys() == {(name, epoch) for name in OUTCOMES for epoch in (1, 2, 3, 4)}
    said = [message["content"] for message in samples["train-1", 2]["messages"] if message["role"] == "assistant"]
    assert said == [a.completion.text for a in answers() if (a.problem.id, a.sample) == ("train-1", 1)]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_inspect_view_shows_a_sample_to_its_reader(view: str) -> None:
    """In a browser; what hostile texts would run does not run."""
    dialogs: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(f"{view}/#/tasks/{RUN}_test_after.eval")
        page.get_by_text("1+1=?").nth(1).click()
        page.get_by_text("Sample train-1 (Epoch 2)").wait_for()
        page.get_by_text(load_recipe("tiny").task.check_prompt).first.wait_for()
        shown = page.inner_text("body")
        for attempt in answers():
            if (attempt.problem.id, attempt.sample) == ("train-1", 1):
                assert attempt.completion.text in shown
    assert dialogs == []
