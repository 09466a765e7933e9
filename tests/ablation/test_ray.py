"""The Ray executor on a real cluster of two nodes on this machine; `make test-clusters`."""

import os
import subprocess
import sys

import psutil
import pytest
from job_programs import FAIL, WORK, ends, make_job, program, release, running, saved, starts, wait_until

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from scrpo_cli.ablation.executors.ray_tasks import RayExecutor  # noqa: E402

pytestmark = pytest.mark.clusters


@pytest.fixture
def cluster(monkeypatch):
    """A head that runs nothing, and two nodes of one CPU each; workers import what we do."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def executor(cluster, code, **options):
    return RayExecutor(cluster.address, program=program(code), **options)


def test_runs_share_the_nodes_and_failures_do_not_stop_the_others(cluster, tmp_path):
    jobs = [make_job(tmp_path, name) for name in "abc"]
    events = executor(cluster, WORK).run(jobs)
    assert [next(events).name for _ in range(2)] == ["a", "b"]  # as many as there are CPUs
    wait_until(lambda: starts(jobs[0]) and starts(jobs[1]), "they do not run at once")
    release(*jobs)
    assert {name: end.exit_code for name, end in ends(events).items()} == {"a": 0, "b": 0, "c": 0}
    bad = make_job(tmp_path, "bad")
    failed = ends(executor(cluster, FAIL).run([bad]))["bad"]
    assert (failed.exit_code, failed.error) == (1, "Out of memory")
    assert len(starts(bad)) == 1  # the user's mistake is not tried again


def test_stopping_lets_the_runs_save(cluster, tmp_path):
    job = make_job(tmp_path, "a")
    events = executor(cluster, WORK).run([job])
    next(events)
    wait_until(lambda: starts(job), "the program does not run")
    events.close()
    wait_until(lambda: not running(job), "the program goes on")
    assert saved(job)


def test_a_run_whose_worker_is_killed_goes_on_elsewhere(cluster, tmp_path):
    job = make_job(tmp_path, "a")
    events = executor(cluster, WORK).run([job])
    next(events)
    wait_until(lambda: starts(job), "the program does not run")
    worker = psutil.Process(starts(job)[0]).parent()
    worker.kill()
    wait_until(lambda: len(starts(job)) == 2, "it was not repeated")
    wait_until(lambda: saved(job), "the run of the lost worker did not save")
    release(job)
    assert ends(events)["a"].exit_code == 0


def test_variables_of_ours_reach_the_runs_on_other_machines(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SCRPO_DB", "sqlite:///somewhere.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = make_job(tmp_path, "a")
    print_them = "import os; print(os.environ['SCRPO_DB'], os.environ['WANDB_MODE'], os.getcwd())"
    assert ends(executor(cluster, print_them).run([job]))["a"].exit_code == 0
    assert job.result.read_text().split() == ["sqlite:///somewhere.db", "offline", str(job.directory)]


KILLED = """
import sys
from pathlib import Path
from job_programs import *
from scrpo_cli.ablation.executors.ray_tasks import RayExecutor
executor = RayExecutor(sys.argv[2], program=program(WORK))
for event in executor.run([make_job(Path(sys.argv[1]), "a")]): pass
"""


def test_a_sweep_that_is_killed_leaves_no_orphans(cluster, tmp_path):
    sweep = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), cluster.address])
    job = make_job(tmp_path, "a")
    wait_until(lambda: starts(job), "the program does not run")
    sweep.kill()
    sweep.wait()
    wait_until(lambda: not running(job), "the program goes on")
    assert saved(job)
