"""What the documentation says holds: generated pages are fresh, links lead somewhere, shown commands and recipes are
valid, defaults in the method pages are the real ones, and the worked example of ScRPO's credit is what the code does.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import yaml

from scrpo_cli.ablation.grid import check_arms, make_arms, split_recipes
from scrpo_cli.ablation.study import arms_of, find_study, read_study
from scrpo_cli.cli.app import load_command
from scrpo_cli.methods.parts.advantages import group_norm
from scrpo_cli.methods.registry import NAMES, method_class
from scrpo_cli.recipe.load import load_recipe, shipped_recipes
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.segments import reflection_mask

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "bench", "src")
PAGES = [*ROOT.glob("*.md"), *sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))]
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
NAMED = re.compile(r"^`([\w.]+)`:\n\n```.*\n((?:.*\n)*?)^```$", re.MULTILINE)
"""A file that a page shows under its name."""
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?:(?: {4}.*)?\n)+)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
ASSIGNMENTS = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*")
PAGE_IDS = [str(p.relative_to(ROOT)) for p in PAGES]
pages = pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)


def tool(name: str) -> ModuleType:
    """tools/NAME.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


REFERENCE = tool("cli_reference")
CONFIGS = {name.replace("_", "-"): method_class(name).Config() for name in NAMES}
"""Of every method, by the name of its page."""
OPTIONS = {command.words: command.options for command in REFERENCE.commands()}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(info string, content) of every fenced block, then every indented one."""
    yield from BLOCK.findall(text)
    for block in INDENTED.findall(BLOCK.sub("", text)):
        yield "", block


def command_lines(text: str) -> Iterator[str]:
    """What follows `scrpo ` in every code line of a page, continued lines joined, pipes and comments cut off."""
    for _, content in blocks(text):
        for line in content.replace("\\\n", " ").splitlines():
            bare = ASSIGNMENTS.sub("", line.strip())
            if bare.startswith("scrpo "):
                yield re.split(r"\s+[|>]\s|\s{2,}#|\s#\s", bare)[0].removeprefix("scrpo ")


def inline_commands(text: str) -> Iterator[str]:
    for code in INLINE.findall(BLOCK.sub("", text)):
        if code.startswith("scrpo ") and not code.startswith("scrpo COMMAND"):
            yield code.removeprefix("scrpo ")


def split_command(line: str) -> tuple[tuple[str, ...], list[str]]:
    """(the command's words, its arguments); the words are as many as name a command."""
    words = shlex.split(line)
    for count in (2, 1):
        if tuple(words[:count]) in OPTIONS:
            return tuple(words[:count]), words[count:]
    groups = {group for group, *rest in OPTIONS if rest}
    assert words[0] in groups or words[0].startswith("-"), f"no such command: scrpo {line}"
    assert len(words) == 1, f"no such command: scrpo {line}"
    return tuple(words), []


def parse(line: str) -> None:
    """Parse a whole line as the command line would, without running it; raises for what it would refuse."""
    words, arguments = split_command(line)
    command = load_command(words[0])
    command = command.commands[words[1]] if len(words) == 2 else command
    command.make_context(" ".join(words), [*arguments])  # parsing empties the list
    recipe = option(arguments, "--recipe", "-r") or "tiny"
    if recipe in shipped_recipes() and "--set" in OPTIONS[words]:
        load_recipe(recipe, values(arguments, "--set"))
    study = option(arguments, "--study")
    if study is not None and "/" in study:
        find_study(study)
    if words == ("ablate",) and not {"--resume", "--extend", "--tune", "--race", "--study"} & {*arguments}:
        recipes = split_recipes(values(arguments, "--recipe", "-r")) or ["tiny"]
        varied = (option(arguments, "--reflect-every"), values(arguments, "--vary"))
        check_arms(make_arms(recipes, *varied, values(arguments, "--set"), named=len(recipes) > 1))


def values(arguments: list[str], *names: str) -> list[str]:
    """What follows each of these options."""
    return [b for a, b in pairwise(arguments) if a in names]


def option(arguments: list[str], *names: str) -> str | None:
    return next(iter(values(arguments, *names)), None)


def test_the_command_reference_is_fresh() -> None:
    assert REFERENCE.PAGE.read_text() == REFERENCE.cli_page(), "stale: run `make docs`"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{target}: no such heading"


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page, and those that it spells out."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'<a id="(\w+)">', text))


@pages
def test_shown_command_lines_parse(page: Path) -> None:
    for line in command_lines(page.read_text()):
        parse(line)


@pages
def test_commands_named_in_the_text_exist(page: Path) -> None:
    for line in inline_commands(page.read_text()):
        words, arguments = split_command(line)
        names = {argument.split("=")[0] for argument in arguments if re.match(r"--?[a-z]", argument)}
        assert names <= OPTIONS.get(words, {"--help", "--version"}) | {"--help"}, line


@pages
def test_shown_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    code = [line for _, content in blocks(text) for line in content.splitlines()] + INLINE.findall(text)
    shown = {words[1] for line in code if (words := line.strip().split())[:1] == ["make"] and len(words) > 1}
    assert {word for word in shown if "=" not in word} <= targets


@pages
def test_shown_recipes_are_valid(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    for name, content in NAMED.findall(text):  # what a recipe refers to
        (tmp_path / name).write_text(content)
    for info, content in blocks(text):
        if info == "yaml":
            path = tmp_path / "shown.yaml"
            path.write_text(content)
            load_recipe(path)
        if info == "yaml study":
            path = tmp_path / "study.yaml"
            path.write_text(content)
            arms_of(read_study(path), tmp_path)


def test_keys_of_the_recipe_page_exist_with_their_defaults() -> None:
    """Tables of keys, defaults and meanings: one default for each key of a row, or one for all, or none shown."""
    tables = re.findall(r"^\| key \| default .*\n.*\n((?:\| .*\n)+)", (ROOT / "docs/recipes.md").read_text(), re.M)
    rows = [row.split("|") for table in tables for row in table.splitlines()]
    given = flat(Recipe().model_dump(mode="json")) | {"task.options": {}}
    assert len(rows) > 50
    for _, keys, defaults, *_ in rows:
        names, shown = INLINE.findall(keys), [yaml.safe_load(text) for text in INLINE.findall(defaults)]
        assert [given[name] for name in names] == (shown * len(names) if len(shown) == 1 else shown or ANY), keys


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scrpo train --reflect-evry 5", "reflect-evry"),
        ("scrpo train --seed one", "integer"),
        ("scrpo pol ls", "no such command"),
        ("scrpo train --set optim.l=1", "optim.l"),
        ("scrpo ablate --vary method.loss.tokens=reflection,al", "method.loss.tokens"),
    ],
)
def test_a_wrong_line_is_found(line: str, message: str) -> None:
    (found,) = command_lines(f"Text\n\n    {line}   # why\n\nText\n")
    with pytest.raises(Exception, match=message):
        parse(found)


BASES = dict.fromkeys(["dapo", "dr-grpo", "rloo", "gspo", "cispo"], "grpo") | dict.fromkeys(
    ["star", "pair-sft", "dpo"], "sft"
)
"""Whose table of switches a page's own comes on top of: it lists what differs."""


@pytest.mark.parametrize(("page", "config"), CONFIGS.items(), ids=CONFIGS)
def test_switches_of_a_method_page_are_complete_with_their_defaults(page: str, config: Any) -> None:
    """Rows `| key | default | mark | ...` stand for `method.key`, or `task.reflection.key` with its full name. Marks
    are [C] or [S]; ours have none.
    """
    text = (ROOT / f"docs/methods/{page}.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(.+?)` \| (.*?) ?\|", text, re.M)
    given = {key: yaml.safe_load(default) for key, default, _ in rows}
    own = flat(config.model_dump(mode="json"))
    base = flat(CONFIGS[BASES[page]].model_dump(mode="json")) if page in BASES else {}
    everything = own | flat(Recipe().model_dump(mode="json"))
    assert len(rows) == len(given)
    assert given == {key: everything[key] for key in given}
    assert {key for key in given if not key.startswith("task.")} <= own.keys()
    assert {key for key in own if key not in base or base[key] != own[key]} - {"name"} <= given.keys()
    assert {mark for *_, mark in rows} <= {"", "[C]", "[S]"}


@pytest.mark.parametrize("page", CONFIGS)
def test_a_method_page_shows_its_figure_and_is_listed_with_its_name(page: str) -> None:
    folder = ROOT / "docs/methods"
    assert re.search(rf"^!\[.+\]\(figures/{page}\.png\)$", (folder / f"{page}.md").read_text(), re.M)
    most = 90_000 if page == "score" else 60_000  # SCoRe shows four conversations twice
    assert (folder / f"figures/{page}.png").stat().st_size < most
    assert f"]({page}.md), `{CONFIGS[page].name}` |" in (folder / "index.md").read_text()


def test_the_tool_draws_a_figure_of_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = tool("credit_figures")
    assert {*figures.MAKERS} == {*CONFIGS}
    monkeypatch.setattr(figures, "WARM_UP", 0)  # for speed
    figures.main(["sft", "-o", str(tmp_path)])
    assert (tmp_path / "sft.png").read_bytes().startswith(b"\x89PNG")


def flat(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def test_worked_example_of_scrpo_credit() -> None:
    """The blocks `text reflection` and `text solution` of the page are the trained and the untrained tokens."""
    from transformers import AutoTokenizer

    from scrpo_cli.assets import embedded_model_dir

    page = (ROOT / "docs/methods/scrpo.md").read_text()
    reflection, solution = (dict(BLOCK.findall(page))[f"text {part}"] for part in ("reflection", "solution"))
    text = f"{reflection}{solution}".rstrip("\n")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    mask_T = reflection_mask(ids, text, load_recipe("tiny").task.reflection, tokenizer)

    assert tokenizer.decode([i for i, m in zip(ids, mask_T, strict=True) if m]) == reflection.rstrip("\n")
    assert re.search(rf"{mask_T.sum():.0f} of\s+{len(ids)} tokens", page), f"{mask_T.sum():.0f} of {len(ids)} tokens"

    rewards_G = np.array(yaml.safe_load(re.search(r"r = (\[.*?\])", page)[1]))  # type: ignore[index]
    shown = [float(x) for x in re.search(r"A = ([\d.]+) where\s.*?\sand\s+(-[\d.]+) where", page, re.S).groups()]  # type: ignore[union-attr]
    assert shown == pytest.approx([group_norm(rewards_G).max(), group_norm(rewards_G).min()], abs=5e-4)


def test_every_shipped_recipe_is_listed() -> None:
    """By its name, or those of a folder together as `folder/NAME`."""
    page = (ROOT / "docs/recipes.md").read_text()
    listed = {
        name
        for row in re.findall(r"(?m)^\| (`[^|]*)\|", page.partition("| shipped |")[2].partition("\n\n")[0])
        for name in re.findall(r"`([^`]+)`", row)
    }
    shipped = {f"{name.rpartition('/')[0]}/NAME" if "/" in name else name for name in shipped_recipes()}
    assert listed == shipped
