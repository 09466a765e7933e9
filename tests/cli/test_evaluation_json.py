"""The sections of `scrpo eval --json` are called what docs/evaluation.md calls them: nothing is printed that the page
does not name, and nothing named is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import small

PAGE = (Path(__file__).resolve().parents[2] / "docs/evaluation.md").read_text()
TABLE = re.compile(r"^\| key of (?:the |a )?`?(\w+)`? \|.*\n\| --- .*\n((?:\|.*\n)+)", re.M)
COMPARISON = re.search(r"the fix\s+rate: `\{(.*?)\}`", PAGE, re.S)


def documented() -> dict[str, set[str]]:
    """What each table of keys is about -> the keys; `edits.zero` counts as `edits`."""
    found: dict[str, set[str]] = {}
    for section, rows in TABLE.findall(PAGE):
        names = [name for row in rows.splitlines() for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
        found.setdefault(section, set()).update(name.split(".")[0] for name in names)
    return found


def inside(document: Any, *path: str) -> Iterator[Any]:
    """Everything at a path; `*` is any key or place."""
    if not path:
        yield document
        return
    first, *rest = path
    items = document.items() if isinstance(document, dict) else enumerate(document or ())
    for key, value in items:
        if first in ("*", key):
            yield from inside(value, *rest)


def printed(documents: list[Any], *path: str) -> set[str]:
    return {key for document in documents for found in inside(document, *path) for key in found or ()}


@pytest.fixture(scope="module")
def documents(tmp_path_factory, scrpo_server) -> list[Any]:
    """Of evaluations that use everything there is."""
    from processes import run_scrpo

    directory = tmp_path_factory.mktemp("documents")
    sizes = small(eval__limit=6, eval__samples=2, eval__max_tokens=48, eval__repair="true")
    (directory / "two.yaml").write_text("benchmarks: [tiny, mine.yaml]\n")
    mine = 'task: {name: tiny, prompt: "{problem}"}\nproblems: {source: tiny, split: validation}\n'
    (directory / "mine.yaml").write_text(mine + "sampling: {samples: 1, max_tokens: 48}\n")
    rows = [{"id": f"test-{i}", "response": "\\boxed{1}", "finish": "stop"} for i in range(3)]
    (directory / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    commands = (
        [*sizes, "--benchmarks", "tiny", "--turns", 2, "--gate", "mean_logprob", "--scaling"],
        [*sizes, "--benchmarks", "two.yaml", "--turns", 3],
        [*sizes, "--benchmarks", "tiny", "--turns", 2, "--against", "last"],
        ["--benchmarks", "tiny", "--from-jsonl", "rows.jsonl"],
    )
    outcomes = [run_scrpo(["eval", *command, "--json"], directory) for command in commands]
    assert [o.code for o in outcomes] == [0] * len(commands), [o.err for o in outcomes]
    return [o.json for o in outcomes]


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("document", ()),
        ("benchmark", ("benchmarks", "*")),
        ("protocol", ("benchmarks", "*", "protocol")),
        ("gate", ("benchmarks", "*", "gate")),
        ("points", ("benchmarks", "*", "scaling", "points", "*")),
        ("against", ("against", "*")),
    ],
)
def test_the_keys_of_a_section_are_those_of_its_table(documents, section, path) -> None:
    assert printed(documents, *path) == documented()[section]


def test_there_is_a_test_for_every_table() -> None:
    assert documented().keys() == {"document", "benchmark", "protocol", "gate", "points", "against"}


def test_a_comparison_has_the_keys_that_the_text_shows(documents) -> None:
    assert COMPARISON
    shown = set(re.findall(r'"(\w+)"', COMPARISON[1]))
    for path in (("benchmarks", "*", "turns", "last_first"), ("against", "*", "turns", "*")):
        assert printed(documents, *path) == shown
    assert shown < printed(documents, "against", "*")
    assert printed(documents, "benchmarks", "*", "gate", "against_never") == shown


def test_the_sections_that_the_text_describes(documents) -> None:
    assert printed(documents, "benchmarks", "*", "edits") == {"histogram", "zero"}
    assert printed(documents, "benchmarks", "*", "turns") == {"accuracy", "delta", "i2c", "c2i", "last_first"}
    assert printed(documents, "benchmarks", "*", "repair_rate") == {"value", "ci95", "wrong"}
    assert printed(documents, "benchmarks", "*", "scaling") == {"draws", "points"}
    assert printed(documents, "suites", "*") == {"avg", "ci95", "benchmarks", "problems"}
    assert printed(documents, "contamination") == {"train", "sets"}
    for name in ("t1", "t2", "delta", "i2c", "c2i", "changed"):
        assert printed(documents, "benchmarks", "*", name) == {"value", "ci95"}
