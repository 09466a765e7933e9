import json

import pytest

from scrpo_cli.errors import RunError
from scrpo_cli.tracking.jsonl import FILE_NAME, JsonlSink, read_metrics


def write_steps(run_dir, steps, resume_step=None):
    sink = JsonlSink(run_dir, resume_step)
    for step in steps:
        sink.log(step, {"first/reward": step / 10})
    sink.finish({}, failed=False)


def steps_of(run_dir):
    return [row["step"] for row in read_metrics(run_dir)]


def test_one_object_a_step(tmp_path):
    write_steps(tmp_path / "run", [1, 2])
    rows = [json.loads(line) for line in (tmp_path / "run" / FILE_NAME).read_text().splitlines()]
    assert [(row["step"], row["first/reward"]) for row in rows] == [(1, 0.1), (2, 0.2)]


def test_a_step_is_readable_at_once(tmp_path):
    sink = JsonlSink(tmp_path, None)
    sink.log(1, {"first/reward": 0.5})
    assert steps_of(tmp_path) == [1]  # the sink is still open


def test_not_a_number_becomes_null(tmp_path):
    JsonlSink(tmp_path, None).log(1, {"train/kl": float("nan"), "train/loss": float("inf")})
    assert json.loads((tmp_path / FILE_NAME).read_text(), parse_constant=pytest.fail)["train/kl"] is None


def test_resume_drops_what_lies_beyond_the_checkpoint(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, [5, 6], resume_step=4)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_resume_before_the_first_checkpoint_starts_over(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [1], resume_step=0)
    assert steps_of(tmp_path) == [1]


@pytest.mark.parametrize("torn", [b'{"step": 3, "tr', b'{"step": 3}', b"\xff\x00"])
def test_a_half_written_last_line_is_no_harm(tmp_path, torn):
    write_steps(tmp_path, [1, 2])
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [1, 2]
    write_steps(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_full_disk_is_a_clear_error():
    class FullDisk:
        def write(self, _):
            raise OSError(28, "No space left on device")

    sink = JsonlSink.__new__(JsonlSink)
    sink._path, sink._file = "metrics.jsonl", FullDisk()
    with pytest.raises(RunError, match="No space left"):
        sink.log(1, {})
