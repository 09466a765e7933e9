"""Fills the tables of docs/results/bench.md from the newest JSON file of each section; no figure is typed by hand.

    python bench/page.py [--results DIR] [--page FILE]

Tables of a section belong between `<!-- bench: SECTION -->` and `<!-- end -->`; SECTION may also be `goals`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from goals import OF_GOALS, goals, read
from measuring import RESULTS, Grid

PAGE = Path(__file__).parents[1] / "docs/results/bench.md"
GOALS = "goals"
PLACE = re.compile(r"(<!-- bench: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def newest(directory: Path, name: str) -> Path | None:
    """Of `NAME-DATE-TIME.json`; the name of a section may begin with that of another one."""
    dated = re.compile(rf"{re.escape(name)}-\d{{8}}-\d{{6}}\.json")
    return max((path for path in directory.glob("*.json") if dated.fullmatch(path.name)), default=None)


def filled(page: str, directory: Path) -> tuple[str, list[str]]:
    """The page with the tables of `directory`, and the sections without a file, whose place stays as it is."""
    missing: list[str] = []

    def place(found: re.Match[str]) -> str:
        if found[2] == GOALS:
            measured = read(directory, newest)
            if len(measured) < len(OF_GOALS):  # a goal whose section was not measured here keeps its figures
                missing.append(GOALS)
                return found[0]
            return f"{found[1]}{goals(measured).markdown()}\n{found[3]}"
        path = newest(directory, found[2])
        if path is None:
            missing.append(found[2])
            return found[0]
        return f"{found[1]}{section(json.loads(path.read_text()), path.name)}\n{found[3]}"

    return PLACE.sub(place, page), missing


def section(data: dict[str, Any], file: str) -> str:
    tables = [Grid(**table).markdown() for table in data["tables"]]
    return "\n\n".join([measured_where(data, file), *tables])


def measured_where(data: dict[str, Any], file: str) -> str:
    """One sentence about the machine, wrapped as the docs are."""
    before, after = data["before"], data["after"]
    versions = ", ".join(f"{name} {version}" for name, version in before["versions"].items())
    where = f"on {before['gpu']}" if before["gpu"] else f"{before['cores']} cores, {threads(before['threads'])}"
    load = f"load {before['load_1min']:.1f} before and {after['load_1min']:.1f} after"
    words = f"`{file}`: {before['processor']}, {where}, Python {before['python']}, {versions}; {load}."
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


def threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON files (default bench/results)")
    parser.add_argument("--page", type=Path, default=PAGE, help="what is filled (default docs/results/bench.md)")
    args = parser.parse_args()
    page, missing = filled(args.page.read_text(), args.results)
    args.page.write_text(page)
    if missing:
        print(f"no file in {args.results} for {', '.join(missing)}: left as they were", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
