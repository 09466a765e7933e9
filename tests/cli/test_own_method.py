"""A method from outside the package: the very file that docs/plugins.md shows, through the real command line."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from processes import SignalAt, small
from run_rows import all_rows, assert_same_rows, execute, lines

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe

PAGE = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
SHOWN = dict(re.findall(r"^`(verify\.\w+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
SIZES = small(
    optim__steps=4,
    checkpoint__every=2,
    optim__max_generated_tokens="null",
    rollout__max_tokens=48,
    eval__repair="false",
)
TRAIN = ("train", "-r", "verify.yaml", "--json", *SIZES)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in SHOWN.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_page_shows_a_method_and_its_recipe() -> None:
    assert {*SHOWN} == {"verify.py", "verify.yaml"}


def test_its_section_is_checked_like_any_other(files: Path) -> None:
    assert load_recipe(files / "verify.yaml").method.verify_prompt.startswith("Is it right")
    for key, message in (("revise_promt", "Unknown key"), ("clip.kind", "should be 'ppo'")):
        with pytest.raises(UserError, match=message) as refused:
            load_recipe(files / "verify.yaml", [f"method.{key}=x"])
        assert refused.value.where == f"--set method.{key}=x"
    with pytest.raises(UserError, match=r"rollout\.group_size must be 2 or more"):
        load_recipe(files / "verify.yaml", ["rollout.group_size=1"])


def test_the_dry_run_promises_what_training_then_keeps(files: Path, scrpo_process) -> None:
    dry = scrpo_process(*TRAIN, "--dry-run")
    assert dry.code == 0, dry.err
    budget = dry.json["budget"]
    assert (budget["rollouts_per_step"], budget["turns"]) == ({"verify": 3 * 4 * 4}, 2)
    done = scrpo_process(*TRAIN)
    assert done.code == 0, done.err
    assert 0 < done.json["generated_tokens"] <= budget["generated_tokens"]
    by_step = "SELECT count(*) n, max(n_prompt_tokens) l FROM attempt WHERE phase = 'verify' GROUP BY step"
    ((most, longest),) = execute(files, f"SELECT max(n), max(l) FROM ({by_step})")
    assert 32 < most <= 48
    assert longest + 48 <= budget["context"]


def test_second_turns_are_measured_and_a_killed_run_ends_like_an_undisturbed_one(files: Path, scrpo_process) -> None:
    whole, broken = files / "whole", files / "broken"
    recipe = [str(files / "verify.yaml") if word == "verify.yaml" else word for word in TRAIN]
    for directory in (whole, broken):
        directory.mkdir()
    assert scrpo_process(*recipe, directory=whole).code == 0
    kill = SignalAt("scrpo_cli.training.update:Updater.step", 3, "after")
    assert scrpo_process(*recipe, directory=broken, hooks=(kill,)).code == -signal.SIGKILL
    resumed = scrpo_process("train", "--resume", "last", directory=broken)
    assert resumed.code == 0, resumed.err
    assert_same_rows(all_rows(broken), all_rows(whole))
    (run,) = (whole / ".scrpo/runs").iterdir()
    steps = [row for row in lines(run / "metrics.jsonl") if "verify/tokens" in row]
    assert len(steps) == 4
    assert all({"turns/t1", "turns/t2", "turns/i2c", "turns/wrong", "warn/no_signal"} <= row.keys() for row in steps)


def test_a_conversation_that_does_not_fit_the_model_is_refused_before_anything_is_sampled(files: Path, scrpo_process):
    refused = scrpo_process(*TRAIN, "--set", "rollout.max_tokens=1000")
    assert refused.code == 2
    assert "positions" in refused.err
    assert execute(files, "SELECT count(*) FROM attempt") == [(0,)]


def test_a_method_is_held_to_what_it_says(files: Path, scrpo_process) -> None:
    promised = "3 * setting.first_rollouts"
    (files / "verify.py").write_text(SHOWN["verify.py"].replace(promised, "2 * setting.first_rollouts"))
    stopped = scrpo_process(*TRAIN)
    assert stopped.code == 1
    assert "it said 32 at most" in stopped.err
    (files / "verify.py").write_text(SHOWN["verify.py"].replace('Plan("verify"', 'Plan("other"'))
    stopped = scrpo_process(*TRAIN)
    assert (stopped.code, "a step 'other' that its needs do not name" in stopped.err) == (1, True)


def test_what_is_no_method_is_said(files: Path) -> None:
    for thing, message in (("VerifyConfig", "is no method"), ("Verifi", "has no 'Verifi'"), ("reward", "is no method")):
        with pytest.raises(UserError, match=message):
            load_recipe(files / "verify.yaml", [f"method.name={files}/verify.py:{thing}"])
