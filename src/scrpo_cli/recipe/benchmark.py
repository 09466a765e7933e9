"""Benchmarks as data: one YAML file says which problems, how they are asked, how often, and where they are from.

    name: mine                                    # a benchmark of one's own: `scrpo eval --benchmarks mine.yaml`
    description: Forty of our own problems.
    task: {name: math, prompt: "{problem} Put your final answer within \\boxed{}."}
    problems: {source: mine.jsonl, split: test}
    sampling: {samples: 8, temperature: 0.6, top_p: 0.95, max_tokens: 4096}

A suite has `benchmarks: [a, b]` instead of task and problems, and may change their `sampling` and `task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.recipe.document import Document, read_document
from scrpo_cli.recipe.models import ProblemsConfig, ProtocolConfig, Recipe, TaskConfig
from scrpo_cli.section import Section

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SUFFIXES = (".yaml", ".yml")
LABEL_CUTOFF = 0.75
"""A label of one's own is refused when it is as like a benchmark's name as that (`gsm9k`, and not `gsm8k-train`)."""
SPLITS = ("train", "validation", "test")
PROMPTS = (
    "system",
    "prompt",
    "check_prompt",
    "reflect_prompt",
    "retry_prompt",
    "feedback_prompt",
    "refine_prompt",
    "verdict_prompt",
    "reflection",
    "shots",
)
"""The keys of a task that say how problems are asked: with `eval.prompt: recipe` they are the recipe's."""


class OriginConfig(Section):
    """Where the problems are from; what is recorded with every number."""

    repository: str = ""
    """Of the copy that our data were made from."""
    revision: str = ""
    """Its commit."""
    note: str = ""


class Benchmark(Section):
    name: str
    description: str = ""
    task: TaskConfig
    """The task that grades, and its prompts."""
    problems: ProblemsConfig
    sampling: ProtocolConfig = ProtocolConfig()
    origin: OriginConfig = OriginConfig()

    @field_validator("task")
    @classmethod
    def _problems_are_said_once(cls, task: TaskConfig) -> TaskConfig:
        if named := task.model_fields_set & {*SPLITS}:
            raise ValueError(f"a benchmark names its problems under `problems`, not under task.{min(named)}")
        return task


class Suite(Section):
    name: str
    description: str = ""
    benchmarks: list[str]
    """Names of shipped benchmarks, or files beside this one."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Changes of every benchmark's sampling."""
    task: dict[str, Any] = Field(default_factory=dict)
    """Changes of every benchmark's prompts."""
    average: bool = True
    """Also report the plain mean over the benchmarks."""


@dataclass(frozen=True)
class EvalPlan:
    """What `scrpo eval` runs: benchmarks by the name that their numbers are stored under, and the suites whose average
    is reported, with those names.
    """

    benchmarks: dict[str, Benchmark]
    suites: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"benchmarks": {n: b.model_dump(mode="json") for n, b in self.benchmarks.items()}, "suites": self.suites}

    @classmethod
    def read(cls, data: Any) -> EvalPlan:
        """The inverse; splits are dropped again, which a dump spells out."""
        found = {name: _parsed(b) for name, b in data["benchmarks"].items()}
        return cls(found, data["suites"])


def _parsed(dump: dict[str, Any]) -> Benchmark:
    task = {key: value for key, value in dump["task"].items() if key not in SPLITS}
    return Benchmark.model_validate({**dump, "task": task})


@cache
def shipped() -> dict[str, Benchmark | Suite]:
    """The benchmarks and suites of the package, by name."""
    found = [read(path) for path in sorted(FOLDER.glob("*.yaml"))]
    return {b.name: b for b in sorted(found, key=lambda b: isinstance(b, Suite))}


def read(path: Path) -> Benchmark | Suite:
    """A benchmark or suite file; UserError with file and line of the first mistake."""
    document = read_document(path)
    document.data.setdefault("name", path.stem)
    model = Suite if "benchmarks" in document.data else Benchmark
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise _explained(error, model, document, path) from None


def _explained(error: ValidationError, model: type[Section], document: Document, path: Path) -> UserError:
    detail = error.errors(include_url=False)[0]
    key = tuple(str(part) for part in detail["loc"])
    what = detail["msg"].removeprefix("Value error, ")
    fix = f"A benchmark has {', '.join(model.model_fields)}."
    if detail["type"] == "extra_forbidden":
        what = f"Unknown key '{'.'.join(key)}'"
        sections: dict[str, type[Section]] = {"task": TaskConfig, "problems": ProblemsConfig}
        sections |= {"sampling": ProtocolConfig, "origin": OriginConfig}
        fields = sections[key[0]].model_fields if len(key) > 1 and key[0] in sections else model.model_fields
        fix = nearest(key[-1], fields) or f"Legal here: {', '.join(fields)}."
    elif key:
        what = f"'{'.'.join(key)}': {what}"
    return UserError(what, document.origin(key) or str(path), fix)


def plan(recipe: Recipe) -> EvalPlan:
    """`eval.benchmarks` of a recipe: names and files of benchmarks and suites; anything else is a data set, whose test
    split is asked and graded by the recipe's own task.
    """
    if not recipe.eval.benchmarks:
        raise UserError("No benchmarks to run.", "eval.benchmarks", "Name some with --benchmarks a,b.")
    chosen: dict[str, Benchmark] = {}
    suites: dict[str, list[str]] = {}
    for ref in recipe.eval.benchmarks:
        found = find(ref, recipe)
        members = members_of(found, ref) if isinstance(found, Suite) else {found.name: found}
        if isinstance(found, Suite) and found.average and len(members) > 1:
            suites[found.name] = [*members]
        for name, benchmark in members.items():
            asked = with_prompts(benchmark, recipe)
            if chosen.setdefault(name, asked) != asked:
                fix = "Give one of them another name."
                raise UserError(f"Two different benchmarks are called '{name}'.", f"eval.benchmarks: {ref}", fix)
    return EvalPlan(chosen, suites)


def find(ref: str, recipe: Recipe) -> Benchmark | Suite:
    """What a name or path stands for. A word near a benchmark's name that is no data set fails when it is read."""
    if ref in shipped():
        return shipped()[ref]
    if Path(ref).suffix in SUFFIXES:
        return read(Path(ref))
    return plain(ref, recipe)


def benchmark_of_label(label: str, recipe: Recipe) -> Benchmark | None:
    """The shipped benchmark, or changed one of a suite (`suite/benchmark`), of that name; None where there is none."""
    suite = shipped().get(label.partition("/")[0])
    found = members_of(suite, suite.name).get(label) if isinstance(suite, Suite) else shipped().get(label)
    return with_prompts(found, recipe) if isinstance(found, Benchmark) else None


def misspelt(label: str) -> str:
    """What to say of a label that is nearly the name of a shipped benchmark, or the name of its problems, or that
    begins with a suite; else nothing.
    """
    if isinstance(suite := shipped().get(label.partition("/")[0]), Suite):
        return f"'{suite.name}' is a suite; its benchmarks are {', '.join(members_of(suite, suite.name))}."
    known = {b.name: b.problems.source for b in shipped().values() if isinstance(b, Benchmark)}
    if label in known:
        return ""
    same = [name for name, source in known.items() if source == label]
    return f"Did you mean '{same[0]}'?" if same else nearest(label, known, cutoff=LABEL_CUTOFF)


def plain(source: str, recipe: Recipe) -> Benchmark:
    """The test split of a data set under the recipe's own task."""
    task = _parsed_task(recipe.task, {})
    return Benchmark(name=source, task=task, problems=ProblemsConfig(source=source, split="test"))


def members_of(suite: Suite, ref: str) -> dict[str, Benchmark]:
    """The benchmarks of a suite under its changes. A benchmark that is changed is named `suite/benchmark`."""
    changed = bool(suite.sampling or suite.task)
    members = {}
    for name in suite.benchmarks:
        path = Path(ref).parent / name
        found = shipped().get(name) if path.suffix not in SUFFIXES else read(path)
        if not isinstance(found, Benchmark):
            fix = nearest(name, shipped()) or "`scrpo eval --list` lists the benchmarks."
            raise UserError(f"The suite {suite.name} names '{name}', which is no benchmark.", ref, fix)
        if changed:
            sampling = found.sampling.model_dump() | suite.sampling
            dump = {**found.model_dump(), "name": f"{suite.name}/{found.name}", "sampling": sampling}
            try:
                found = Benchmark.model_validate({**dump, "task": _parsed_task(found.task, suite.task)})
            except ValidationError as error:
                document = Document({}, {(): ref})
                raise _explained(error, Suite, document, Path(ref)) from None
        members[found.name] = found
    return members


def _parsed_task(task: TaskConfig, changes: dict[str, Any]) -> TaskConfig:
    """The task without its splits."""
    rest = {key: value for key, value in task.model_dump().items() if key not in SPLITS}
    return TaskConfig.model_validate(rest | changes)


def with_prompts(benchmark: Benchmark, recipe: Recipe) -> Benchmark:
    """As this recipe asks and grades it: with its `task.grading` and `task.sandbox` and its own grader, if it names
    one; with `eval.prompt: recipe` with its prompts; and with the larger bound on prompts.
    """
    keys = ["grading", "sandbox", *(["grader", "options"] if recipe.task.grader else [])]
    keys += PROMPTS if recipe.eval.prompt == "recipe" else ()
    theirs: dict[str, Any] = {key: getattr(recipe.task, key) for key in keys}
    theirs["max_prompt_tokens"] = max(benchmark.task.max_prompt_tokens, recipe.task.max_prompt_tokens)
    return benchmark.model_copy(update={"task": benchmark.task.model_copy(update=theirs)})


def other_prompts(benchmark: Benchmark, recipe: Recipe) -> list[str]:
    """The keys in which the benchmark's prompts differ from those of a recipe with the same task."""
    if benchmark.task.name != recipe.task.name:
        return []
    return [key for key in PROMPTS if getattr(benchmark.task, key) != getattr(recipe.task, key)]


def listing(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each shipped benchmark and suite."""
    return [row(shipped()[name]) for name in (names or shipped())]


def row(found: Benchmark | Suite) -> dict[str, Any]:
    if isinstance(found, Suite):
        return {
            "name": found.name,
            "kind": "suite",
            "description": found.description,
            "benchmarks": found.benchmarks,
            "sampling": found.sampling,
        }
    return {
        "name": found.name,
        "kind": "benchmark",
        "description": found.description,
        "task": found.task.name,
        "problems": f"{found.problems.source} ({found.problems.split})",
        "sampling": found.sampling.model_dump(),
        "origin": found.origin.model_dump(),
    }
