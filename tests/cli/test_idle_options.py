"""Options of which nothing would come are refused."""

from __future__ import annotations

import pytest

from scrpo_cli.cli.app import COMMANDS, load_command
from scrpo_cli.cli.common import MAY_BE_EMPTY

NEEDS = [
    ("collect --filter", "--filter", "--from-jsonl"),
    ("collect --map a=b", "--map", "--from-jsonl"),
    ("grade --gold 1 --answer 1 --format jsonl", "--format", "--from-jsonl"),
    ("eval --format lm-eval", "--format", "--from-jsonl"),
    ("eval --second-turn retry", "--second-turn", "--turns 2"),
    ("eval --turns 1 --second-turn check", "--second-turn", "--turns 2"),
    ("eval --gate-threshold 0.5", "--gate-threshold", "--gate"),
    ("eval --turns 2 --gate none --gate-threshold never", "--gate-threshold", "--gate"),
    ("correct --gate-threshold 0.5", "--gate-threshold", "--gate"),
    ("power --problems 9 --against last", "--against", "--from-run"),
    ("train --from-checkpoint 0", "--from-checkpoint", "--resume"),
    ("power --problems 9 --benchmark x", "--benchmark", "--from-run"),
]


@pytest.mark.parametrize(("args", "option", "needed"), NEEDS, ids=[args for args, *_ in NEEDS])
def test_an_option_that_needs_another(scrpo, tmp_path, args, option, needed) -> None:
    outcome = scrpo(*args.split(), "--json")
    assert (outcome.code, outcome.json["error"]["what"]) == (2, f"{option} has no effect without {needed}.")
    assert outcome.json["error"]["fix"] == f"Add {needed}, or leave out {option}."


BESIDE = [
    ("collect --from-jsonl x --adapter y", "--adapter", "--from-jsonl"),
    ("eval --from-jsonl x --second-turn retry --limit 3", "--second-turn, --limit", "--from-jsonl"),
    ("eval --run x --adapter y", "--adapter", "--run"),
    ("eval --list --benchmarks gsm8k", "--benchmarks", "--list"),
    ("power --problems 9 --from-run x --accuracy 40", "--accuracy", "--from-run"),
    ("power --problems 9 --from-run x --against y --correlation 0", "--correlation", "--against"),
]


@pytest.mark.parametrize(("args", "idle", "option"), BESIDE, ids=[args for args, *_ in BESIDE])
def test_an_option_that_has_no_effect_beside_another(scrpo, args, idle, option) -> None:
    error = scrpo(*args.split(), "--json").json["error"]
    assert (error["exit_code"], error["where"]) == (2, option)
    assert error["what"].startswith(f"{idle}: ")


TWICE = [
    ("train --seed 1 --set seed=2 --dry-run", "--seed", "seed"),
    ("collect --limit 3 --set task.train.limit=4 --set model.name=./none", "--limit", "task.train.limit"),
    ("eval --set eval.turns=2 --turns 1 --set model.name=./none", "--turns", "eval.turns"),
    (
        "eval --benchmarks tiny --set eval.benchmarks=[math500] --set model.name=./none",
        "--benchmarks",
        "eval.benchmarks",
    ),
    ("correct --adapter x --set model.adapter=y --set model.name=./none", "--adapter", "model.adapter"),
]


@pytest.mark.parametrize(("args", "option", "key"), TWICE, ids=[option for _, option, _ in TWICE])
def test_an_option_goes_before_its_key_and_that_is_said(scrpo, args, option, key) -> None:
    said = f"--set {key} has no effect: {option} goes before it\n"
    assert scrpo(*args.split()).err.count(said) == 1
    assert said not in scrpo(*args.split(), "--quiet").err


@pytest.mark.parametrize("key", ["optim.lr", "checkpoint.every", "monitors.window"])
def test_keys_of_training_have_no_effect_on_an_evaluation_and_that_is_said(scrpo, key) -> None:
    args = f"eval --set {key}=1 --set rollout.batch_size=2 --set model.name=./none".split()
    said = "has no effect: an evaluation trains nothing\n"
    assert scrpo(*args).err.count(said) == 1
    assert f"--set {key} {said}" in scrpo(*args).err
    assert said not in scrpo(*args, "--quiet").err


def test_a_key_that_is_varied_and_set(scrpo) -> None:
    error = scrpo(*["ablate", "--vary", "optim.lr=1e-3,2e-3", "--set", "optim.lr=1e-4", "--json"]).json["error"]
    assert error["what"] == "--set optim.lr has no effect: the key is varied"


def options() -> list[tuple[list[str], str]]:
    """Every option that takes a value: the words of its command, and its longest name."""
    found = []
    for name in COMMANDS:
        command = load_command(name)
        parts = getattr(command, "commands", None)
        for words, each in [([name, sub], c) for sub, c in parts.items()] if parts else [([name], command)]:
            taken = [p for p in each.params if p.param_type_name == "option" and not getattr(p, "is_flag", False)]
            found += [(words, max(p.opts, key=len)) for p in taken]
    return found


@pytest.mark.parametrize("form", ["two words", "one word", "blank"])
def test_an_empty_value_is_never_taken_for_none(scrpo, tmp_path, form) -> None:
    """`--adapter "$ADAPTER"`, and the variable is not set: the bare model would be evaluated."""
    found = [(words, option) for words, option in options() if option not in MAY_BE_EMPTY]
    assert len(found) > 60
    for words, option in found:
        value = {"two words": [option, ""], "one word": [f"{option}="], "blank": [option, " "]}[form]
        outcome = scrpo(*words, *value)
        assert (outcome.code, outcome.err.splitlines()[0]) == (2, f"Error: {option} is empty.")
    assert not list(tmp_path.iterdir())


def test_what_may_be_empty(scrpo) -> None:
    assert scrpo("grade", "--gold", "1", "--answer", "").out == "wrong\n"
    assert scrpo("recipe", "show", "tiny", "--set", "tracking.wandb.entity=").code == 0
    assert scrpo("runs", "show", "").err.startswith("Error: An argument is empty.")


def test_a_status_that_no_run_has_is_answered_with_all_of_them(scrpo) -> None:
    assert scrpo("runs", "ls", "--status", "kiled").err.endswith(
        "Did you mean 'killed'? It is one of running, done, failed, interrupted, killed.\n"
    )


NAMES = [
    ("runs ls --status finished", "There is no status 'finished'"),
    ("runs ls --sweep nosuch", "There is no sweep 'nosuch'"),
    ("pool ls --source nosuch", "There are no problems of 'nosuch'"),
    ("runs ls --limit 99999999999999999999", "Invalid value for '--limit'"),
    ("pool ls --limit 99999999999999999999", "Invalid value for '--limit'"),
    ("pool prune --older-than-steps 99999999999999999999", "Invalid value for '--older-than-steps'"),
]


@pytest.mark.parametrize(("args", "says"), NAMES, ids=[args for args, _ in NAMES])
def test_what_nothing_can_match_is_no_empty_answer(scrpo, tmp_path, args, says) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "problem": "1+1=?", "answer": "2", "response": "3"}\n')
    scrpo("collect", "--from-jsonl", "rows.jsonl")
    outcome = scrpo(*args.split())
    assert (outcome.code, outcome.err.startswith(f"Error: {says}")) == (2, True)
