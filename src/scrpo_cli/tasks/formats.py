"""The files that hold responses, by the name of their format: our own JSONL, lm-eval's samples (`--log_samples`) and
Inspect's logs. Each is read as rows under our names (docs/data.md); repeats and epochs become samples.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.files import REFUSED, name_of, open_text, read_rows
from scrpo_cli.tasks.code.sources import FIELDS as CODE_FIELDS
from scrpo_cli.tasks.code.sources import from_hub

TEXTS = ("problem", "question", "prompt", "input", "query", "text")
"""What the data sets of lm-eval's tasks call a problem's text, whatever the case; the first that is there counts."""
WHOLE_LOG = "the whole log is refused"


@dataclass(frozen=True, slots=True)
class Record:
    """A row under our names and, for `--map`, the record of the file that it is from; `where` is its place there."""

    row: dict[str, Any]
    raw: Mapping[str, Any]
    where: str


def read_records(path: Path, name: str) -> Iterator[Record]:
    """The rows of a file in the format `name`; UserError with the place of the first that cannot be read."""
    if name not in FORMATS:
        fix = nearest(name, FORMATS) or f"There are {', '.join(FORMATS)}."
        raise UserError(f"{name!r} is no format of responses.", "--format", fix)
    return FORMATS[name](path)


def _jsonl(path: Path) -> Iterator[Record]:
    try:
        for row, where in read_rows(path):
            if "resps" in row and "response" not in row:
                raise UserError("the line is a sample of lm-eval's", where, "read the file with --format lm-eval")
            yield Record(row, row, where)
    except UserError as error:
        if path.suffix not in (".json", ".eval") or not path.is_file():
            raise
        raise UserError(error.what, error.where, f"read a log of Inspect with --format inspect; {error.fix}") from None


# --- lm-eval ------------------------------------------------------------------------------------------------------


def _lm_eval(path: Path) -> Iterator[Record]:
    """A line has one problem with all its responses. Each filter of the task repeats the lines: the first one counts,
    since responses are graded here before any filter.
    """
    first: list[Any] = []
    for raw, where in read_rows(path):
        first = first or [raw.get("filter")]
        if raw.get("filter") != first[0]:
            continue
        problem = _asked(raw, where)
        for sample, response in enumerate(_responses(raw, where)):
            yield Record(problem | {"response": response, "sample": sample}, raw, where)


def _asked(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The problem of a line. A document has the id that its data set gave it, or else the number of its place there."""
    doc = raw.get("doc")
    if not isinstance(doc, Mapping) or "doc_id" not in raw:
        raise UserError("the line has no 'doc' and 'doc_id': it is no sample of lm-eval's", where, REFUSED)
    if "entry_point" in doc or "test_list" in doc:
        return {key: value for key, value in from_hub(dict(doc)).items() if key in CODE_FIELDS - {"source"}}
    named = {key.lower(): value for key, value in doc.items()}
    texts = (named[name] for name in TEXTS if isinstance(named.get(name), str))
    answers = (_final(str(value)) for value in (named.get("answer"), raw.get("target")) if _is_answer(value))
    own_id = named.get("id")
    return {
        "id": raw["doc_id"] if own_id is None else own_id,
        **{key: value for key, value in (("problem", next(texts, None)), ("answer", next(answers, None))) if value},
    }


def _is_answer(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip() != ""


def _final(answer: str) -> str:
    """What follows GSM8K's `####` in a worked answer, without the commas inside of numbers; else the answer itself."""
    _, marked, final = answer.rpartition("####")
    return final.strip().replace(",", "") if marked else answer


def _responses(raw: Mapping[str, Any], where: str) -> Sequence[str]:
    """`resps` holds a list for each request of the document, and a text in it for each repeat."""
    match raw.get("resps"):
        case [[*texts]] if texts and all(isinstance(text, str) for text in texts):
            return texts
        case _:
            what = "the field 'resps' holds no generated text (of a task with output_type: generate_until)"
            raise UserError(what, where, REFUSED)


# --- Inspect ------------------------------------------------------------------------------------------------------


def _inspect(path: Path) -> Iterator[Record]:
    log, samples = _zipped_log(path) if zipfile.is_zipfile(path) else _json_log(path)
    if log.get("status") != "success":
        fix = f"finish it with `inspect eval-retry`; {WHOLE_LOG}"
        raise UserError(f"the log's evaluation has the status {log.get('status')!r}", name_of(path), fix)
    about = log.get("eval")
    model = about.get("model") if isinstance(about, Mapping) else None
    for raw in samples:
        where = f"{name_of(path)}, sample {raw.get('id')}, epoch {raw.get('epoch')}"
        try:
            row = _sample(raw)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = f"this is no sample of an Inspect log: {type(error).__name__}: {error}"
            raise UserError(what, where, WHOLE_LOG) from None
        if row["response"] is None:
            fix = f"run it again with `inspect eval-retry`; {WHOLE_LOG}"
            raise UserError("the sample has no output", where, fix)
        yield Record(row | {"model": model}, raw, where)


def _json_log(path: Path) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    try:
        with open_text(path) as file:
            log = json.load(file)
    except FileNotFoundError:
        raise UserError("the file does not exist", name_of(path), "check the path") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        what = f"the file is no Inspect log (.json or .eval): {error}"
        raise UserError(what, name_of(path), "check the file") from None
    samples = log.get("samples") if isinstance(log, dict) else None
    if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
        fix = "Inspect keeps them unless it is told --no-log-samples."
        raise UserError("the log has no samples", name_of(path), fix)
    return log, samples


def _zipped_log(path: Path) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    """A `.eval` file: a zip archive of `header.json` and a file for each sample."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith("samples/"))
            log, *samples = (json.loads(archive.read(name)) for name in ("header.json", *names))
        if not all(isinstance(part, dict) for part in (log, *samples)):
            raise ValueError("a part of it is no object")
        samples.sort(key=lambda sample: sample.get("epoch", 1))
    except NotImplementedError:  # Zstandard, which zipfile reads from Python 3.14 on
        fix = "convert it: inspect log convert LOG.eval --to json --output-dir DIR"
        raise UserError("the log is compressed in a way that this Python cannot read", str(path), fix) from None
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        what = f"the file is no finished Inspect log: {error}"
        raise UserError(what, str(path), f"finish it with `inspect eval-retry`; {WHOLE_LOG}") from None
    if not samples:
        raise UserError("the log has no samples", str(path), "Inspect keeps them unless it is told --no-log-samples.")
    return log, samples


def _sample(raw: Mapping[str, Any]) -> dict[str, Any]:
    """One epoch of a problem. Where its data set gave no ids Inspect counts from 1."""
    choices = raw["output"]["choices"]
    targets = [raw["target"]] if isinstance(raw["target"], str) else raw["target"]
    asked = raw["input"] if isinstance(raw["input"], str) else _last_question(raw["input"])
    return {
        "id": raw["id"],
        "problem": asked,
        **({"answer": targets[0]} if len(targets) == 1 and targets[0] else {}),
        "response": _content(choices[0]["message"]["content"]) if choices else None,
        "sample": raw["epoch"] - 1,
        "finish": choices[0].get("stop_reason") if choices else None,
    }


def _last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    return _content([m for m in messages if m["role"] == "user"][-1]["content"])


def _content(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message; thoughts that a model keeps apart are no part of its answer."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


FORMATS: dict[str, Callable[[Path], Iterator[Record]]] = {"jsonl": _jsonl, "lm-eval": _lm_eval, "inspect": _inspect}
