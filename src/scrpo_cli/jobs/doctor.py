"""The checks of `scrpo doctor`: each looks at one thing and says how it stands and what to do about it.

Heavy packages are imported inside the checks. A check may raise the project's own errors: they are its finding.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from scrpo_cli.errors import ScrpoError, UserError
from scrpo_cli.recipe.models import ProblemsConfig, Recipe
from scrpo_cli.recipe.references import is_plugin
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Problem, Verdict

NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "beegfs", "lustre", "ceph"}
"""File systems whose locks SQLite cannot trust, or whose write-ahead log it cannot share."""
WINDOWS = ("torch", "transformers", "peft")
"""Packages that are shown with their tested window; the others are named only when they are outside of it."""


@dataclass(frozen=True)
class Check:
    """`name` says what was looked at, and in which role: no two checks of a run have the same one."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


class Checkup:
    """A recipe on this machine; what several checks need is made once."""

    def __init__(self, recipe: Recipe, db: str | None = None) -> None:
        self.recipe, self.db = recipe, db

    @cached_property
    def chat(self) -> Any:
        from scrpo_cli.rollout.chat import Chat
        from scrpo_cli.training.policy import load_tokenizer

        return Chat(load_tokenizer(self.recipe.model))

    @cached_property
    def task(self) -> Any:
        from scrpo_cli.tasks import make_task

        return make_task(self.recipe.task, workers=1)

    @cached_property
    def problems(self) -> Any:
        return self.task.problems(self.recipe.task.train)

    @cached_property
    def budget(self) -> Any:
        from scrpo_cli.jobs.budget import estimate

        return estimate(self.recipe)

    def run(self) -> Iterator[Check]:
        """Every check in order; what a check raises on purpose becomes its finding, once for all that stumble on it."""
        found: set[str] = set()
        for name, check in CHECKS.items():
            try:
                with now().doing(f"checking {name}"):
                    yield from check(self)
            except ScrpoError as error:
                where = f" ({error.where})" if error.where else ""
                if error.what not in found:
                    yield Check(name, "fail", f"{error.what}{where}", error.fix)
                found.add(error.what)
            except ImportError as error:
                yield Check(name, "fail", f"{error}", "Install it again: pip install scrpo-cli")
        self.close()

    def close(self) -> None:
        if "task" in self.__dict__:
            self.task.close()


def check_python(_: Checkup) -> Iterator[Check]:
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = "" if fine else "Use Python 3.11, 3.12 or 3.13."
    yield Check("python", "ok" if fine else "fail", platform.python_version(), remedy)


def check_packages(_: Checkup) -> Iterator[Check]:
    """Installed versions against the windows of our own package metadata."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("scrpo-cli") or []):
        if requirement.marker is None:
            yield from _package(requirement)


def _package(requirement: Any) -> Iterator[Check]:
    name, window = requirement.name, requirement.specifier
    install = f"pip install '{name}{window}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        yield Check(name, "fail", "not installed", install)
        return
    if not window.contains(found, prereleases=True):
        yield Check(name, "fail", f"{found} is outside the tested window {window}", install)
    elif name in WINDOWS:
        yield Check(name, "ok", f"{found} (tested: {window})")


def check_device(checkup: Checkup) -> Iterator[Check]:
    """Where the recipe would run, in which number format, and whether attention's package is there."""
    import torch

    from scrpo_cli.training.policy import pick_device, pick_dtype

    cfg = checkup.recipe.model
    device = pick_device(cfg)
    dtype = str(pick_dtype(cfg, device)).removeprefix("torch.")
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores"
    if device == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield Check(
            "device", "warn", f"{name} has no bfloat16", "Set model.dtype=float32; for sampling only, float16 will do."
        )
    else:
        yield Check("device", "ok", f"{name}, {dtype}")
    if cfg.attn == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        yield Check("attention", "fail", "flash-attn is not installed", "Set model.attn=sdpa, or install flash-attn.")


def check_engine(checkup: Checkup) -> Iterator[Check]:
    """What would sample, and whether its version is in the window; servers are asked."""
    from packaging.specifiers import SpecifierSet

    from scrpo_cli.rollout.engines import WINDOW, chosen_engine
    from scrpo_cli.rollout.vllm_server import reach
    from scrpo_cli.training.policy import pick_device

    cfg = checkup.recipe.rollout
    engine = chosen_engine(cfg, pick_device(checkup.recipe.model))
    if engine == "transformers":
        yield Check("engine", "ok", "transformers")
    elif engine == "vllm_server":
        found = [reach(url, timeout=10.0) for url in cfg.vllm.urls]
        yield Check("engine", "ok", f"vllm_server, {len(found)} servers, sequences of up to {min(found):,} tokens")
    else:
        from vllm import __version__ as installed

        fine = SpecifierSet(WINDOW.removeprefix("vllm")).contains(installed, prereleases=True)
        remedy = "" if fine else f"pip install '{WINDOW}', or set rollout.engine=transformers."
        yield Check("engine", "ok" if fine else "fail", f"vllm {installed} (tested: {WINDOW})", remedy)


def check_cores(checkup: Checkup) -> Iterator[Check]:
    """Several threads on a tiny model collapse as soon as another process is busy: by up to a hundred times."""
    import torch

    from scrpo_cli.training.policy import check_threads, threads_of

    model, sizes = checkup.recipe.model, checkup.budget.sizes
    check_threads(model)
    threads = threads_of(model, sizes.parameters) if sizes else model.threads or torch.get_num_threads()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    detail = f"{threads} of {cores} cores, load {load:.1f}"
    if threads > 1 and load + threads > cores + 0.5:
        yield Check("threads", "warn", f"{detail}: busy cores slow all threads down", "Set model.threads=1.")
    else:
        yield Check("threads", "ok", detail)


def check_model(checkup: Checkup) -> Iterator[Check]:
    """The config, and how large it makes the model."""
    name, sizes = checkup.recipe.model.name, checkup.budget.sizes
    if sizes is None:
        fix = "Give a directory that holds config.json and weights, or a hub name with network access."
        yield Check("model", "fail", checkup.budget.note, fix)
    else:
        yield Check("model", "ok", f"{name}: {sizes.parameters:,} parameters, {sizes.adapter_parameters:,} to train")


def check_weights(checkup: Checkup) -> Iterator[Check]:
    """The model with its adapter, loaded as every command does it, and a few sampled tokens. Weights that are still on
    the hub, or too large for what is free here, are left alone.
    """
    from scrpo_cli.jobs.limits import free_memory, has
    from scrpo_cli.rollout.base import RowKey, Sampling
    from scrpo_cli.rollout.transformers_engine import TransformersEngine
    from scrpo_cli.training.policy import has_weights, load_policy

    sizes, cfg = checkup.budget.sizes, checkup.recipe.model
    if sizes is None or not has(sizes.device):
        return
    if not has_weights(cfg):
        yield Check("weights", "ok", "not checked: they are on the model hub, and the first run loads them")
    elif sizes.memory["weights"] > free_memory(sizes.device):
        yield Check("weights", "warn", "not checked: they need more memory than is free", "Free some memory.")
    else:
        policy = load_policy(cfg, checkup.recipe.seed)
        engine = TransformersEngine(policy)
        prompt = checkup.chat.ids(checkup.task.messages(Problem("", "", "PROBLEM", "")))
        engine.generate([prompt], Sampling(checkup.recipe.rollout.temperature, 4), [RowKey(0, 0, "doctor", 0)])
        adapter = f", with the adapter {cfg.adapter}" if cfg.adapter else ""
        yield Check("weights", "ok", f"complete and finite{adapter}; so are the logits of an answer")


def check_template(checkup: Checkup) -> Iterator[Check]:
    """The rendered prompt, a prefilled `<think>`, and whether second turns can extend the ids of the first."""
    chat = checkup.chat
    prompt = chat.render(checkup.task.messages(Problem("", "", "PROBLEM", "")))
    yield Check("prompt", "ok", repr(prompt))
    if prompt.rstrip().endswith("<think>"):
        remedy = "Responses lack the opening tag; grading reads up to </think>. Give rollout.max_tokens room to think."
        yield Check("think tag", "warn", "the template itself writes <think> before every answer", remedy)
    if chat.keeps_turns:
        yield Check("second turns", "ok", "earlier turns stay as a prefix: second turns extend the sampled ids")
    else:
        detail = "earlier turns are not kept word for word: second turns are rendered as new prompts"
        yield Check("second turns", "ok", detail)


def check_data(checkup: Checkup) -> Iterator[Check]:
    """The recipe's problems, and the benchmarks that can be read here."""
    from contextlib import closing

    from scrpo_cli.recipe.benchmark import plan
    from scrpo_cli.tasks import make_task
    from scrpo_cli.tasks.guard import unreadable_references

    task = checkup.recipe.task
    train = task.train
    yield Check("task.train", "ok", f"{train.source} ({train.split}): {len(checkup.problems):,} problems")
    for line in unreadable_references(checkup.task, checkup.problems, "task.train"):
        yield Check("train references", "warn", line.removeprefix("warning: "), "Mend them, or leave these out.")
    for role, held_out in (("task.validation", task.validation), ("task.test", task.test)):
        if held_out is not None:
            yield _problems(role, checkup.task, held_out, otherwise="fail")
    benchmarks = plan(checkup.recipe).benchmarks if checkup.recipe.eval.benchmarks else {}
    for name, benchmark in benchmarks.items():
        with closing(make_task(benchmark.task, workers=1)) as own:
            yield _problems(f"benchmark {name}", own, benchmark.problems, otherwise="warn")


def _problems(role: str, task: Any, cfg: ProblemsConfig, otherwise: Literal["warn", "fail"]) -> Check:
    """How many problems there are, or why they cannot be read, with the status for that."""
    try:
        return Check(role, "ok", f"{cfg.source} ({cfg.split}): {len(task.problems(cfg)):,} problems")
    except ScrpoError as error:
        return Check(role, otherwise, error.what, error.fix)


def check_budget(checkup: Checkup) -> Iterator[Check]:
    """Every prompt of the training set against task.max_prompt_tokens."""
    from scrpo_cli.rollout.prompts import check_context, check_prompt_budget

    check_prompt_budget(checkup.recipe.task, checkup.task, checkup.chat, checkup.problems)
    limit = checkup.recipe.task.max_prompt_tokens
    yield Check("prompt budget", "ok", f"all {len(checkup.problems):,} prompts have at most {limit} tokens")
    if sizes := checkup.budget.sizes:
        check_context(checkup.recipe, checkup.chat, sizes.positions)
        yield Check(
            "context", "ok", f"the longest prompt with its completion fits the model's {sizes.positions} positions"
        )


def check_grader(checkup: Checkup) -> Iterator[Check]:
    """One right and one wrong answer through the recipe's own grader."""
    cfg = checkup.recipe.task
    if is_plugin(cfg.name) or cfg.grader:
        yield _own_grader(checkup)
        return
    problem = Problem("self-test", "doctor", "20+22=?", "42")
    right, wrong = checkup.task.grade([(problem, "\\boxed{42}"), (problem, "\\boxed{41}")])
    verdicts = f"42 is {right.verdict}, 41 is {wrong.verdict} ({checkup.task.grader})"
    if (right.verdict, wrong.verdict) == (Verdict.CORRECT, Verdict.WRONG):
        yield Check("grader", "ok", verdicts)
    else:
        yield Check(
            "grader", "fail", f"{verdicts}: {right.reason or wrong.reason}", "Reinstall math-verify and pebble."
        )


def _own_grader(checkup: Checkup) -> Check:
    """What a grader that is not ours makes of the first problem's reference answer, and of nothing. Which verdict is
    right only its author knows; that it gives one can be checked.
    """
    problem, task = checkup.problems[0], checkup.task
    grades = task.grade([(problem, f"\\boxed{{{problem.answer}}}"), (problem, "")])
    verdicts = f"{grades[0].verdict} for a boxed reference answer, {grades[1].verdict} for nothing ({task.grader})"
    for grade in grades:
        if grade.verdict in (Verdict.GRADER_ERROR, Verdict.TIMEOUT):
            return Check("grader", "fail", f"{verdicts}: {grade.reason}", "Mend your grader, or task.grading.deadline.")
    return Check("grader", "ok", verdicts)


def check_sandbox(checkup: Checkup) -> Iterator[Check]:
    """How programs would be sandboxed; only task `code` needs it."""
    from scrpo_cli.tasks.code.execute import find_isolation

    needed = checkup.recipe.task.name == "code"
    try:
        walls = find_isolation(checkup.recipe.task.sandbox.level)
    except UserError:
        if needed:
            raise
        yield Check("sandbox", "ok", "none works here, and this recipe does not need it")
        return
    weaker = walls.level != "namespaces"
    remedy = "docs/data.md says what that leaves open, and how to get namespaces." if weaker and needed else ""
    yield Check("sandbox", "warn" if remedy else "ok", f"{walls.level} by {walls.how}", remedy)


def check_memory(checkup: Checkup) -> Iterator[Check]:
    """The estimate of training's peak against what is free."""
    from scrpo_cli.jobs.budget import size
    from scrpo_cli.jobs.limits import as_sets, free_memory, has, memory_settings

    sizes = checkup.budget.sizes
    if sizes is None or not has(sizes.device):
        return
    free = free_memory(sizes.device)
    detail = f"{size(sizes.peak)} at the peak (estimate), {size(free)} free on {sizes.device}"
    settings = memory_settings(checkup.recipe, sizes, free)
    yield Check("memory", "warn" if settings else "ok", detail, as_sets(settings))


def check_disk(checkup: Checkup) -> Iterator[Check]:
    """Room for the checkpoints where runs are kept: beside the database."""
    from scrpo_cli.jobs.budget import size

    free = shutil.disk_usage(_existing(_database_path(checkup.db) or Path())).free
    needed = checkup.budget.sizes.disk if checkup.budget.sizes else 0
    detail = f"{size(needed)} for checkpoints, {size(free)} free"
    remedy = "Free some space, or lower checkpoint.keep."
    yield Check("disk", "ok", detail) if needed < free else Check("disk", "fail", detail, remedy)


def check_database(checkup: Checkup) -> Iterator[Check]:
    """Opened if it exists, else only whether it could be made; a network disk is a warning."""
    from scrpo_cli.pool.db import Database

    path = _database_path(checkup.db)
    if path is not None and not os.access(folder := _existing(path.parent), os.W_OK):
        yield Check("database", "fail", f"cannot write to {folder}", "Name another place with --db or SCRPO_DB.")
        return
    if path is not None and not path.exists():
        yield Check("database", "ok", f"{path} will be made")
    else:
        with Database.open(checkup.db, create=False) as database:
            yield Check("database", "ok", f"{database.where}: opened, schema up to date")
    kind = _file_system(path) if path else ""
    if kind in NETWORK_DISKS:
        remedy = "Keep it on a local disk, or use PostgreSQL (--db postgresql://...) for several machines."
        yield Check("database disk", "warn", f"{path} is on a network disk ({kind}), where SQLite may corrupt", remedy)


def _database_path(db: str | None) -> Path | None:
    """The file of an SQLite database; None for a server."""
    from scrpo_cli.files import DEFAULT_DATABASE
    from scrpo_cli.pool.db import parse_url

    url = parse_url(db or os.environ.get("SCRPO_DB") or DEFAULT_DATABASE)
    return Path(url.database).absolute() if url.get_backend_name() == "sqlite" and url.database else None


def _existing(path: Path) -> Path:
    """The nearest directory above `path` that is there."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _file_system(path: Path) -> str:
    """The kind of file system that holds `path`: that of the longest mount point above it."""
    import psutil

    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else ""


def check_wandb(checkup: Checkup) -> Iterator[Check]:
    from scrpo_cli.tracking.wandb_sink import resolve_mode

    asked = checkup.recipe.tracking.wandb.mode
    mode = resolve_mode(asked)
    detail = {
        "online": "online",
        "offline": "offline: runs are kept on disk, and `wandb sync` uploads them",
        "off": "off: metrics go to metrics.jsonl and the database",
    }[mode]
    remedy = "`wandb login` makes it online." if (asked, mode) == ("auto", "offline") else ""
    yield Check("tracking.wandb", "ok", detail, remedy)


CHECKS: dict[str, Callable[[Checkup], Iterator[Check]]] = {
    "python": check_python,
    "packages": check_packages,
    "device": check_device,
    "engine": check_engine,
    "model": check_model,
    "threads": check_cores,
    "template": check_template,
    "weights": check_weights,
    "task.train": check_data,
    "prompt budget": check_budget,
    "grader": check_grader,
    "sandbox": check_sandbox,
    "memory": check_memory,
    "disk": check_disk,
    "database": check_database,
    "tracking.wandb": check_wandb,
}
