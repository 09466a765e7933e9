"""A real SLURM of one node, in a directory: munged, slurmctld and slurmd of Debian's packages, as root."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
SECONDS = 60.0

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def why_not() -> str | None:
    """What this machine lacks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"no SLURM here: {', '.join(missing)} missing"
    return None if os.geteuid() == 0 else "SLURM's daemons need root"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def slurm_node(home: Path, kill_wait: int = 30) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands reach it."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (home / name).mkdir()
    config, key = home / "slurm.conf", home / "munge.key"
    config.write_text(
        CONFIG.format(
            host=platform.node().split(".")[0],
            controller=free_port(),
            daemon=free_port(),
            home=home,
            kill_wait=kill_wait,
        )
    )
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(config), "PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin"])}
    munge = [f"--{name}={home}/munge.{name}" for name in ("socket",)]
    munge += [f"--{name}-file={home}/munge.{name}" for name in ("log", "pid", "seed", "key")]
    commands = [
        ["munged", "--foreground", "--force", "--num-threads=1", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    daemons = []
    try:
        for command in commands:
            with (home / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out))
            time.sleep(0.5)
        _wait_until_idle(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=os.environ | environment, check=False, timeout=SECONDS)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        found = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=os.environ | environment, capture_output=True, text=True
        )
        if found.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, f"SLURM did not start: {found.stdout} {found.stderr}"
        time.sleep(0.2)
