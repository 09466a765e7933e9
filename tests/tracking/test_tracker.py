import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from scrpo_cli.recipe.models import Recipe, TrackingConfig, WandbConfig
from scrpo_cli.tracking.jsonl import read_metrics
from scrpo_cli.tracking.tracker import Tracker

WITHOUT_WANDB = Recipe(tracking=TrackingConfig(wandb=WandbConfig(mode="off")))


class ListSink:
    def __init__(self):
        self.steps, self.events, self.ends = [], [], []

    def log(self, step, metrics):
        self.steps.append((step, dict(metrics)))

    def event(self, text):
        self.events.append(text)

    def finish(self, summary, failed):
        self.ends.append((summary, failed))


def test_every_sink_hears_everything():
    sinks = [ListSink(), ListSink()]
    with Tracker(sinks) as tracker:
        tracker.log(1, {"first/reward": np.float32(0.5), "pool/size": 3})
        tracker.event("saved")
        tracker.finish({"steps": 1})
    for sink in sinks:
        assert sink.steps == [(1, {"first/reward": 0.5, "pool/size": 3})]
        assert sink.events == ["saved"]
        assert sink.ends == [({"steps": 1}, False)]  # finished once, by the explicit call


def test_an_exception_finishes_the_sinks_as_failed():
    sink = ListSink()
    with pytest.raises(KeyboardInterrupt), Tracker([sink]):
        raise KeyboardInterrupt
    assert sink.ends == [({}, True)]


def test_open_writes_the_file_and_the_screen(tmp_path):
    screen = Console(file=io.StringIO(), width=120)
    for resume_step, steps in ((None, (1, 2, 3)), (2, (3,))):
        with Tracker.open(
            tmp_path, "run", WITHOUT_WANDB, resume_step=resume_step, console=SimpleNamespace(console=screen)
        ) as tracker:
            for step in steps:
                tracker.log(step, {"first/reward": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert screen.file.getvalue().count("reward 0.50") == 4
    assert not (tmp_path / "wandb").exists()


def test_open_without_a_screen(tmp_path):
    with Tracker.open(tmp_path, "run", WITHOUT_WANDB) as tracker:
        tracker.log(1, {})
        tracker.event("nobody listens")
    assert len(read_metrics(tmp_path)) == 1
