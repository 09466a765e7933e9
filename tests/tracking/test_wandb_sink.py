import sys
import threading
from types import SimpleNamespace

import pytest

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.wandb_sink import QUEUE_STEPS, WandbSink, logged_in, resolve_mode

RUN_ID = "20261120-141503-k3f9"


class FakeRun:
    def __init__(self, log=None, finish=None):
        self.rows, self.summary, self.exit_code = [], {}, None
        self._log, self._finish = log, finish

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        if self._log:
            self._log(row)
        self.rows.append(row)

    def finish(self, exit_code):
        if self._finish:
            self._finish()
        self.exit_code = exit_code


@pytest.fixture
def fake_wandb(monkeypatch):
    """Installs a module whose `init` is the given function; returns the keyword arguments of every call."""

    def install(init):
        calls = []

        def record(**options):
            calls.append(options)
            return init(**options)

        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=record, Settings=lambda **options: options))
        return calls

    return install


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def sink_in(tmp_path, said, mode="offline", finish_seconds=5.0):
    return WandbSink(tmp_path, RUN_ID, Recipe(), mode, said.append, init_seconds=5.0, finish_seconds=finish_seconds)


def test_steps_and_summary_arrive(tmp_path, fake_wandb):
    run, said = FakeRun(), []
    calls = fake_wandb(lambda **_: run)
    sink = sink_in(tmp_path, said, "online")
    sink.log(1, {"first/reward": 0.5})
    sink.log(2, {"first/reward": 0.6})
    sink.finish({"steps": 2}, failed=False)
    assert run.rows == [{"step": 1, "first/reward": 0.5}, {"step": 2, "first/reward": 0.6}]
    assert (run.summary, run.exit_code) == ({"steps": 2}, 0)
    assert (calls[0]["id"], calls[0]["resume"], calls[0]["mode"]) == (RUN_ID, "allow", "online")
    assert calls[0]["config"]["method"]["name"] == "scrpo"
    assert said == []


def test_init_failure_falls_back_to_offline(tmp_path, fake_wandb):
    def init(mode, **_):
        if mode == "online":
            raise TimeoutError("no answer in 5 s")
        return run

    run, said = FakeRun(), []
    calls = fake_wandb(init)
    sink = sink_in(tmp_path, said, "online")
    sink.log(1, {})
    sink.finish({}, failed=True)
    assert [call["mode"] for call in calls] == ["online", "offline"]
    assert (len(run.rows), run.exit_code) == (1, 1)
    assert len(said) == 1
    assert "no answer in 5 s" in said[0]


def test_init_that_always_fails_warns_once(tmp_path, fake_wandb):
    def init(**_):
        raise RuntimeError("broken")

    said = []
    fake_wandb(init)
    sink = sink_in(tmp_path, said, "online")
    for step in range(3):
        sink.log(step, {})
    sink.finish({}, failed=False)
    assert len(said) == 1
    assert "RuntimeError: broken" in said[0]


def test_log_that_fails_now_and_then_keeps_the_rest(tmp_path, fake_wandb):
    def log(row):
        if row["step"] in (1, 2):
            raise ConnectionError("outage")

    run, said = FakeRun(log=log), []
    fake_wandb(lambda **_: run)
    sink = sink_in(tmp_path, said)
    for step in range(4):
        sink.log(step, {})
    sink.finish({}, failed=False)
    assert [row["step"] for row in run.rows] == [0, 3]
    assert len(said) == 1
    assert "outage" in said[0]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_hanging_anywhere_neither_stops_nor_holds_the_run(tmp_path, fake_wandb, where):
    release = threading.Event()
    hang = lambda *_: release.wait(60)  # noqa: E731

    def init(**_):
        if where == "init":
            hang()
        return FakeRun(log=hang if where == "log" else None, finish=hang if where == "finish" else None)

    said = []
    fake_wandb(init)
    sink = sink_in(tmp_path, said, finish_seconds=0.2)
    for step in range(QUEUE_STEPS + 10):  # more than the queue takes
        sink.log(step, {})
    sink.finish({}, failed=False)
    assert sink._thread.is_alive()
    assert len(said) == 1
    assert "did not finish" in said[0]
    release.set()


def test_offline_leaves_a_directory_and_says_how_to_upload_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    said = []
    for part in range(2):  # a run and its resumption
        sink = sink_in(tmp_path, said, finish_seconds=60)
        sink.log(part, {"first/reward": 0.5})
        sink.finish({"steps": part}, failed=False)
    directories = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert directories
    assert all(list(directory.glob(f"run-{RUN_ID}.wandb")) for directory in directories)
    assert said[-1].endswith(" ".join(["wandb sync", *map(str, directories)]))


def test_mode(no_login, monkeypatch):
    assert [resolve_mode(mode) for mode in ("auto", "online", "offline", "off")] == [
        "offline",
        "online",
        "offline",
        "off",
    ]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "off"


def test_login_by_netrc(no_login, monkeypatch):
    assert not logged_in()
    no_login.write_text("machine api.wandb.ai login user password key\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not logged_in()
    no_login.write_text("not a netrc file")
    assert not logged_in()
