import json
import sys
import threading
from types import SimpleNamespace

import pytest
from tracking.wandb_file import history, of_kind

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.published import ADAPTER_FILES, Published, TableData
from scrpo_cli.tracking.wandb_sink import QUEUE_STEPS, Place, WandbSink, logged_in, resolve_mode

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


def sink_in(tmp_path, said, mode="offline", finish_seconds=5.0, recipe=None, place=Place()):
    seconds = {"init_seconds": 5.0, "finish_seconds": finish_seconds}
    return WandbSink(tmp_path, RUN_ID, recipe or Recipe(), mode, said.append, place, **seconds)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    """Nothing of W&B's but where it keeps its caches."""
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "JOB_TYPE", "NAME", "TAGS", "DIR", "SILENT", "CONSOLE", "MODE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))


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


def test_offline_leaves_a_directory_and_says_how_to_upload_it(tmp_path):
    said = []
    for part in range(2):  # a run and its resumption
        sink = sink_in(tmp_path, said, finish_seconds=60)
        sink.log(part, {"first/reward": 0.5})
        sink.finish({"steps": part}, failed=False)
    directories = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert directories, said
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


def published(tmp_path):
    import matplotlib.image

    adapter = tmp_path / "step-000002"
    adapter.mkdir()
    for name in ADAPTER_FILES:
        (adapter / name).write_text("{}")
    (adapter / "optimizer.pt").write_text("moments")
    matplotlib.image.imsave(tmp_path / "arms.png", [[0.0, 1.0], [1.0, 0.0]])
    tables = {
        "results": TableData(("measure", "value", "ci95 low"), [("avg", 0.5, 0.4), ("repair_rate", 0.2, None)]),
        "attempts": TableData(("response",), [("<script>alert(1)</script>",)]),
    }
    return Published(tables, {"arms": tmp_path / "arms.png"}, adapter, {"base_model": "tiny", "step": 2})


def test_what_was_kept_offline_is_all_there(tmp_path):
    """The run of an arm, as its file has it: what `wandb sync` uploads."""
    said = []
    sink = sink_in(tmp_path, said, finish_seconds=60, place=Place("20261120-141500-abcd", "reflect_every=5"))
    sink.log(1, {"first/reward": 0.5})
    sink.publish(published(tmp_path))
    sink.finish({"steps": 1}, failed=False)
    assert len(said) == 1, said
    assert said[0].startswith("W&B run kept offline")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    run = of_kind(file, "run")[-1]  # the first may be written before all is known
    assert (run.run_id, run.project, run.run_group) == (RUN_ID, "scrpo", "20261120-141500-abcd")
    assert (run.job_type, run.display_name) == ("reflect_every=5", f"unnamed {RUN_ID}")
    first, last = history(file)
    assert (first["step"], first["first/reward"]) == (1, 0.5)
    logged = {name: value for name, value in last.items() if isinstance(value, dict)}
    kinds = {name: value["_type"] for name, value in logged.items()}
    assert kinds == {"results": "table-file", "attempts": "table-file", "arms": "image-file"}
    files = file.parent / "files"
    table = json.loads((files / logged["results"]["path"]).read_text())
    assert table == {
        "columns": ["measure", "value", "ci95 low"],
        "data": [["avg", 0.5, 0.4], ["repair_rate", 0.2, None]],
    }
    assert (files / logged["arms"]["path"]).stat().st_size == (tmp_path / "arms.png").stat().st_size
    (adapter,) = [artifact for artifact in of_kind(file, "artifact") if artifact.type == "model"]
    assert adapter.name == f"adapter-{RUN_ID}"
    assert [entry.path for entry in adapter.manifest.contents] == [*ADAPTER_FILES]
    assert {entry.local_path for entry in adapter.manifest.contents} == {
        str(tmp_path / "step-000002" / name) for name in ADAPTER_FILES
    }


ENVIRONMENT = {
    "WANDB_PROJECT": "theirs",
    "WANDB_RUN_GROUP": "a group",
    "WANDB_JOB_TYPE": "a job",
    "WANDB_NAME": "a name",
    "WANDB_TAGS": "one,two",
}


def test_what_the_environment_says_goes_before_what_we_would_choose(tmp_path, monkeypatch):
    import wandb

    wandb.teardown()  # which has read its environment once in this process
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    said = []
    sink = sink_in(tmp_path, said, finish_seconds=60, place=Place("the sweep", "the arm"))
    sink.finish({}, failed=False)
    (file,) = (tmp_path / "elsewhere" / "wandb").glob("offline-run-*/run-*.wandb")
    assert str(file.parent) in said[-1]
    run = of_kind(file, "run")[-1]  # the first may be written before all is known
    assert (run.project, run.run_group, run.job_type, run.display_name) == ("theirs", "a group", "a job", "a name")
    assert [*run.tags] == ["one", "two"]
    assert run.run_id == RUN_ID
    wandb.teardown()


def test_what_the_recipe_names_goes_before_the_environment(tmp_path, monkeypatch, fake_wandb):
    calls = fake_wandb(lambda **_: FakeRun())
    for name, value in (ENVIRONMENT | {"WANDB_SILENT": "false", "WANDB_INIT_TIMEOUT": "9"}).items():
        monkeypatch.setenv(name, value)
    named = {"project": "ours", "group": "our group", "tags": ["three"], "entity": "us"}
    recipe = Recipe.model_validate({"tracking": {"wandb": named}})
    sink_in(tmp_path, [], recipe=recipe, place=Place("the sweep", "the arm")).finish({}, failed=False)
    assert {name: calls[0][name] for name in named} == named
    assert (calls[0]["job_type"], calls[0]["name"]) == (None, None)
    assert calls[0]["settings"] == {"finish_timeout": 5.0, "console": "off"}


def test_an_adapter_has_time_to_be_uploaded(tmp_path, fake_wandb):
    fake_wandb(lambda **_: FakeRun())
    sink = sink_in(tmp_path, [], "online", finish_seconds=2.0)
    with (tmp_path / ADAPTER_FILES[1]).open("wb") as file:
        file.truncate(7 << 20)  # seven MiB, and no time to write them
    sink.publish(Published(adapter=tmp_path))
    assert sink._patience == 9.0


def test_a_table_that_fails_does_not_cost_the_end(tmp_path, fake_wandb):
    run, said = FakeRun(), []
    fake_wandb(lambda **_: run)  # a module without tables
    sink = sink_in(tmp_path, said)
    sink.publish(Published({"results": TableData(("a",), [(1,)])}))
    sink.finish({"steps": 1}, failed=False)
    assert (run.summary, run.exit_code, len(said)) == ({"steps": 1}, 0, 1)
