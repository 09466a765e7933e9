"""Killable grading: deadlines, order, cache, and what a bad item costs."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import psutil
import pytest
import troubled

from scrpo_cli.tasks import base
from scrpo_cli.tasks.grading import workers
from scrpo_cli.tasks.grading.workers import Judge, Judgement, Question
from scrpo_cli.types import Verdict

ALGEBRA = [Question(f"x^2+{i}", f"{i + i % 2}+x^2") for i in range(12)]
EXPECTED = [Verdict.WRONG if i % 2 else Verdict.CORRECT for i in range(12)]


def verdicts(judge: Judge, questions: list[Question]) -> list[Verdict]:
    return [judgement.verdict for judgement in judge(questions)]


@pytest.fixture(scope="module")
def judge():
    with_two = Judge(workers=2, deadline_s=2)
    yield with_two
    with_two.close()


@pytest.fixture(scope="module")
def patient():
    """For answers that take their time and end: with a deadline that a busy machine does not reach."""
    with_one = Judge(workers=1, deadline_s=60)
    yield with_one
    with_one.close()


def test_one_and_two_workers_agree_in_order(judge):
    one = Judge(workers=1)
    try:
        assert verdicts(one, ALGEBRA) == verdicts(judge, ALGEBRA) == EXPECTED
    finally:
        one.close()


@pytest.mark.parametrize("pred", ["9^{9^{9^{9}}}", "100000000!+\\sqrt{2}", "\\log_2(3^{10^8})", "-" * 900 + "1"])
def test_a_pathological_answer_costs_itself_alone(judge, pred):
    easy, hard = Question("1", "1"), Question("y^2+1", "1+y^2")
    asked = [easy, Question("5!+\\sqrt{2}", pred), hard]
    assert verdicts(judge, asked) == [Verdict.CORRECT, Verdict.TIMEOUT, Verdict.CORRECT]


@pytest.mark.parametrize(
    "pred",
    [
        "10^10^10",
        "\ud800\udfff\x00",
        "\\frac",
        "\\sum_{k=1}^{10^{9}} k",
        "\\begin{pmatrix}" + " & ".join(["x"] * 200) + "\\end{pmatrix}",
        "1.5^{100000000}",
    ],
)
def test_odd_answers_are_wrong_answers(patient, pred):
    assert verdicts(patient, [Question("42", pred)]) == [Verdict.WRONG]


@pytest.mark.parametrize(
    ("pred", "reason"),
    [
        ("x" * 50_000, "longer than any answer: 50000 characters"),
        ("{" * 1_000_000, "longer than any answer: 1000000 characters"),
        ("{" * 900, "nested deeper than any answer: 900 brackets"),
        ("\\sqrt{" * 120 + "2" + "}" * 120, "nested deeper than any answer: 120 brackets"),
        ("(" * 11 + "1" + ")" * 11, "nested deeper than any answer: 11 brackets"),
    ],
)
def test_a_runaway_answer_is_wrong_without_a_worker_on_every_machine(pred, reason):
    judge = Judge(workers=1)
    assert judge([Question("42", pred)]) == [Judgement(Verdict.WRONG, reason)]
    assert judge.processes._pool is None


def test_a_deep_reference_allows_deep_answers(judge):
    deep = "(" * 12 + "x" + ")" * 12
    assert verdicts(judge, [Question(deep, f" {deep}"), Question(deep, f"({deep})")]) == [
        Verdict.CORRECT,
        Verdict.WRONG,
    ]


def test_plain_answers_never_start_a_worker():
    judge = Judge(workers=1)
    plain = [Question("18", "18"), Question("18", "19"), Question("\\frac12", "0.5"), Question("", "1")]
    assert verdicts(judge, plain) == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.GRADER_ERROR]
    assert judge.processes._pool is None


def test_workers_that_die_between_two_batches_are_replaced():
    """pebble gives up its whole pool then; the first such run ended with an error."""
    judge = Judge(workers=2)
    hard = Question("\\sqrt{12}+x", "2\\sqrt{3}+x")
    assert verdicts(judge, [hard]) == [Verdict.CORRECT]
    for child in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()  # not waited for: that is the pool's
    time.sleep(1)  # until the pool has seen it
    assert verdicts(judge, [Question("\\sqrt{8}+x", "2\\sqrt{2}+x"), Question("x", "y+1")]) == [
        Verdict.CORRECT,
        Verdict.WRONG,
    ]
    judge.close()


def test_an_unreadable_gold_is_an_error_with_a_reason(judge):
    (judgement,) = judge([Question("t(0,4]", "5")])
    assert judgement.verdict is Verdict.GRADER_ERROR
    assert judgement.reason == "the reference answer cannot be read: 't(0,4]'"


def test_judgements_are_remembered_by_content(judge, monkeypatch):
    asked = [Question("z^2+1", "1+z^2"), Question("z^2+1", "1+z^2")]
    first = judge(asked)
    monkeypatch.setattr(judge, "_judge_hard", lambda questions: [pytest.fail("asked again")] if questions else [])
    assert judge(asked) == first
    with pytest.raises(pytest.fail.Exception):
        judge([Question("z^2+1", "1+z^2", workers.Rules(unordered=True))])


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(base, "CACHE_ITEMS", 3)
    judge = Judge(workers=1)
    workers.remember(judge._cache, {question: Judgement(Verdict.WRONG) for question in ALGEBRA})
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


@pytest.fixture
def trouble(monkeypatch):
    """A judge whose workers really die, hang and run out of memory, as the answers of tests/troubled.py say."""
    monkeypatch.setattr(workers, "judge_hard", troubled.judge_hard)
    monkeypatch.setattr(workers, "read_reference", troubled.read_reference)
    judge = Judge(workers=2, deadline_s=4)  # longer than a dead process may go unnoticed on a busy machine
    yield judge
    judge.close()


def test_an_answer_that_kills_its_worker_is_no_error_that_would_be_left_out(trouble):
    """Else a policy could learn to crash its grader. The worker is replaced, and the others' answers are judged."""
    judged = trouble([Question("x", pred) for pred in ("y", "die", "hang", "memory", "recursion", "bug", "z")])
    assert [str(j.verdict) for j in judged] == ["wrong", "timeout", "timeout", "timeout", "timeout", "wrong", "wrong"]
    assert [j.reason for j in judged] == [
        None,
        "comparing ended its process (exit code 9), which may have run out of memory",
        "comparing took longer than 4 s",
        "comparing took more than 4 GiB",
        "comparing went too deep",
        "the answer cannot be compared: ZeroDivisionError: bug",
        None,
    ]
    assert all(Question("x", pred) in trouble._cache for pred in ("die", "hang", "memory"))  # not asked again


def test_a_reference_that_fails_by_itself_is_an_error(trouble):
    judged = trouble([Question(gold, "y") for gold in ("die^2", "hang^2", "unreadable^2")])
    assert [j.verdict for j in judged] == [Verdict.GRADER_ERROR] * 3
    assert "exit code 9" in (judged[0].reason or "")
    assert "longer than 4 s" in (judged[1].reason or "")
    assert trouble([Question("hang^2", answer) for answer in ("hang^2", "2", "", "die")]) == [judged[1]] * 4


def test_a_worker_killed_for_anothers_sake_costs_nothing(trouble, tmp_path):
    """As when the system needs its memory: the answer is asked again and gets its verdict."""
    once = Question("x", f"once:{tmp_path / 'died'}")
    assert [str(j.verdict) for j in trouble([once, Question("x", "y")])] == ["correct", "wrong"]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_10_000_answers_with_one_in_a_hundred_that_hang_finish_in_bounded_time():
    """Exactly the hangers are timeouts, each costs its deadline and a new worker, and the others cost what they do."""
    deadline, count = 2.0, 2
    judge = Judge(workers=count, deadline_s=deadline)
    hanging = [Question("42", f"{i}^{{9^{{9^{{9}}}}}}") for i in range(2, 102)]
    numbers = [Question(f"{i}", f"{i + i % 2}.0") for i in range(8_900)]
    others = numbers + [Question(f"x^2+{i}", f"{i + i % 2}+x^2") for i in range(1_000)]
    asked = hanging + others
    random.Random(0).shuffle(asked)
    start = time.monotonic()
    judged = judge(asked)
    seconds = time.monotonic() - start
    assert {q for q, j in zip(asked, judged) if j.verdict is Verdict.TIMEOUT} == set(hanging)
    right = set(others[::2])
    assert {q for q, j in zip(asked, judged) if j.verdict is Verdict.CORRECT} == right
    assert seconds < len(hanging) * (deadline + 10) / count + 300
    assert judge(asked) == judged  # remembered: no deadline is paid twice
    judge.close()
