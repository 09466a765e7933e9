"""The file that keeps the finished answers of a step that a signal stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrpo_cli.errors import Interrupted, RunError, UserError
from scrpo_cli.rollout.base import RowKey
from scrpo_cli.training import half_step
from scrpo_cli.types import Completion, FinishReason

STAMP = {"step": 3, "adapter_sha256": "ab"}
ANSWERS = {
    RowKey(0, 3, "rollout", 0): Completion([1, 2, 3], [7, 151_935], [-0.1, -1e-45], "a\nü", FinishReason.STOP, 5),
    RowKey(0, 3, "rollout", 2): Completion([4], [9], [-0.3333333432674408], "", FinishReason.LENGTH, 5),
    RowKey(0, 3, "rollout:4", 0): Completion([5, 6], [], [], "", FinishReason.STOP, 5),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    half_step.put_down(tmp_path / half_step.FILE, STAMP, ANSWERS, "")
    return tmp_path / half_step.FILE


def test_answers_come_back_as_they_were(file) -> None:
    assert half_step.take_up(file, lambda: STAMP) == ANSWERS
    assert file.exists(), "a run that is killed before the step is committed takes it up once more"
    assert [path.name for path in file.parent.iterdir()] == [half_step.FILE]


@pytest.mark.parametrize("other", [{"step": 4}, {"adapter_sha256": "cd"}, {"engine": "vllm"}])
def test_answers_of_another_step_or_policy_are_dropped(file, other) -> None:
    assert half_step.take_up(file, lambda: STAMP | other) == {}
    assert not file.exists()


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_file_that_was_cut_off_is_dropped(file, keep) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    assert half_step.take_up(file, lambda: STAMP) == {}
    assert not file.exists()


def test_a_file_in_which_a_byte_changed_is_dropped(file) -> None:
    data = file.read_bytes()
    for place in range(0, len(data), 17):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert half_step.take_up(file, lambda: STAMP) == {}
        assert not file.exists()


def test_where_it_cannot_be_written_nothing_is_left_of_it(tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="could not be kept") as caught:
        half_step.put_down(tmp_path / "taken" / half_step.FILE, STAMP, ANSWERS, "Continue with `x`.")
    assert caught.value.fix == "Free some space. Continue with `x`."


def test_without_a_file_nothing_is_asked_about_the_policy(tmp_path) -> None:
    assert half_step.take_up(tmp_path / half_step.FILE, lambda: pytest.fail("hashed the adapter")) == {}


def stopped_by(error: BaseException, directory: Path, step: int = 3) -> None:
    """A step that knows one answer more before the error ends it."""
    with half_step.keeping(directory, step, stamped, "Continue.", lambda line: None) as answers:
        answers[RowKey(0, step, "rollout", len(answers))] = Completion([1], [2], [-0.5], "a", FinishReason.STOP, 5)
        raise error


def stamped(step: int) -> dict[str, int]:
    return {"step": step}


def taken_up(directory: Path, step: int = 3) -> tuple[int, list[str]]:
    """How many answers a step begins with, and what is said about it."""
    said: list[str] = []
    with half_step.keeping(directory, step, stamped, "Continue.", said.append) as answers:
        return len(answers), said


def test_a_signal_and_an_engine_that_fails_leave_the_answers_to_the_next_start(tmp_path) -> None:
    assert taken_up(tmp_path) == (0, [])
    with pytest.raises(Interrupted, match="Stopped in step 3: 1 finished answers of it are kept") as caught:
        stopped_by(KeyboardInterrupt(), tmp_path)
    assert (caught.value.where, caught.value.fix) == (str(tmp_path), "Continue.")
    with pytest.raises(RunError, match="the engine is gone"):
        stopped_by(RunError("the engine is gone"), tmp_path)
    assert taken_up(tmp_path) == (2, ["Step 3 goes on with the 2 answers that it had when it was stopped."])
    half_step.drop(tmp_path)
    half_step.drop(tmp_path)
    assert taken_up(tmp_path) == (0, [])


def test_a_mistake_of_the_user_keeps_nothing_and_another_step_takes_nothing_up(tmp_path) -> None:
    with pytest.raises(UserError):
        stopped_by(UserError("no such problem"), tmp_path)
    assert taken_up(tmp_path) == (0, [])
    with pytest.raises(Interrupted):
        stopped_by(KeyboardInterrupt(), tmp_path)
    assert taken_up(tmp_path, step=4) == (0, [])


def test_an_error_is_said_though_the_answers_cannot_be_kept(tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="the engine is gone"):
        stopped_by(RunError("the engine is gone"), tmp_path / "taken")
    with pytest.raises(RunError, match="could not be kept"):
        stopped_by(KeyboardInterrupt(), tmp_path / "taken")
