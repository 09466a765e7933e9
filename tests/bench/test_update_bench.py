"""The race of the update: floors by hand, rows that are what they are said to be, and TRL on the very same ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sides
from measuring import MIB, peak
from sides import SIZE, Batch, Cell, rounds


def test_the_floor_counts_a_prompt_once_a_group() -> None:
    cell = Cell(16, 4, groups=2)
    assert cell.floor == pytest.approx((16 + 4 * SIZE) / (SIZE * 20))
    assert (cell.rows, cell.alive) == (2 * SIZE, 1.0)
    assert Cell(16, 4, groups=3, silent=True).alive == pytest.approx(2 / 3)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (40, 2), (79, 2), (80, 4), (10_000, 16)])
def test_a_micro_batch_has_no_more_tokens_than_it_may(tokens: int, rows: int) -> None:
    assert Cell(16, 4, groups=2).rows_within(tokens) == rows


@pytest.mark.parametrize("silent", [False, True])
def test_silent_groups_earn_nothing_and_are_not_trained(silent: bool) -> None:
    batch = Batch(Cell(6, 4, groups=4, silent=silent), vocabulary=50)
    rows = batch.recorded()
    credits = batch.credits(rows)
    trained = [bool(row.mask_T.any()) for row in credits.rows]
    assert trained == [group % 2 == 0 or not silent for group in range(4) for _ in range(SIZE)]
    assert sum(row.advantage_T.sum() for row in credits.rows) == pytest.approx(0, abs=1e-4)
    assert all(rows[i].prompt_ids == rows[i - i % SIZE].prompt_ids for i in range(len(rows)))
    assert all(0 < token < 49 for row in rows for token in (*row.prompt_ids, *row.ids))  # 49 ends an answer


def test_uneven_rows_have_the_cells_mean_length() -> None:
    lengths = [len(ids) for ids in Batch(Cell(6, 40, groups=64, uneven=True), 50).completions]
    assert (min(lengths), max(lengths)) == (20, 60)
    assert np.mean(lengths) == pytest.approx(40, abs=2)


def test_rounds_warm_up_and_go_on_until_the_time_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = iter(range(100)), []
    monkeypatch.setattr(sides, "time", SimpleNamespace(monotonic=lambda: next(now)))
    found = rounds({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, seconds=4, least=1)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]
    assert found == {"a": [4, 5, 8, 9], "b": [3, 6, 7, 10]}


def test_memory_is_that_of_the_work_alone() -> None:
    def prepared() -> object:
        held = np.ones(64 * MIB, dtype=np.uint8)  # the work does not add what was there before
        return lambda: np.ones(100 * MIB, dtype=np.uint8).sum() + held.sum()

    assert peak(prepared)["added"] == pytest.approx(100, abs=15)


def test_work_that_dies_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="died"):
        peak(lambda: lambda: exec("raise SystemExit(1)"))


@pytest.mark.slow
def test_all_three_train_on_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
    from update import Race, grids, measured

    race, cell = Race("tiny", tmp_path, microbatch=256), Cell(20, 8, groups=2, silent=True)
    batch = race.batch(cell)
    trl = race.opponent(batch, samples=False)
    seen = []
    compute = trl._compute_loss
    monkeypatch.setattr(trl, "_compute_loss", lambda model, inputs: seen.append(inputs) or compute(model, inputs))
    seconds = trl.step()
    assert 0 < seconds["train"] < seconds["step"]
    ids = sorted(row.tolist() for inputs in seen for row in inputs["completion_ids"])
    assert ids == sorted(batch.completions)
    alive = sum(int((inputs["advantages"] != 0).sum()) for inputs in seen)
    assert alive == SIZE
    found = measured(race, [Cell(20, 8, groups=2), cell], seconds=0)
    times, memory = grids("tiny", found)
    assert [row[:2] for row in times.rows] == [["20 : 8", "100%"], ["20 : 8", "50%"]]
    assert [row[0] for row in memory.rows] == ["20 : 8"]


@pytest.mark.slow
def test_both_sides_sample_answers_of_the_whole_length(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
    from step import grids, measured
    from update import Race

    race, cell = Race("tiny", tmp_path, microbatch=512), Cell(8, 200, groups=1)  # 1,600 draws of 384 tokens: ends occur
    batch = race.batch(cell)
    assert {len(row.ids) for row in race.ours["shared"].sampled(batch)[1]} == {200}
    trl, lengths = race.opponent(batch, samples=True), []
    generate = trl._generate
    trl._generate = lambda prompts: lengths.extend(map(len, (found := generate(prompts))[1])) or found
    trl.step()
    assert lengths == [200] * SIZE
    (table,) = grids("tiny", measured(race, [Cell(8, 16, groups=1)], 0))
    assert table.rows[0][0] == "8 : 16"
