"""What leaves a database, read back by those who are meant to read it: inspect-ai, datasets, transformers and peft."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.runner import measure
from scrpo_cli.jobs import cards
from scrpo_cli.jobs import export as jobs
from scrpo_cli.jobs.adapter import export_adapter
from scrpo_cli.jobs.dataset import COLUMNS, export_dataset
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import finish_run, record_evaluation, record_step, resolve_run, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tasks import make_task
from scrpo_cli.training import checkpoint
from scrpo_cli.training.policy import Policy, load_policy
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

HOSTILE = "</script><img src=x onerror=alert(1)>`|```"
RUN = "20261120-141503-k3f9"
OUTCOMES = {"train-1": "CWCW", "train-2": "CCWF"}
"""Of the first answers: correct, wrong, and one that the grader failed on."""
VERDICTS = {"C": Verdict.CORRECT, "W": Verdict.WRONG, "F": Verdict.GRADER_ERROR}


def attempt(problem: Problem, part: str, sample: int, mark: str, kind: AttemptKind, parent: str | None) -> Attempt:
    name = f"{RUN}:2:test:after:{part}:{problem.id}:{sample}"
    text = f"{HOSTILE} {part} {sample} \\boxed{{{'2' if mark == 'C' else '3'}}}"
    completion = Completion([1, 2], [3, 4, 5], [-0.1] * 3, text, FinishReason.STOP)
    grade = Grade(VERDICTS[mark], "2" if mark == "C" else "3", "broken" if mark == "F" else None, "tiny/1")
    turn = 1 if parent is None else 2
    group = int(problem.id[-1])
    return Attempt(name, problem, completion, grade, kind, turn, sample, parent, part, group)


def answers() -> list[Attempt]:
    """Two problems, four samples each with a second turn, and a repair of every wrong first answer."""
    found = []
    for name, marks in OUTCOMES.items():
        problem = Problem(name, "tiny", f"1+1=? {HOSTILE}", "2", {"level": 1})
        for sample, mark in enumerate(marks):
            first = attempt(problem, "first", sample, mark, AttemptKind.FIRST, None)
            found += [first, attempt(problem, "second", sample, "C", AttemptKind.CHECK, first.id)]
            if mark == "W":
                found.append(attempt(problem, "repair", sample, "C", AttemptKind.CORRECTION, first.id))
    return found


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("tiny").model_copy(update={"name": HOSTILE})


@pytest.fixture
def db(tmp_path: Path, recipe: Recipe) -> Any:
    """A training run of two steps, evaluated at its end."""
    with Database.open(str(tmp_path / "runs.db")) as database:
        given = {"recipe": recipe, "model": "tiny", "directory": str(tmp_path / "run"), "sweep": "s1", "arm": HOSTILE}
        start_run(database, command="train", run_id=RUN, **given)
        for step in (1, 2):
            record_step(database, RUN, StepRecord(step, "first", [], metrics={"tokens/total": 10.0 * step}))
        task = make_task(recipe.task)
        metrics = measure(Answers.of(answers()), task, Protocol.of(recipe))
        record_evaluation(database, RUN, 2, "test", metrics, answers(), "after")
        finish_run(database, RUN, "done", {})
        yield database


@pytest.fixture
def run(db: Database) -> RunRow:
    return resolve_run(db, RUN)


# --- Inspect ------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(db: Database, run: RunRow, tmp_path: Path) -> Any:
    logs = pytest.importorskip("inspect_ai.log", reason="pip install 'scrpo-cli[inspect]'")
    assert jobs.export_inspect(db, run, tmp_path / "logs") == (1, 8)
    (info,) = logs.list_eval_logs(str(tmp_path / "logs"))
    return logs.read_eval_log(info.name)


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


@pytest.fixture
def viewer(log: Any, tmp_path: Path) -> Iterator[str]:
    """The address of `inspect view` over the exported logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "inspect_ai", "view", "start", "--log-dir", "logs", "--port", str(port)]
    with (tmp_path / "view.txt").open("wb") as said:
        server = subprocess.Popen([*program, "--host", "127.0.0.1"], cwd=tmp_path, stdout=said, stderr=said)
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                assert server.poll() is None, (tmp_path / "view.txt").read_text()
                assert time.monotonic() < end, (tmp_path / "view.txt").read_text()
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_inspect_view_lists_the_log_and_opens_it(viewer: str, log: Any, db: Database, run: RunRow) -> None:
    (evaluation,) = jobs.evaluations_of(db, run.id)
    (listed,) = httpx.get(f"{viewer}/api/logs").json()["files"]
    shown = httpx.get(f"{viewer}/api/logs/{quote(listed['name'], safe='')}").json()
    assert shown["status"] == "success"
    scores = {score["name"]: score["metrics"] for score in shown["results"]["scores"]}
    assert scores["first"]["accuracy"]["value"] == evaluation.metrics["avg"]
    assert scores["first"]["accuracy"]["metadata"]["ci95"] == evaluation.metrics["ci95"]
    samples = {(sample["id"], sample["epoch"]): sample for sample in shown["samples"]}
    assert samples.keys() == {(name, epoch) for name in OUTCOMES for epoch in (1, 2, 3, 4)}
    assert [message["role"] for message in samples["train-1", 2]["messages"]] == ["user", "assistant"] * 3


def test_inspect_view_shows_a_sample_in_a_browser(viewer: str, log: Any) -> None:
    """Its text as text: a model's answer is hostile, and `HOSTILE` is a script."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(viewer)
        page.get_by_text(log.eval.task).first.click(timeout=60_000)
        page.get_by_text("train-1").first.wait_for(timeout=60_000)
        assert errors == []
        browser.close()


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


# --- Parquet ------------------------------------------------------------------------------------------------------


def test_a_data_set_has_the_rows_of_the_lines(db: Database, run: RunRow, tmp_path: Path) -> None:
    import datasets

    lines = tmp_path / "lines.jsonl"
    assert jobs.export_run(db, run, lines) == export_dataset(db, run, tmp_path / "set") == 19
    found = datasets.load_dataset(str(tmp_path / "set"), "eval-test-after", split="test", cache_dir=str(tmp_path / "c"))
    assert found.column_names == list(COLUMNS)
    for row, line in zip(found, lines.read_text().splitlines(), strict=True):
        expected = json.loads(line)
        assert json.loads(row.pop("meta")) == expected.pop("meta")
        assert {key: value for key, value in row.items() if value is not None} == {
            key: value for key, value in expected.items() if value is not None
        }


def test_a_card_cannot_be_broken_out_of(db: Database, run: RunRow, tmp_path: Path) -> None:
    export_dataset(db, run, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.to_dict()["configs"] == [
        {"config_name": "eval-test-after", "data_files": [{"split": "test", "path": "data/eval-test-after.parquet"}]}
    ]
    assert "onerror" not in outside_of_code(card.content)
    assert f"| `test:after` | 2 | 2 x 4 | `avg` | {100 * (0.5 + 2 / 3) / 2:.1f}% [" in card.content
    assert yaml.safe_load(card.content.split("yaml\n")[-1].rpartition("````")[0])["name"] == HOSTILE


def outside_of_code(markdown: str) -> str:
    """What a renderer of Markdown would take for anything else than code."""
    rendered = MarkdownIt("commonmark").enable("table").parse(markdown)
    pieces = [child for token in rendered for child in (token.children or [token])]
    return "".join(token.content for token in pieces if token.type not in ("code_inline", "fence", "inline"))


@pytest.mark.parametrize("text", ["`", "``a`", "a|b", "a\nb", "", "```\n</code>", "`x`"])
def test_code_of_anything_is_one_piece(text: str) -> None:
    parsed = MarkdownIt("commonmark").enable("table")
    (*_, cell) = [t for t in parsed.parse(cards.table(("a",), [(cards.code(text),)])) if t.type == "inline"]
    assert [child.content for child in cell.children] == ([" ".join(text.split())] if text else [])
    (block,) = [t for t in parsed.parse(cards.fenced(text)) if t.type == "fence"]
    assert block.content == f"{text}\n" if text else True


def test_a_directory_that_is_there_stays_as_it_is(db: Database, run: RunRow, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="something at this place"):
        export_dataset(db, run, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["README.md"]
    with pytest.raises(UserError, match="writes a directory"):
        export_dataset(db, run, Path("-"))
    assert not list(tmp_path.glob(".scrpo-*"))


# --- the adapter --------------------------------------------------------------------------------------------------

IDS = torch.tensor([[3, 5, 7, 9, 11]])


@pytest.fixture
def policy(recipe: Recipe, run: RunRow) -> Policy:
    """The run's, with its last checkpoint in place."""
    policy = load_policy(recipe.model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    progress = checkpoint.Progress(2, 20, adapter_sha256=policy.adapter_hash())
    optimizer = torch.optim.AdamW(policy.trainable())
    checkpoint.save(Path(run.directory) / "checkpoints", progress, policy, optimizer, keep=2)
    return policy


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def by_transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=torch.float32)
    model.load_adapter(str(folder))
    return model


def by_peft(folder: Path) -> Any:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("load", [by_transformers, by_peft])
def test_the_adapter_loads_as_the_policy(
    db: Database, run: RunRow, policy: Policy, tmp_path: Path, load: Callable[[Path], Any]
) -> None:
    done = export_adapter(db, run, tmp_path / "adapter")
    assert done["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert torch.allclose(logits(load(tmp_path / "adapter")), logits(policy.model), atol=1e-5)
    with policy.model.disable_adapter():
        assert not torch.allclose(logits(load(tmp_path / "adapter")), logits(policy.model), atol=0.1)


def test_the_merged_model_is_the_policy_rounded_as_its_base(
    db: Database, run: RunRow, policy: Policy, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_adapter(db, run, tmp_path / "merged", merge=True)
    assert not list((tmp_path / "merged").glob("adapter*"))
    base, model = (AutoModelForCausalLM.from_pretrained(p) for p in (embedded_model_dir(), tmp_path / "merged"))
    assert model.dtype == base.dtype == torch.bfloat16
    learned = policy.model.merge_and_unload().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, learned[name].bfloat16()), name
    moved = [n for n, weight in base.state_dict().items() if not torch.equal(weight, model.state_dict()[n])]
    assert len(moved) == 7 * base.config.num_hidden_layers
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    said = [{"role": "user", "content": "1+1=?"}]
    texts = [t.apply_chat_template(said, tokenize=False) for t in (tokenizer, policy.tokenizer)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("merge", [False, True])
def test_the_model_card_says_what_it_is(db: Database, run: RunRow, policy: Policy, tmp_path: Path, merge: bool) -> None:
    export_adapter(db, run, tmp_path / "out", merge=merge)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == ("transformers" if merge else "peft")
    assert card.data.base_model is None  # a directory of this machine, which means nothing on a hub
    assert "trained for 2 steps on 20 generated tokens" in card.content
    assert "`repair_rate`" in card.content
    assert "onerror" not in outside_of_code(card.content)
    stored = yaml.safe_load(card.content.split("## Recipe\n\n")[1].split("yaml\n")[1].rpartition("````")[0])
    assert Recipe.model_validate(stored) == load_recipe("tiny").model_copy(update={"name": HOSTILE})


def test_a_base_model_of_the_hub_is_named_with_its_revision(tmp_path: Path, recipe: Recipe) -> None:
    from scrpo_cli.jobs.adapter import CONFIG, WEIGHTS, card_data, usage, write_adapter

    cfg = recipe.model.model_copy(update={"name": "Qwen/Qwen2.5-0.5B", "revision": "abc"})
    (tmp_path / CONFIG).write_text(json.dumps({"r": 8, "revision": None}))
    (tmp_path / WEIGHTS).write_bytes(b"")
    (tmp_path / "new").mkdir()
    write_adapter(cfg, tmp_path, tmp_path / "new")
    assert json.loads((tmp_path / "new" / CONFIG).read_text())["revision"] == "abc"
    assert card_data(cfg.name, merged=False).to_dict()["base_model"] == "Qwen/Qwen2.5-0.5B"
    python, shell = usage(cfg, tmp_path / "new", merged=False)
    assert "from_pretrained('Qwen/Qwen2.5-0.5B', revision='abc')" in python
    assert "vllm serve Qwen/Qwen2.5-0.5B --revision abc --enable-lora --max-lora-rank 8" in shell


def test_a_damaged_checkpoint_is_not_exported(db: Database, run: RunRow, policy: Policy, tmp_path: Path) -> None:
    (file,) = Path(run.directory).rglob("adapter_model.safetensors")
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        export_adapter(db, run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
