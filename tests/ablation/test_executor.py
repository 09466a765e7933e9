import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scrpo_cli.ablation.executors.base import Finished, Job
from scrpo_cli.ablation.executors.local import LocalExecutor, gpu_slots, runs_at_once
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe

DEADLINE = 60.0

WRITE = "import sys, os; print('{}'); print(os.environ['OMP_NUM_THREADS'], file=sys.stderr)"
FAIL = 'import sys; print(\'{"error": {"what": "Out of memory"}}\'); sys.exit(1)'
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
MEET = """
import os, sys, time
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]): time.sleep(0.02)
"""
SAVE = """
import signal, sys, time
def save(*_):
    open(sys.argv[1] + ".saved", "w").close()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "w").close()
time.sleep(600)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".new", "w") as file: file.write(str(child.pid))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path):
    def make(name, *arguments):
        return Job(name, arguments, tmp_path / "logs" / f"{name}.json", tmp_path / "logs" / f"{name}.log")

    return make


def python(code, **options):
    return LocalExecutor(program=(sys.executable, "-c", code), **options)


def finished(executor, jobs):
    return {event.job.name: event for event in executor.run(jobs) if isinstance(event, Finished)}


def wait_for(path):
    deadline = time.monotonic() + DEADLINE
    while not Path(path).exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def run_until_started(executor, jobs, *paths):
    """Start all jobs by pulling their start events; returns the generator, suspended."""
    events = executor.run(jobs)
    for _ in jobs:
        assert isinstance(next(events), Job)
    for path in paths:
        wait_for(path)
    return events


def test_output_and_threads(job, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one = job("one")
    ends = finished(python(WRITE, jobs=1000), [one])
    assert (ends["one"].exit_code, ends["one"].error) == (0, "")
    assert one.result.read_text() == "{}\n"
    assert one.log.read_text() == "1\n"


@pytest.mark.parametrize(("jobs", "threads"), [(1, 6), (2, 3), (4, 1)])
def test_runs_share_the_cores(job, monkeypatch, jobs, threads):
    """A small model takes one thread of them whatever there are (`training.policy.threads_of`)."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("scrpo_cli.ablation.executors.local.cores", lambda: 6)
    one = job("one")
    finished(python(WRITE, jobs=jobs), [one])
    assert one.log.read_text() == f"{threads}\n"


def test_the_users_number_of_threads_stands(job, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    one = job("one")
    finished(python(WRITE), [one])
    assert one.log.read_text() == "5\n"


def test_a_log_is_no_terminal(job, monkeypatch):
    """Live lines of packed runs, which share a process, printed each other for ever."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shows = "from rich.console import Console; print(Console().is_terminal)"
    done = finished(python(shows), [job("a")])
    assert done["a"].job.result.read_text() == "False\n"


def test_failures_say_why_and_do_not_stop_the_others(job):
    assert finished(python(FAIL), [job("a"), job("b")])["a"].error == "Out of memory"
    crashed = finished(python(CRASH), [job("c")])["c"]
    assert crashed.exit_code == -9
    assert crashed.error.endswith("c.log")


def test_jobs_at_a_time(job, tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")  # each waits for the other: done only when both run at once
    ends = finished(python(MEET, jobs=2), [job("a", a, b), job("b", b, a)])
    assert [end.exit_code for end in ends.values()] == [0, 0]


def test_one_at_a_time_in_order(job):
    events = list(python("pass", jobs=1).run([job("a"), job("b")]))
    assert [e.name if isinstance(e, Job) else f"{e.job.name} done" for e in events] == ["a", "a done", "b", "b done"]


def test_stopping_lets_the_children_save(job, tmp_path):
    said, paths = [], [str(tmp_path / "a"), str(tmp_path / "b")]
    executor = python(SAVE, jobs=2, say=said.append)
    events = run_until_started(executor, [job(Path(p).name, p) for p in paths], *paths)
    events.close()
    assert all(os.path.exists(path + ".saved") for path in paths)
    assert "Stopping 2 runs" in said[0]


def test_stopping_does_not_wait_for_what_an_interrupted_poll_left_locked(job, tmp_path):
    path = str(tmp_path / "a")
    executor = python(SAVE)
    events = run_until_started(executor, [job("a", path)], path)
    for process, *_ in executor._running.values():
        process._waitpid_lock.acquire()  # as an interruption in Popen.poll leaves it
    events.close()
    assert os.path.exists(path + ".saved")


def test_a_child_that_does_not_stop_is_ended_with_its_children(job, tmp_path):
    path = tmp_path / "pid"
    events = run_until_started(python(STUBBORN, save_seconds=0.1), [job("a", str(path))], path)
    grandchild = psutil.Process(int(path.read_text()))
    events.close()
    gone, _ = psutil.wait_procs([grandchild], timeout=DEADLINE)
    assert gone == [grandchild] or grandchild.status() == psutil.STATUS_ZOMBIE


KILLED = """
import sys
from pathlib import Path
from scrpo_cli.ablation.executors.base import Job
from scrpo_cli.ablation.executors.local import LocalExecutor
child = "from scrpo_cli.streams import end_with_stdin; end_with_stdin()\\n" + sys.argv[1]
executor = LocalExecutor(program=(sys.executable, "-c", child))
for event in executor.run([Job("a", (sys.argv[2],), Path("a.json"), Path("a.log"))]): pass
"""


def test_children_save_and_end_when_we_are_killed(tmp_path):
    path = tmp_path / "a"
    sweep = subprocess.Popen([sys.executable, "-c", KILLED, SAVE, str(path)], cwd=tmp_path)
    wait_for(path)
    (child,) = psutil.Process(sweep.pid).children()
    sweep.kill()
    sweep.wait()
    wait_for(tmp_path / "a.saved")
    gone, _ = psutil.wait_procs([child], timeout=DEADLINE)
    assert gone == [child]


SEEN = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES'))" + MEET


@pytest.mark.parametrize(
    ("visible", "asked", "slots", "at_a_time"),
    [
        ("0,1,2,3", (None, None), ["0", "1", "2", "3"], 4),
        ("0,1,2,3", (2, None), ["0,1", "2,3"], 2),
        ("4,7,9", (2, None), ["4,7"], 1),
        ("0,1", (0, 8), [], 8),
        ("0,1", (0, None), [], 1),
        ("", (None, None), [], None),
        ("-1", (None, 3), [], 3),
        ("GPU-8932f937,MIG-GPU-1/2/0", (1, 1), ["GPU-8932f937", "MIG-GPU-1/2/0"], 1),
    ],
)
def test_slots_of_gpus(monkeypatch, visible, asked, slots, at_a_time):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_slots(*asked) == (slots, at_a_time)


@pytest.mark.parametrize(("visible", "asked"), [("0,1", (None, 3)), ("0,1", (4, None)), ("", (1, None))])
def test_gpus_that_are_not_there_are_refused(monkeypatch, visible, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match="are visible"):
        gpu_slots(*asked)


@pytest.mark.parametrize(
    ("sets", "gib", "at_a_time"),
    [
        ((), 100, 6),
        ((), 4, 2),
        ((), 0.5, 1),
        (("model.threads=4",), 100, 1),
        (("model.threads=2",), 100, 3),
        (("rollout.engine=vllm",), 100, 1),
        (("model.name=some/model",), 100, 1),
    ],
)
def test_runs_without_a_gpu_share_cores_and_memory(monkeypatch, sets, gib, at_a_time):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    memory = psutil.virtual_memory()._replace(available=int(gib * 2**30))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    recipe = load_recipe("tiny", sets)
    assert runs_at_once([recipe]) == at_a_time
    assert runs_at_once([load_recipe("tiny"), recipe]) == at_a_time, "what fits for every arm"


@pytest.mark.parametrize(
    ("options", "at_a_time"), [("", 6), ("--jobs 2", 2), ("--executor packed", 1), ("--match seconds", 1)]
)
def test_a_dry_run_tells_how_many_run_at_a_time(monkeypatch, scrpo, options, at_a_time):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("scrpo_cli.ablation.executors.local.runs_at_once", lambda recipes: len([*recipes]) * 3)
    sets = "--set optim.max_seconds=5" if "seconds" in options else ""
    code, answer, err = scrpo(f"ablate --reflect-every 5,never --dry-run {options} {sets}")
    assert code == 0, err
    assert answer["jobs"] == at_a_time


def test_each_child_sees_the_gpus_of_its_slot(job, tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")  # each waits for the other, so no slot is given twice at a time
    executor = python(SEEN, jobs=2, slots=["0,1", "2,3"])
    jobs = [job("a", a, b), job("b", b, a), job("c", a, b)]
    assert all(end.exit_code == 0 for end in finished(executor, jobs).values())
    seen = [each.result.read_text().strip() for each in jobs]
    assert {*seen[:2]} == {"0,1", "2,3"}
    assert seen[2] in ("0,1", "2,3")


def test_a_job_runs_in_its_directory(tmp_path, monkeypatch, job):
    where = job("where")
    monkeypatch.chdir("/")
    assert finished(python("import os; print(os.getcwd())"), [where])["where"].exit_code == 0
    assert where.result.read_text().strip() == str(where.directory)
    assert str(where.directory) != "/"
