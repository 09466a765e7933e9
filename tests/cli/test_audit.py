"""`scrpo audit` on the embedded model: which answers it compares, and that it can be interrupted."""

import math
from itertools import chain

import numpy as np
import pytest
from processes import SignalAt, small
from run_rows import execute

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.audit import COMPARED, CONDITIONS, Condition, audit
from scrpo_cli.evaluation.outcomes import padded
from scrpo_cli.evaluation.paired import compare, holm
from scrpo_cli.jobs.audit import half, shown_errors
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import ModelConfig
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.training.policy import load_tokenizer
from scrpo_cli.training.runtime import open_runtime
from scrpo_cli.types import SampleRequest

LINE = ("audit", "--problems", 6, *small(rollout__max_tokens=128))
MARKER = "Corrected Solution:"


@pytest.fixture
def audited(scrpo_process):
    outcome = scrpo_process(*LINE, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def attempts(tmp_path, run):
    """Stored attempts of a run by condition."""
    found = {}
    with Database.open(str(tmp_path / ".scrpo" / "scrpo.db")) as db:
        for attempt in attempts_of(db, run):
            found.setdefault(attempt.part, []).append(attempt)
    return found


def test_the_conditions_differ_in_what_they_say(audited, tmp_path):
    found = attempts(tmp_path, audited["run"])
    assert [*audited["conditions"]] == [*CONDITIONS]
    errors, samples = audited["errors"], 4
    assert all(len(found[part]) == errors * samples for part in CONDITIONS)
    assert {a.kind.value for part in CONDITIONS for a in found[part]} == {"first", "correction"}
    assert {a.kind.value for a in found["retry"]} == {"first"}
    own = {}
    for attempt in found["own"]:
        own.setdefault(attempt.problem.id, []).append(attempt)
    prompts = {a.problem.id: a.completion.prompt_ids for a in found["own"]}
    for part in ("again", "cut", "wait", "foreign"):
        for attempt in found[part]:
            prompt = prompts[attempt.problem.id]
            assert attempt.completion.prompt_ids[: len(prompt)] == prompt, "the conversation is the same"
            assert attempt.parent == own[attempt.problem.id][0].parent
    texts = {part: texts_given(found[part], prompts) for part in ("again", "cut", "wait", "foreign")}
    for problem, answers in own.items():
        reflections = sorted(a.completion.text.split(MARKER)[0] for a in answers if MARKER in a.completion.text)
        assert [t for t in texts["again"][problem] if t.split(MARKER)[0] in reflections], texts["again"][problem]
        assert {*texts["wait"][problem]} == {f"Analysis:\nWait\n{MARKER}"}
        assert all(len(c) <= len(a) for c, a in zip(texts["cut"][problem], texts["again"][problem], strict=True))
        assert not {*texts["foreign"][problem]} & {*texts["again"][problem]}
    assert sorted(chain(*texts["foreign"].values())) == sorted(chain(*texts["again"].values()))
    shown = {a.problem.id: a.completion.prompt_ids for a in found["other"]}
    assert all(shown[problem] != prompts[problem] for problem in own)


def texts_given(answers, prompts):
    tokenizer = load_tokenizer(ModelConfig())
    found = {}
    for attempt in sorted(answers, key=lambda a: (a.problem.id, [int(w) for w in a.id.split(":") if w.isdigit()])):
        begun = attempt.completion.prompt_ids[len(prompts[attempt.problem.id]) :]
        found.setdefault(attempt.problem.id, []).append(tokenizer.decode(begun))
    return found


def test_the_numbers_are_those_of_the_stored_attempts(audited, tmp_path):
    found = attempts(tmp_path, audited["run"])
    for part, number in audited["conditions"].items():
        assert number["right"]["value"] == pytest.approx(np.mean([a.reward for a in found[part]]))
    lengths = [len(a.completion.ids) for a in found["own"]]
    assert audited["conditions"]["own"]["tokens"] == pytest.approx(np.mean(lengths))
    prompts = {a.problem.id: len(a.completion.prompt_ids) for a in found["own"]}
    lengths = [len(a.completion.ids) + len(a.completion.prompt_ids) - prompts[a.problem.id] for a in found["again"]]
    assert audited["conditions"]["again"]["tokens"] == pytest.approx(np.mean(lengths))


def test_a_killed_audit_goes_on_to_the_same_numbers(scrpo_process, audited, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    hooks = [SignalAt("scrpo_cli.jobs.advise:record_step", 6, "after")]
    assert scrpo_process(*LINE, hooks=hooks, directory=other).code == -9
    resumed = scrpo_process("audit", "--resume", "last", "--json", directory=other)
    assert resumed.code == 0, resumed.err
    names = ("errors", "conditions", "compared")
    assert {name: resumed.json[name] for name in names} == {name: audited[name] for name in names}
    assert len(execute(other, "SELECT id FROM run")) == 1


def test_without_two_errors_there_is_nothing_to_compare():
    with open_runtime(load_recipe("tiny")) as runtime, pytest.raises(UserError, match="errors of several problems"):
        shown_errors(runtime, [])


def test_pairs_are_compared_and_corrected_together():
    rng = np.random.default_rng(0)
    found = {
        name: Condition((rng.random((30, 4)) < 0.2 + 0.1 * i).astype(float), np.full((30, 4), 10.0 + i))
        for i, name in enumerate(CONDITIONS)
    }
    found["cut"].outcome_NK[3, 1] = math.nan
    said = audit(found)
    assert said["errors"] == 30
    assert said["conditions"]["own"]["tokens"] == 10
    assert said["conditions"]["own"]["per_1000_tokens"]["value"] == pytest.approx(100 * found["own"].outcome_NK.mean())
    alone = [compare(found[second].outcome_NK, found[first].outcome_NK) for first, second in COMPARED]
    assert [row["difference"] for row in said["compared"]] == [row["difference"] for row in alone]
    assert [row["p_holm"] for row in said["compared"]] == holm([row["p"] for row in alone])
    assert all(row["told"] == (row["p_holm"] < 0.05) for row in said["compared"])


def test_what_equal_tokens_buy():
    """The dearer condition is right more often, and the cheaper one buys more: by hand, and by a bootstrap."""
    rng = np.random.default_rng(1)
    n = 400
    own = Condition((rng.random((n, 4)) < 0.6).astype(float), rng.integers(90, 111, (n, 4)).astype(float))
    retry = Condition((rng.random((n, 4)) < 0.4).astype(float), rng.integers(35, 46, (n, 4)).astype(float))
    said = audit(dict.fromkeys(CONDITIONS, own) | {"retry": retry})
    row = next(row for row in said["compared"] if (row["first"], row["second"]) == ("own", "retry"))
    assert row["difference"] > 0
    assert row["told"]
    number = row["per_1000_tokens"]
    own_rate, retry_rate = (1000 * c.outcome_NK.sum() / c.tokens_NK.sum() for c in (own, retry))
    assert (number["b"], number["a"]) == pytest.approx((own_rate, retry_rate))
    assert number["difference"] == pytest.approx(own_rate - retry_rate)
    assert number["difference"] < 0
    assert number["told"]
    drawn = rng.integers(0, n, (2000, n))
    rates = [1000 * c.outcome_NK.sum(1)[drawn].sum(1) / c.tokens_NK.sum(1)[drawn].sum(1) for c in (own, retry)]
    for ci95, values in [
        (number["ci95"], rates[0] - rates[1]),
        (said["conditions"]["own"]["per_1000_tokens"]["ci95"], rates[0]),
        (said["conditions"]["retry"]["per_1000_tokens"]["ci95"], rates[1]),
    ]:
        assert ci95 == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=0.03)
    same = said["compared"][0]["per_1000_tokens"]  # again - own, the same numbers here
    assert (same["difference"], same["told"]) == (0, False)


def test_a_condition_that_is_never_right_has_a_rate_of_0_and_an_end():
    found = {name: Condition(np.zeros((50, 4)), np.full((50, 4), 20.0)) for name in CONDITIONS}
    number = audit(found)["conditions"]["own"]["per_1000_tokens"]
    assert number["value"] == number["ci95"][0] == 0
    assert 0 < number["ci95"][1] < 50


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (f"Analysis:\na\nb\nc\n{MARKER}", f"Analysis:\na\n{MARKER}"),
        (f"Analysis:\na\nb\n{MARKER}", f"Analysis:\na\n{MARKER}"),
        (f"one two three four {MARKER}", f"one two\n{MARKER}"),
        (MARKER, MARKER),
    ],
)
def test_half_of_a_reflection(text, cut):
    assert half(text, MARKER) == cut


def test_rows_of_different_lengths():
    found = padded([[1, 0], [1]])
    assert found.shape == (2, 2)
    assert np.isnan(found[1, 1])


def test_what_is_given_of_an_answer_stands_in_the_prompt():
    chat = Chat(load_tokenizer(ModelConfig()))
    problem = object()
    messages = [{"role": "user", "content": "47+38=?"}]
    plain = chat.prompt(SampleRequest(problem, messages, 1))
    begun = chat.prompt(SampleRequest(problem, messages, 1, begun="Analysis:\n"))
    assert begun[: len(plain)] == plain
    assert chat.tokenizer.decode(begun[len(plain) :]) == "Analysis:\n"
