"""How an evaluation is cut into parts."""

from scrpo_cli.evaluation.parts import part_size, parts_left
from scrpo_cli.types import Problem


def test_first_answers_fill_a_batch_and_for_an_engine_with_a_queue_eight() -> None:
    assert part_size(128, 4) == 32
    assert part_size(128, 4, queues=True) == 256
    assert part_size(8, 32) == 1
    assert part_size(8, 32, queues=True) == 2


def test_parts_follow_on_each_other_and_the_last_is_what_is_left() -> None:
    problems, asked = [Problem(str(i), "tiny", "1+1=?", "2") for i in range(7)], []

    def answer(batch, start):
        asked.append((start.problems, [problem.id for problem in batch]))
        return []

    assert [part.problems for part in parts_left(problems, [], 3, answer)] == [3, 6, 7]
    assert asked == [(0, ["0", "1", "2"]), (3, ["3", "4", "5"]), (6, ["6"])]
