"""Where the graders disagree, who is right, and why.

    python tools/crosscheck/compare.py generations.jsonl --ours ours.jsonl --lm-eval lm_eval.jsonl \\
        --lighteval lighteval.jsonl --out docs/validation/crosscheck.jsonl --page docs/validation/crosscheck.md

`--out` gets one line for each row that is not settled (not all verdicts alike, or one against what is right): verdicts,
what each grader extracted, what is right, and the cause for each grader that is wrong. `--page` gets the tables between
its two markers. A wrong verdict whose cause is not in causes.py is listed as "not judged", and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from causes import CAUSES, Cause

GRADERS = {"ours": "ours", "lm_eval": "lm-eval", "lighteval": "lighteval"}
BEGIN, END = "<!-- begin: compare.py -->", "<!-- end: compare.py -->"
WORDS = {True: "correct", False: "wrong", None: "none"}


@dataclass(frozen=True, slots=True)
class Row:
    """One response with the verdict and the extracted answer of each grader; `right` is the verdict it deserves."""

    data: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def right(self) -> bool:
        return bool(self.data["expected"])

    def verdict(self, grader: str) -> bool | None:
        return self.scores[grader]["verdict"]

    @property
    def settled(self) -> bool:
        return all(self.verdict(grader) == self.right for grader in self.scores)


def load(generations: Path, scores: Mapping[str, Path]) -> tuple[list[Row], dict[str, str]]:
    """All rows and the versions of the graders; ValueError where a grader has not scored every row."""
    data, by_grader, versions = _lines(generations), {}, {}
    for grader, path in scores.items():
        head, *lines = _lines(path)
        if [line["row"] for line in lines] != [row["row"] for row in data]:
            raise ValueError(f"{path} has {len(lines)} scores for {len(data)} rows, or in another order")
        by_grader[grader] = lines
        versions[grader] = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    return [Row(row, {name: by_grader[name][n] for name in by_grader}) for n, row in enumerate(data)], versions


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cause(row: Row, grader: str) -> Cause | None:
    """Why a grader is wrong about a row: the first cause that fits; None where nobody has judged it."""
    return next((c for c in CAUSES if grader in c.graders and c.fits(row.data, row.scores[grader])), None)


def record(row: Row) -> dict[str, Any]:
    """One line of the appendix."""
    wrong = [grader for grader in row.scores if row.verdict(grader) != row.right]
    return {
        "key": row.data["key"],
        "gold": row.data["answer"],
        "right": WORDS[row.right],
        "verdicts": {grader: WORDS[row.verdict(grader)] for grader in row.scores},
        "extracted": {grader: _short(score["extracted"], 160) for grader, score in row.scores.items()},
        "causes": {grader: found.name if (found := cause(row, grader)) else "not judged" for grader in wrong},
    }


def page(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """The tables of docs/validation/crosscheck.md."""
    parts = [
        _table(("grader", "version"), [(GRADERS[name], version) for name, version in versions.items()]),
        "### Agreement of each pair\n",
        _table(("data", "rows", *(_pair(pair) for pair in _pairs(rows))), agreement(rows)),
        "### Wrong verdicts\n",
        _table(("data", "kind", "rows", *(GRADERS[name] for name in rows[0].scores)), wrong_verdicts(rows)),
        "### Graders beside the main ones\n",
        _table(("data", "grader", "rows", "wrongly `correct`", "wrongly not"), others(rows)),
        "### Causes\n",
        _table(("grader", "cause", "rows", "example", "what is wrong"), cause_table(rows)),
    ]
    return "\n".join(parts)


def agreement(rows: Sequence[Row]) -> Sequence[Sequence[str]]:
    """For each data set and pair: how many verdicts are alike, and how many are not; none counts as a verdict."""
    lines = []
    for name, part in _by_source(rows):
        alike = [sum(row.verdict(a) == row.verdict(b) for row in part) for a, b in _pairs(rows)]
        cells = (f"{n:,} ({n / len(part):.2%}), {len(part) - n:,} differ" for n in alike)
        lines.append((name, f"{len(part):,}", *cells))
    return lines


def wrong_verdicts(rows: Sequence[Row]) -> Sequence[Sequence[str]]:
    """For each data set and kind: rows that a grader gets wrong (`+` wrongly correct, `-` wrongly not, `?` none)."""
    lines = []
    for name, part in _by_source(rows):
        for kind in dict.fromkeys(_kind(row) for row in part):
            of_kind = [row for row in part if _kind(row) == kind]
            cells = (_wrong([(row.verdict(grader), row.right) for row in of_kind]) for grader in rows[0].scores)
            lines.append((name, kind, f"{len(of_kind):,}", *cells))
    return lines


def _wrong(pairs: Sequence[tuple[bool | None, bool]]) -> str:
    plus = sum(verdict is True and not right for verdict, right in pairs)
    minus = sum(verdict is False and right for verdict, right in pairs)
    none = sum(verdict is None for verdict, _ in pairs)
    shown = [f"{sign}{n}" for sign, n in (("+", plus), ("-", minus), ("?", none)) if n]
    return f"{plus + minus + none} ({' '.join(shown)})" if shown else "0"


def others(rows: Sequence[Row]) -> Sequence[Sequence[str]]:
    """Secondary metrics of the harnesses against what is right."""
    lines = []
    for name, part in _by_source(rows):
        found: dict[str, Counter[str]] = {}
        for row in part:
            for grader, score in row.scores.items():
                for metric, verdict in (score.get("others") or {}).items():
                    count = found.setdefault(f"{GRADERS[grader]} {metric}", Counter())
                    count.update(["rows", *(["+"] if verdict and not row.right else [])])
                    count.update(["-"] if row.right and not verdict else [])
        lines += [(name, metric, f"{c['rows']:,}", f"{c['+']:,}", f"{c['-']:,}") for metric, c in found.items()]
    return lines


def cause_table(rows: Sequence[Row]) -> Sequence[Sequence[str]]:
    """Each class of wrong verdicts with its number and its first example."""
    lines = []
    for grader in rows[0].scores:
        wrong = [row for row in rows if row.verdict(grader) != row.right]
        found = [(row, cause(row, grader)) for row in wrong]
        for name, n in Counter(c.name if c else "not judged" for _, c in found).most_common():
            row, first = next((row, c) for row, c in found if (c.name if c else "not judged") == name)
            lines.append((GRADERS[grader], name, str(n), _example(row, grader), first.why if first else "?"))
    return lines


def _example(row: Row, grader: str) -> str:
    gold, extracted = (_code(_short(text, 60)) for text in (row.data["answer"], row.scores[grader]["extracted"]))
    return f"{row.data['id']}: gold {gold}, read {extracted}"


def _code(text: str) -> str:
    """Inline code that may hold anything but a line break, in a table."""
    text = text.replace("\n", " ").replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`" if text else "nothing"


def _short(text: str | None, n: int) -> str:
    text = text or ""
    return text if len(text) <= n else text[: n - 3] + "..."


def _kind(row: Row) -> str:
    """The kind as the tables group it: all formats, all sentences, all models."""
    kind = row.data["kind"].removesuffix(", right one mentioned")
    groups = {"format:": "other formats", "sentence:": "other sentences", "model": "model solutions", "slip:": "slips"}
    return groups.get(kind.split(" ")[0], kind)


def _by_source(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    parts = [(name, list(part)) for name, part in groupby(rows, key=lambda row: row.data["source"])]
    return [*parts, ("all", list(rows))]


def _pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(combinations(rows[0].scores, 2))


def _pair(pair: tuple[str, str]) -> str:
    return " and ".join(GRADERS[name] for name in pair)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]) + "\n"


def insert(text: str, tables: str) -> str:
    """A page with new tables between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generations", type=Path)
    for grader, name in GRADERS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, dest=grader)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    rows, versions = load(args.generations, {grader: getattr(args, grader) for grader in GRADERS})
    records = [record(row) for row in rows if not row.settled]
    args.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records), encoding="utf-8")
    if args.page:
        args.page.write_text(insert(args.page.read_text(encoding="utf-8"), page(rows, versions)), encoding="utf-8")
    unjudged = [line for line in records if "not judged" in line["causes"].values()]
    for line in unjudged:
        print("not judged:", json.dumps(line, ensure_ascii=False))
    print(f"{len(rows)} rows, {len(records)} not settled, {len(unjudged)} of them not judged")
    return 1 if unjudged else 0


if __name__ == "__main__":
    raise SystemExit(main())
