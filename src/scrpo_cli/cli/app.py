"""`scrpo`: finds the command, runs it, and turns every exception into three lines and an exit code.

Commands are named in a table and imported only when they are called, so that `scrpo --help` loads none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from scrpo_cli import launch
from scrpo_cli.cli.common import refuse_empty, report_error
from scrpo_cli.errors import Interrupted, UserError
from scrpo_cli.signals import deaf, handled, interrupting, let_through
from scrpo_cli.streams import writing_to_stdout
from scrpo_cli.tracking import activity

COMMANDS = {
    "recipe": ("recipe:app", "List, show and check recipes."),
    "doctor": ("doctor:doctor", "Check what works on this machine, with a remedy for what does not."),
    "collect": ("collect:collect", "Sample a policy on problems, grade, keep the wrong answers in the error pool."),
    "correct": ("correct:correct", "Make the policy reflect on pooled errors and try again."),
    "advise": ("advise:advise", "Whether reflecting on errors is likely to pay, from a small sample."),
    "audit": ("audit:audit", "How much of a repair the reflection causes, from a small sample."),
    "train": ("train:train", "LoRA training by recipe."),
    "fork": ("fork:fork", "Branch a run from a checkpoint, with the same draws, under a changed recipe."),
    "eval": ("evaluate:evaluate", "Benchmarks with intervals: one answer or two turns."),
    "ablate": ("ablate:ablate", "Vary one thing, over seeds, at equal budget, with statistics and a plot."),
    "grade": ("grade:grade", "Grade answers."),
    "overlap": ("overlap:overlap", "Problems that two data sets share."),
    "pool": ("pool:app", "Look into the error pool."),
    "db": ("db:app", "Databases as files: merge those of many machines."),
    "power": ("power:power", "How large a difference so many problems and samples can show."),
    "report": ("report:report", "A sweep or runs as one HTML file that can be sent."),
    "runs": ("runs:app", "Look at earlier runs."),
    "export": ("export:export", "What a run has learned, for transformers, peft and vLLM."),
}
"""Name -> (module of this package:attribute, one line of help). The attribute is a function or a `typer.Typer`."""

COMPLETE = "_SCRPO_COMPLETE"
"""The environment variable by which a shell asks for completions; it wants no error in its line."""

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """Lists commands by their line in the table and imports only the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if importlib.util.find_spec(_module(name))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        return TyperCommand(name=cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {n: self.get_command(ctx, n) for n in self.list_commands(ctx)}  # where it looks for suggestions
        name, found, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if found and name else found, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        finally:
            activity.show_on(None)


def _module(name: str) -> str:
    return f"scrpo_cli.cli.{COMMANDS[name][0].split(':')[0]}"


def load_command(name: str) -> Any:
    """Import the command `name` and build its parser."""
    target = getattr(importlib.import_module(_module(name)), COMMANDS[name][0].split(":")[1])
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(name, context_settings=HELP_OPTIONS)(function)
    return with_plain_flags(typer.main.get_command(target))


def with_plain_flags(command: Any) -> Any:
    """The command, and those below it, without the `<bool>` that help shows after a flag."""
    for parameter in command.get_params(command.context_class(command, **command.context_settings)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for below in getattr(command, "commands", {}).values():
        with_plain_flags(below)
    return command


app = typer.Typer(cls=LazyGroup, context_settings=HELP_OPTIONS)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        with writing_to_stdout():
            typer.echo(f"scrpo {version('scrpo-cli')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Does learning from its own errors make a language model reason better, by which method, and how often
    should it reflect?
    """


def refuse_several(args: Sequence[str]) -> None:
    """UserError where a launcher has started several processes of a command that is not one for several."""
    if launch.processes() > 1 and args[0] in COMMANDS and args[0] != "train":
        fix = "Start it without the launcher."
        raise UserError("Only `scrpo train` runs in several processes.", f"scrpo {args[0]}", fix)


def help_first(args: Sequence[str]) -> None:
    """What a process does that is not its launcher's first, which runs the command and says all there is to say."""
    if args[0] == "train" and not {"--dry-run", "--help", "-h"} & {*args}:
        with handled(signal.SIG_DFL):  # the launcher ends it where the first does not get so far
            let_through()
            from scrpo_cli.training.helping import help_out

            help_out()


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Exit codes: 0 done, 1 failed, 2 the input is wrong, 130 interrupted with state saved."""
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if "--debug" not in args:
        warnings.simplefilter("ignore", FutureWarning)  # our dependencies' talk to each other
    sys.exit(ending_of(lambda: run(args), args))


def run(args: Sequence[str]) -> Any:
    if launch.rank():
        help_first(args)
        return 0
    with interrupting():
        refuse_empty(args)
        refuse_several(args)
        code = with_plain_flags(typer.main.get_command(app)).main([*args], prog_name="scrpo", standalone_mode=False)
        if code == Interrupted.exit_code:  # typer's word for it
            raise KeyboardInterrupt
        with writing_to_stdout():
            pass  # what still has to be written
    return code


def run_inside(args: Sequence[str]) -> int:
    """A command that is one of several of this process, each in a thread of its own; its exit code."""
    own = load_command(args[0])
    return ending_of(lambda: own.main([*args[1:]], prog_name=f"scrpo {args[0]}", standalone_mode=False), args)


def ending_of(command: Callable[[], Any], args: Sequence[str]) -> int:
    """The exit code of a command; what it raises is reported."""
    try:
        code = command()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 the one place that turns any into an exit code
        with deaf():
            return 0 if COMPLETE in os.environ else report_error(error, args)
    return code if isinstance(code, int) else 0
