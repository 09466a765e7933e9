"""The SLURM executor under submitit's own local mode, and (`make test-clusters`) under a real SLURM of one node."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from job_programs import FAIL, WORK, ends, make_job, program, release, running, saved, starts, wait_until
from slurm_node import slurm_node, why_not

submitit = pytest.importorskip("submitit")

from scrpo_cli.ablation.executors.base import Job  # noqa: E402
from scrpo_cli.ablation.executors.slurm import Command, SlurmExecutor, refuse_living, slurm_options  # noqa: E402
from scrpo_cli.errors import UserError  # noqa: E402

REAL = pytest.param("slurm", marks=pytest.mark.clusters)


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    if reason := why_not():
        pytest.skip(reason)
    with slurm_node(tmp_path_factory.mktemp("slurm"), kill_wait=5) as environment:
        yield environment


@pytest.fixture(params=["local", REAL])
def cluster(request, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the nodes, too
    if request.param == "slurm":
        for name, value in request.getfixturevalue("node").items():
            monkeypatch.setenv(name, value)
    return request.param


@pytest.fixture
def make(tmp_path, cluster):
    def executor(code, **options):
        return SlurmExecutor(tmp_path / "slurm", cluster=cluster, watch_seconds=0.2, program=program(code), **options)

    return executor


def events_until_started(executor, *jobs):
    """The generator, suspended once all jobs have said that they started."""
    events = executor.run(jobs)
    assert {next(events).name for _ in jobs} == {job.name for job in jobs}
    wait_until(lambda: all(starts(job) for job in jobs), "the programs do not run")
    return events


def test_jobs_run_and_failures_do_not_stop_the_others(make, tmp_path):
    good, bad = make_job(tmp_path, "good"), make_job(tmp_path, "bad")
    release(good)
    assert ends(make(WORK).run([good]))["good"].exit_code == 0
    failed = ends(make(FAIL).run([bad]))["bad"]
    assert (failed.exit_code, failed.error) == (1, "Out of memory")


def test_stopping_lets_the_runs_save(make, tmp_path):
    job = make_job(tmp_path, "a")
    events = events_until_started(make(WORK), job)
    events.close()
    wait_until(lambda: not running(job), "the program goes on")
    assert saved(job)


def test_nobody_else_begins_runs_that_may_still_work(tmp_path):
    refuse_living(tmp_path)  # there were none
    (tmp_path / "jobs.json").write_text(json.dumps({"cluster": "slurm", "ids": {"a": "7"}}))
    with pytest.raises(UserError, match="1 runs of this sweep") as refused:
        refuse_living(tmp_path)
    assert "--executor slurm" in refused.value.fix
    submitit.SlurmJob(tmp_path, "7").paths.result_pickle.touch()
    refuse_living(tmp_path)


@pytest.mark.clusters
def test_runs_that_wait_or_work_are_known(make, tmp_path, cluster):
    if cluster == "local":
        pytest.skip("submitit's local mode knows its own jobs alone")
    job = make_job(tmp_path, "a")
    executor = make(WORK)
    events = events_until_started(executor, job)
    assert executor.at_work() == {"a"}
    with pytest.raises(UserError, match="1 runs of this sweep") as refused:
        refuse_living(tmp_path / "slurm")
    assert "jobs.json" in refused.value.where
    release(job)
    assert ends(events)["a"].exit_code == 0
    assert executor.at_work() == set()
    refuse_living(tmp_path / "slurm")


@pytest.mark.parametrize(
    ("options", "delay"),
    [({}, 180), ({"timeout_min": 60}, 180), ({"timeout_min": 4}, 60), ({"slurm_signal_delay_s": 300}, 300)],
)
def test_jobs_are_told_early_enough_to_save(tmp_path, monkeypatch, options, delay):
    """submitit's own 90 seconds are less than a run may take to save."""
    monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor.affinity", classmethod(lambda _: 1))
    executor = SlurmExecutor(tmp_path, options=options)._executor(submitit)
    assert executor._executor.parameters["signal_delay_s"] == delay
    assert executor._executor.max_num_timeout > 100


KILLED = """
import sys
import threading
from pathlib import Path
from job_programs import *
from scrpo_cli.ablation.executors.slurm import SlurmExecutor
place, cluster = Path(sys.argv[1]), sys.argv[2]
executor = SlurmExecutor(place / "slurm", cluster=cluster, watch_seconds=0.2, program=program(WORK))
for event in executor.run([make_job(place, "a")]): pass
"""


@pytest.mark.clusters
def test_what_outlived_a_killed_sweep_is_taken_over(make, tmp_path, cluster):
    if cluster == "local":
        pytest.skip("the jobs of submitit's local mode are our children")
    sweep = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), cluster])
    job = make_job(tmp_path, "a")
    wait_until(lambda: starts(job), "the program does not run")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    events = make(WORK).run([job])
    assert next(events) == job
    release(job)
    assert ends(events)["a"].exit_code == 0
    assert len(starts(job)) == 1


def is_queued(job_id):
    shown = subprocess.run(["scontrol", "show", "job", str(job_id)], capture_output=True, text=True)
    return "JobState=PENDING" in shown.stdout


def begin_soon(job_id):
    """SLURM lets a job that is queued again wait for two minutes, in which what it was ends. Here that takes a second,
    and a job that begins before it fails.
    """
    wait_until(lambda: is_queued(job_id), "it was not queued again")
    subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now+3"], check=True)


@pytest.mark.clusters
@pytest.mark.parametrize("timeout", [True, False], ids=["its time is up", "others go before it"])
def test_a_job_that_slurm_wants_to_end_saves_and_is_queued_again(make, tmp_path, cluster, timeout):
    if cluster == "local":
        pytest.skip("submitit's local mode has no queue")
    job = make_job(tmp_path, "a")
    executor = make(WORK, options={"timeout_min": 5})
    events = events_until_started(executor, job)
    (handle,) = executor._known().values()
    handle._interrupt(timeout=timeout)
    wait_until(lambda: saved(job), "nothing was saved")
    begin_soon(handle.job_id)
    wait_until(lambda: len(starts(job)) == 2, "it did not begin again")
    release(job)
    assert ends(events)["a"].exit_code == 0


def test_a_command_that_is_to_end_saves_and_begins_again(tmp_path):
    job = make_job(tmp_path, "a")
    command = Command(job, program(WORK), tmp_path / "stopping")
    thread = threading.Thread(target=command)
    thread.start()
    wait_until(lambda: starts(job), "the program does not run")
    again = command.checkpoint()
    assert saved(job)
    assert not running(job)
    (tmp_path / "stopping").touch()
    thread.join(10)
    release(job)
    assert again.function().exit_code == 0
    assert len(starts(job)) == 2


@pytest.mark.clusters
def test_a_job_that_slurm_ends_without_a_result_is_said_to_be_lost(make, tmp_path, cluster):
    if cluster == "local":
        pytest.skip("submitit's local mode has no queue")
    job, other = make_job(tmp_path, "a"), make_job(tmp_path, "b")
    events = events_until_started(make(WORK), job, other)
    for pid in starts(job):  # the whole tree of the job, as when a node goes down
        step = Path(f"/proc/{pid}/stat").read_text().split()[3]
        os.kill(int(step), signal.SIGKILL)
    release(other)
    found = ends(events)
    assert found["b"].exit_code == 0
    assert "left the queue without a result" in found["a"].error


def test_what_sbatch_does_not_know_is_refused(make, tmp_path):
    with pytest.raises(UserError, match="does not take these options"):
        next(make(WORK, options=slurm_options(["partitoin=gpu"])).run([make_job(tmp_path, "a")]))


def test_options():
    assert slurm_options(["partition=gpu", "mem-gb=32", "exclude=n1,n2"]) == {
        "partition": "gpu",
        "mem_gb": 32,
        "exclude": "n1,n2",
    }
    with pytest.raises(UserError, match="KEY=VALUE"):
        slurm_options(["gpu"])


def test_a_job_is_started_when_its_process_is(make, tmp_path):
    job = make_job(tmp_path, "a")
    job.result.write_text("of an earlier run")
    events = make(WORK).run([job])
    assert isinstance(next(events), Job)
    assert starts(job) or job.result.read_text() == ""
    release(job)
    assert ends(events)["a"].exit_code == 0
