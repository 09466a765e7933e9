"""What all commands share: their options, where output goes, and how errors end.

Answers go to stdout, everything said along the way to stderr, so `scrpo ... --json | jq` always works.
"""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.errors import Interrupted, RunError, ScrpoError, UserError, shown
from scrpo_cli.files import BAD_PLACE, DEFAULT_DATABASE, UNFINISHED
from scrpo_cli.signals import is_interruption
from scrpo_cli.streams import is_stdout, writing_to_stdout
from scrpo_cli.tracking import activity

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from scrpo_cli.recipe.models import Recipe

DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar="SCRPO_DB",
        show_default=DEFAULT_DATABASE,
        help="Database: a path or an SQLAlchemy URL.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the answer and errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
DEFAULT_RECIPE = "tiny"
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="R",
        autocompletion=completion.recipes,
        show_default=DEFAULT_RECIPE,
        help="A shipped recipe (`scrpo recipe ls`) or a YAML file.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override one recipe key, e.g. optim.lr=2e-6; repeat for more."),
]

MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Take one micro-step here: hours, memory and database of the whole run.")
]

DEFAULT_POOL = "default"
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="NAME", autocompletion=completion.pools, show_default=DEFAULT_POOL, help="The pool's name."
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OURS=THEIRS", help="Read our field from theirs, e.g. finish=stop_reason; repeat."),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from-jsonl", metavar="FILE", help="External responses, one JSON object a line (.gz, or - for stdin)."
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="F",
        autocompletion=completion.among("jsonl", "lm-eval", "inspect"),
        help="What wrote the file of --from-jsonl: jsonl (ours), lm-eval, inspect.",
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="RUN", autocompletion=completion.unfinished_runs, help="Continue an interrupted run."
    ),
]
AdapterOption = Annotated[str | None, typer.Option("--adapter", metavar="DIR", help="A PEFT adapter to sample with.")]
GateOption = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="SIGNAL",
        autocompletion=completion.among("logprob", "mean_logprob", "agreement", "verdict"),
        help="Reflect by logprob, mean_logprob, agreement or verdict.",
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        "--gate-threshold",
        metavar="X",
        autocompletion=completion.among("never", "always"),
        help="Number, never or always; default: fitted on task.validation.",
    ),
]
PairsOption = Annotated[
    list[str] | None,
    typer.Option("--pairs", metavar="'NAME*'", help="Also compare all arms of this name among each other; repeat."),
]
MarginOption = Annotated[
    float | None,
    typer.Option("--margin", min=0.0, max=100.0, metavar="POINTS", help="Test whether arms are equal within this."),
]
EVERYWHERE = ("--db", "--json", "--quiet", "--debug")


class Output:
    """Where a command speaks: `say` and `console` along the way (stderr), `result` once at the end (stdout)."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Rich on stderr, silent under --quiet; for progress displays and tables shown along the way."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, quiet=self.quiet, highlight=False)
        return self._console

    def begin(self, text: str) -> None:
        """Said before anything slow is imported; from here on what is being done is shown on stderr."""
        activity.show_on(self.console)
        activity.now().stage(text)

    def say(self, text: RenderableType = "") -> None:
        """A line (plain text: brackets stay brackets) or a Rich renderable on stderr."""
        _print(self.console, text)
        activity.now().spoke()

    def result(self, data: Mapping[str, Any], *parts: RenderableType) -> None:
        """The answer: `data` as one JSON document under --json, else `parts` for a reader; strings are not folded."""
        activity.now().clear()
        if self.json:
            write_json(data)
        for part in parts:
            self.part(part)

    def part(self, part: RenderableType) -> None:
        """A piece of an answer that is shown before the rest is known; --json has the whole at the end."""
        if self.json:
            return
        from rich.console import Console

        activity.now().clear()
        with writing_to_stdout():
            _print(Console(highlight=False), part)

    def check_file(self, file: Path) -> None:
        """UserError where a file that is to be written is stdout, and --json speaks there."""
        if self.json and is_stdout(file):
            raise UserError("--json and the file are both written to stdout.", f"-o {file}", "Leave out one of them.")

    def wrote(self, file: Path, data: Mapping[str, Any], text: str) -> None:
        """The answer of a command that wrote a file; where that is stdout it is said on stderr."""
        from scrpo_cli.layout import Prose

        if is_stdout(file):
            self.say(text)
        else:
            self.result(data, Prose(text))


def named(run: str | None, recipe: str | None) -> str:
    """What a command works on, as far as its line says."""
    return f"recipe {recipe or DEFAULT_RECIPE}" if run is None else f"run {run}"


def as_yaml(data: Mapping[str, Any]) -> str:
    """YAML that is folded, as YAML may be, to the width of the terminal; into a pipe it is not folded."""
    import yaml
    from rich.console import Console

    console = Console()
    width = console.width - 20 if console.is_terminal else float("inf")  # a line ends with the word that passes it
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=width).rstrip()


def _print(console: Console, part: RenderableType) -> None:
    """Strings are never folded, so that commands and paths can be copied; into a pipe, which has no width, nothing is.
    What folds on a terminal (`scrpo_cli.layout`) may hold a word that is longer than a line: it is not cropped.
    """
    console.print(part, markup=False, soft_wrap=isinstance(part, str) or not console.is_terminal, crop=False)


def given_options(context: typer.Context) -> dict[str, Any]:
    """What stands on the command line, by the name of the option as help shows it; arguments are left out."""
    options = [p for p in context.command.params if p.param_type_name == "option" and p.name]
    asked = [p for p in options if (source := context.get_parameter_source(p.name)) and source.name == "COMMANDLINE"]
    return {p.opts[0]: context.params[p.name] for p in asked}


def sets_of(context: typer.Context, keys: Mapping[str, str]) -> list[str]:
    """The --set items of the command line, then its options that are short for recipe keys (option -> key)."""
    given = given_options(context)
    warn_of_idle_sets(context, keys)
    return [*given.get("--set", ()), *(f"{key}={given[name]}" for name, key in keys.items() if name in given)]


def warn_of_idle_sets(context: typer.Context, keys: Mapping[str, str]) -> None:
    """Say which --set has no effect because an option stands beside it that is short for its key (option -> key)."""
    given = given_options(context)
    set_keys = [item.partition("=")[0].strip() for item in given.get("--set", ())]
    for name, key in keys.items():
        if name in given and key in set_keys and "--quiet" not in given:
            typer.echo(f"--set {key} has no effect: {name} goes before it", err=True)


def warn_of_unread_sets(context: typer.Context, sections: Collection[str], why: str) -> None:
    """Say which --set has no effect because the command reads nothing of its section of the recipe."""
    given = given_options(context)
    for key in (item.partition("=")[0].strip() for item in given.get("--set", ())):
        if key.partition(".")[0] in sections and "--quiet" not in given:
            typer.echo(f"--set {key} has no effect: {why}", err=True)


def refuse_with_resume(context: typer.Context, resume: str | None, *fine: str) -> None:
    """UserError when --resume stands beside options that the run was started with. `fine`: those that may."""
    extra = [name for name in given_options(context) if name not in (*EVERYWHERE, "--resume", *fine)]
    if resume is not None and extra:
        fix = f"Drop {', '.join(extra)}, or start a new run."
        raise UserError("A resumed run keeps the recipe and options of its start.", f"--resume {resume}", fix)


READS_A_FILE = dict.fromkeys(("--map", "--format"), "--from-jsonl")


def refuse_idle(
    context: typer.Context, needs: Mapping[str, str], idle: Mapping[str, tuple[Sequence[str], str]] | None = None
) -> None:
    """UserError for options of which nothing would come. `needs`: option -> the one without which it does nothing;
    `idle`: option -> (those that do nothing beside it, why).
    """
    given = given_options(context)
    for name, other in needs.items():
        if name in given and other not in given:
            raise idle_without(context, name, other)
    for name, (others, why) in (idle or {}).items():
        if name in given and (extra := [other for other in given if other in others]):
            listed = ", ".join(extra)
            raise UserError(f"{listed}: {why}.", name, f"Leave out {listed}, or {name}.")


def idle_without(context: typer.Context, name: str, other: str) -> UserError:
    what, fix = f"{name} has no effect without {other}.", f"Add {other}, or leave out {name}."
    return UserError(what, context.command_path, fix)


def refuse_idle_threshold(context: typer.Context, recipe: Recipe) -> None:
    """UserError for --gate-threshold where neither --gate nor the recipe names a signal."""
    if "--gate-threshold" in given_options(context) and recipe.eval.gate.signal == "none":
        raise idle_without(context, "--gate-threshold", "--gate")


MAY_BE_EMPTY = ("--gold", "--answer", "--set")
"""Options that take an empty text; of --set, the item."""


def refuse_empty(args: Sequence[str]) -> None:
    """UserError for an empty word on the command line, which is mostly a variable of the shell that is not set: an
    option would be taken for one that was not given.
    """
    for before, word in pairwise(["", *args]):
        name, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and not value.strip() and name not in MAY_BE_EMPTY:
            what = f"{name} is empty." if name.startswith("-") else "An argument is empty."
            raise UserError(what, f"{name} {value!r}".strip(), "Is a variable of the shell not set? Or leave it out.")


def write_json(data: Mapping[str, Any]) -> None:
    """One JSON document on stdout. Infinities and NaN, which JSON lacks, become null; numpy values are unpacked."""
    from pydantic_core import to_json

    document = to_json(data, indent=2, inf_nan_mode="null", fallback=_unpack)
    with writing_to_stdout():
        sys.stdout.write(document.decode() + "\n")


def _unpack(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def report_error(error: BaseException, argv: Sequence[str]) -> int:
    """Print `error` as what, where, how to fix (stderr; with --json also as a document on stdout); its exit code.

    `argv` is searched for --debug and --json because the error may be that it could not be parsed.
    """
    if "--debug" in argv:
        traceback.print_exception(error)
    known = error if isinstance(error, ScrpoError) else _known(error, argv)
    labels = ("Error: ", "  where: ", "  fix: ")
    where, fix = (" ".join(text.splitlines()) for text in (known.where, known.fix))  # a name may hold line breaks
    parts = zip(labels, (known.what, where, fix), strict=True)
    with suppress(OSError):  # full, or nobody reads it: the exit code is left to tell
        sys.stderr.write("".join(f"{label}{part}\n" for label, part in parts if part))
    if "--json" in argv:
        fields = {"what": known.what, "where": known.where, "fix": known.fix, "exit_code": known.exit_code}
        with suppress(RunError):  # stdout is full, as has just been said
            write_json({"error": fields})
    return known.exit_code


def _known(error: BaseException, argv: Sequence[str]) -> ScrpoError:
    """Any other exception as one with three lines: a signal outside of a run, a mistake in the options, or something
    nobody foresaw.
    """
    if is_interruption(error):
        return Interrupted("Interrupted", shlex.join(["scrpo", *argv]), "Run the same command again.")
    if isinstance(error, typer.BadParameter.__mro__[1]):  # click's UsageError, which some typer versions bundle
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "scrpo"
        return UserError(error.format_message(), command, f"See `{command} --help`.")  # type: ignore[attr-defined]
    if isinstance(error, MemoryError):
        return ScrpoError("Out of memory", str(error), "Lower rollout.batch_size or optim.tokens_per_microbatch.")
    if isinstance(error, OSError) and error.errno in UNFINISHED:
        where = error.filename or _last_line_of_ours(error)
        return RunError(f"Cannot write: {error.strerror}", where, "Make room, or write somewhere else.")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError("No file has so long a name.", shown(error.filename), "Check the path or the name.")
    if isinstance(error, OSError) and error.errno in BAD_PLACE and error.filename is not None:
        return UserError(
            f"Cannot be used: {error.strerror}", str(error.filename), "Check the path and its permissions."
        )
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    return ScrpoError(message, _last_line_of_ours(error), "This is unexpected: --debug shows the traceback.")


def _last_line_of_ours(error: BaseException) -> str:
    """`file:line` of the innermost frame, which is where an unexpected exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
