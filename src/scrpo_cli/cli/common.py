"""What all commands share: their options, where output goes, and how errors end.

Answers go to stdout, everything said along the way to stderr, so `scrpo ... --json | jq` always works.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json

from scrpo_cli.cli import completion
from scrpo_cli.errors import ScrpoError, UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar="SCRPO_DB",
        show_default=completion.DEFAULT_DATABASE,
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
        "--from-jsonl", metavar="FILE", help="External responses, one JSON object a line (.gz); see --format."
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

    def say(self, text: RenderableType = "") -> None:
        """A line (plain text: brackets stay brackets) or a Rich renderable on stderr."""
        _print(self.console, text)

    def result(self, data: Mapping[str, Any], *parts: RenderableType) -> None:
        """The answer: `data` as one JSON document under --json, else `parts` for a reader; strings are not folded."""
        if self.json:
            write_json(data)
            return
        from rich.console import Console

        console = Console(highlight=False)
        for part in parts:
            _print(console, part)


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
    return [*given.get("--set", ()), *(f"{key}={given[name]}" for name, key in keys.items() if name in given)]


def refuse_with_resume(context: typer.Context, resume: str | None, *fine: str) -> None:
    """UserError when --resume stands beside options that the run was started with. `fine`: those that may."""
    extra = [name for name in given_options(context) if name not in (*EVERYWHERE, "--resume", *fine)]
    if resume is not None and extra:
        fix = f"Drop {', '.join(extra)}, or start a new run."
        raise UserError("A resumed run keeps the recipe and options of its start.", f"--resume {resume}", fix)


def refuse_without_file(context: typer.Context, file: object) -> None:
    """UserError when --map or --format say how to read a file, and there is none."""
    if file is None and (extra := [name for name in ("--map", "--format") if name in given_options(context)]):
        raise UserError(f"{extra[0]} says how a file is read.", "--from-jsonl", "Name the file with --from-jsonl.")


def write_json(data: Mapping[str, Any]) -> None:
    """One JSON document on stdout. Infinities and NaN, which JSON lacks, become null; numpy values are unpacked."""
    document = to_json(data, indent=2, inf_nan_mode="null", fallback=_unpack)
    sys.stdout.write(document.decode() + "\n")
    sys.stdout.flush()


def _unpack(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def report_error(error: Exception, argv: Sequence[str]) -> int:
    """Print `error` as what, where, how to fix (stderr; with --json also as a document on stdout); its exit code.

    `argv` is searched for --debug and --json because the error may be that it could not be parsed.
    """
    if "--debug" in argv:
        traceback.print_exception(error)
    known = error if isinstance(error, ScrpoError) else _known(error)
    labels = ("Error: ", "  where: ", "  fix: ")
    parts = zip(labels, (known.what, known.where, known.fix), strict=True)
    sys.stderr.write("".join(f"{label}{part}\n" for label, part in parts if part))
    if "--json" in argv:
        fields = {"what": known.what, "where": known.where, "fix": known.fix, "exit_code": known.exit_code}
        write_json({"error": fields})
    return known.exit_code


def _known(error: Exception) -> ScrpoError:
    """Any other exception as one with three lines: a mistake in the options, or something nobody foresaw."""
    if isinstance(error, typer.BadParameter.__mro__[1]):  # click's UsageError, which some typer versions bundle
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "scrpo"
        return UserError(error.format_message(), command, f"See `{command} --help`.")  # type: ignore[attr-defined]
    if isinstance(error, MemoryError):
        return ScrpoError("Out of memory", str(error), "Lower rollout.batch_size or optim.tokens_per_microbatch.")
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    return ScrpoError(message, _last_line_of_ours(error), "This is unexpected: --debug shows the traceback.")


def _last_line_of_ours(error: Exception) -> str:
    """`file:line` of the innermost frame, which is where an unexpected exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
