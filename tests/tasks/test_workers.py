"""Killable grading: deadlines, order, cache, and what a bad item costs."""

from __future__ import annotations

import subprocess
import sys
import threading

import psutil
import pytest

from scrpo_cli.tasks.grading import workers
from scrpo_cli.tasks.grading.workers import Judge, Judgement, Question
from scrpo_cli.types import Verdict

ALGEBRA = [Question(f"x^2+{i}", f"{i + i % 2}+x^2") for i in range(12)]
EXPECTED = [Verdict.WRONG if i % 2 else Verdict.CORRECT for i in range(12)]
HOPELESS = Question("42", "9^{9^{9^{9}}}")


def verdicts(judge: Judge, questions: list[Question]) -> list[Verdict]:
    return [judgement.verdict for judgement in judge(questions)]


@pytest.fixture(scope="module")
def judge():
    with_two = Judge(workers=2, deadline_s=2)
    yield with_two
    with_two.close()


def test_one_and_two_workers_agree_in_order(judge):
    one = Judge(workers=1)
    try:
        assert verdicts(one, ALGEBRA) == verdicts(judge, ALGEBRA) == EXPECTED
    finally:
        one.close()


@pytest.mark.parametrize("pred", ["9^{9^{9^{9}}}", "100000000!", "{" * 9_000, "\\sqrt{" * 900 + "2" + "}" * 900])
def test_a_pathological_answer_costs_itself_alone(judge, pred):
    easy, hard = Question("1", "1"), Question("y^2+1", "1+y^2")
    before, verdict, after = verdicts(judge, [easy, Question("42", pred), hard])
    assert (before, after) == (Verdict.CORRECT, Verdict.CORRECT)
    # deep nesting ends by the deadline or by the parser's own recursion limit, whichever the machine reaches first
    assert verdict in ((Verdict.TIMEOUT, Verdict.WRONG) if "sqrt" in pred else (Verdict.TIMEOUT,))


@pytest.mark.parametrize("pred", ["10^10^10", "\ud800\udfff\x00", "((((((", "\\frac", "\\sum_{k=1}^{10^{9}} k"])
def test_odd_answers_are_wrong_answers(judge, pred):
    assert verdicts(judge, [Question("42", pred)]) == [Verdict.WRONG]


@pytest.mark.parametrize("pred", ["x" * 50_000, "{" * 1_000_000])
def test_a_runaway_box_is_wrong_without_a_worker(pred):
    judge = Judge(workers=1)
    assert verdicts(judge, [Question("42", pred)]) == [Verdict.WRONG]
    assert judge._pool is None


def test_plain_answers_never_start_a_worker():
    judge = Judge(workers=1)
    plain = [Question("18", "18"), Question("18", "19"), Question("\\frac12", "0.5"), Question("", "1")]
    assert verdicts(judge, plain) == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.ERROR]
    assert judge._pool is None


def test_an_unreadable_gold_is_an_error_with_a_reason(judge):
    (judgement,) = judge([Question("t(0,4]", "5")])
    assert judgement.verdict is Verdict.ERROR
    assert "cannot read the reference answer" in (judgement.reason or "")


def test_judgements_are_remembered_by_content(judge, monkeypatch):
    asked = [Question("z^2+1", "1+z^2"), Question("z^2+1", "1+z^2")]
    first = judge(asked)
    monkeypatch.setattr(judge, "_judge_hard", lambda questions: [pytest.fail("asked again")] if questions else [])
    assert judge(asked) == first
    with pytest.raises(pytest.fail.Exception):
        judge([Question("z^2+1", "1+z^2", workers.Rules(unordered=True))])


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(workers, "CACHE_ITEMS", 3)
    judge = Judge(workers=1)
    judge._remember({question: Judgement(Verdict.WRONG) for question in ALGEBRA})
    assert list(judge._cache) == ALGEBRA[-3:]


def test_it_works_from_threads(judge):
    found: dict[int, list[Verdict]] = {}

    def work(i: int) -> None:
        found[i] = verdicts(judge, [Question(f"w^{i}+1", f"1+w^{i}"), Question(f"w^{i}+1", "w")])

    threads = [threading.Thread(target=work, args=(i,)) for i in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [Verdict.CORRECT, Verdict.WRONG] for i in (3, 4, 5)}


def test_a_closed_judge_starts_again():
    judge = Judge(workers=1)
    assert verdicts(judge, ALGEBRA[:1]) == EXPECTED[:1]
    judge.close()
    judge.close()
    assert verdicts(judge, [Question("v+1", "1+v")]) == [Verdict.CORRECT]
    judge.close()


def test_workers_that_cannot_start_are_a_run_error(tmp_path):
    """A script without a main guard: its spawned workers die, and it is told why instead of waiting forever."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from scrpo_cli.tasks.grading.workers import Judge, Question\nJudge(workers=1)([Question('x+1', '1+x')])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "RunError: the grading processes cannot start" in done.stderr


def test_a_worker_that_dies_costs_its_item_and_is_replaced():
    """As when the kernel kills it for its memory: an error with its reason, not remembered, and work goes on."""
    before = set(psutil.Process().children())
    judge = Judge(workers=1, deadline_s=120)
    assert verdicts(judge, ALGEBRA[:1]) == EXPECTED[:1]
    (worker,) = (p for p in set(psutil.Process().children()) - before if "spawn_main" in " ".join(p.cmdline()))
    found: list[Judgement] = []
    asking = threading.Thread(target=lambda: found.extend(judge([HOPELESS])))
    asking.start()
    while worker.cpu_times().user < 3:  # the item is running: nothing else keeps the worker busy
        asking.join(0.1)
    worker.kill()
    asking.join()
    assert found[0].verdict is Verdict.ERROR
    assert "ProcessExpired" in (found[0].reason or "")
    assert HOPELESS not in judge._cache
    assert verdicts(judge, [Question("u+1", "1+u")]) == [Verdict.CORRECT]
    judge.close()
