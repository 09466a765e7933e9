"""The file that keeps the finished answers of a step that a signal stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrpo_cli.errors import RunError
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
