"""The files that lm-eval and Inspect write, read as our rows.

`formats/` holds files that lm-eval 0.4.13 and inspect-ai 0.3.285 wrote about three problems of ours, with canned
answers in place of a model; of the Inspect log the events are left out.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.external import ResponseRow, full_responses, parse_map, read_responses
from scrpo_cli.types import FinishReason

FILES = Path(__file__).parent / "formats"
LOG = json.loads((FILES / "inspect.json").read_text())


def read(path: Path, format: str, *maps: str) -> list[ResponseRow]:
    return full_responses(read_responses(path, parse_map(maps), format))


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- lm-eval ------------------------------------------------------------------------------------------------------


def test_repeats_are_samples_and_filters_do_not_repeat_them() -> None:
    rows = read(FILES / "lm_eval.jsonl", "lm-eval")
    assert [(r.id, r.sample, r.answer) for r in rows] == [
        (name, sample, answer)
        for name, answer in (("lamps", "24"), ("bread", "15"), ("half", "\\frac{1}{2}"))
        for sample in (0, 1)
    ]
    assert rows[1].response == "There are 12.\n#### 12"
    assert rows[0].problem == "A street has 12 lamps on each side. How many lamps are there?"


def sample_line(doc: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"doc_id": 7, "doc": doc, "target": "2", "resps": [["so 2"]], "filter": "none"} | more


@pytest.mark.parametrize(
    ("line", "problem", "answer"),
    [
        (sample_line({"Problem": "1+1?", "Answer": 2}), "1+1?", "2"),
        (sample_line({"query": "1+1?"}), "1+1?", "2"),
        (sample_line({"question": "1+1?"}, target="1+1=2\n#### 1,002"), "1+1?", "1002"),
        (sample_line({"prompt": "1+1?", "gold": 2}, target=2), "1+1?", "2"),
    ],
)
def test_documents_of_other_names(tmp_path, line, problem, answer) -> None:
    (row,) = read(jsonl(tmp_path / "s.jsonl", line), "lm-eval")
    assert (row.id, row.problem, row.answer, row.foreign) == ("7", problem, answer, True)


def test_a_field_inside_of_the_document_is_mapped(tmp_path) -> None:
    file = jsonl(tmp_path / "s.jsonl", sample_line({"ask": {"text": "1+1?"}, "gold": "2.0"}))
    (row,) = read(file, "lm-eval", "problem=doc.ask.text,answer=doc.gold")
    assert (row.problem, row.answer, row.response, row.foreign) == ("1+1?", "2.0", "so 2", True)
    (row,) = read(file, "lm-eval", "problem=doc.ask.text,id=target")
    assert (row.id, row.foreign) == ("2", False)  # whoever maps an id means ours


def test_programs_have_tests(tmp_path) -> None:
    doc = {"task_id": "H/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "assert f(1) == 2", "turn": 3}
    (row,) = read(jsonl(tmp_path / "s.jsonl", sample_line(doc, target="assert f(1) == 2")), "lm-eval")
    assert (row.id, row.meta["entry_point"], row.turn) == ("H/0", "f", 1)
    assert "assert f(1) == 2" in row.meta["tests"]


@pytest.mark.parametrize("missing", ["doc", "doc_id", "resps"])
def test_what_is_no_sample_is_refused_with_its_line(tmp_path, missing) -> None:
    good = sample_line({"question": "?"})
    bad = {key: value for key, value in good.items() if key != missing}
    with pytest.raises(UserError) as error:
        read(jsonl(tmp_path / "s.jsonl", good, bad), "lm-eval")
    assert error.value.where.endswith("s.jsonl:2")


def test_log_likelihoods_are_no_answers() -> None:
    with pytest.raises(UserError, match="no generated text"):
        read(FILES / "lm_eval_choice.jsonl", "lm-eval")


# --- Inspect ------------------------------------------------------------------------------------------------------


def test_epochs_are_samples() -> None:
    rows = read(FILES / "inspect.json", "inspect")
    assert {(r.id, r.sample): r.answer for r in rows} == {
        (name, sample): answer
        for name, answer in (("lamps", "24"), ("bread", "15"), ("half", "\\frac{1}{2}"))
        for sample in (0, 1)
    }
    assert {r.model for r in rows} == {"mockllm/model"}
    assert [(r.id, r.sample) for r in rows if r.finish is FinishReason.LENGTH] == [("bread", 1)]
    assert {r.finish for r in rows} == {FinishReason.LENGTH, FinishReason.STOP}
    assert all(r.foreign for r in rows)


def zipped(path: Path, log: dict[str, Any]) -> Path:
    """The log as a `.eval` file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", "{}")
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps({k: v for k, v in log.items() if k != "samples"}))
    return path


def test_an_eval_file_has_the_same_rows(tmp_path) -> None:
    found = read(zipped(tmp_path / "log.eval", LOG), "inspect")
    expected = read(FILES / "inspect.json", "inspect")

    def said(rows: list[ResponseRow]) -> set[tuple[Any, ...]]:
        return {(r.id, r.sample, r.problem, r.answer, r.response, r.finish, r.model) for r in rows}

    assert said(found) == said(expected)
    assert len(found) == 6


def test_an_eval_file_of_a_recent_inspect() -> None:
    """It is compressed with Zstandard, which zipfile knows from Python 3.14 on."""
    if sys.version_info >= (3, 14):
        assert [r.id for r in read(FILES / "zstandard.eval", "inspect")] == ["lamps"]
        return
    with pytest.raises(UserError, match="this Python cannot read") as error:
        read(FILES / "zstandard.eval", "inspect")
    assert "inspect log convert" in error.value.fix


def changed(**more: Any) -> dict[str, Any]:
    """The log with another first sample."""
    log = copy.deepcopy(LOG)
    log["samples"][0] |= more
    return log


def test_thoughts_conversations_and_numbered_samples() -> None:
    from scrpo_cli.tasks.formats import _sample

    parts = [{"type": "reasoning", "reasoning": "\\boxed{1}"}, {"type": "text", "text": "\\boxed{2}"}]
    asked = [{"role": "system", "content": "Solve."}, {"role": "user", "content": "1+1?"}]
    output = {"choices": [{"message": {"content": parts}, "stop_reason": "model_length"}]}
    raw = {"id": 3, "epoch": 2, "input": asked, "target": ["2"], "output": output}
    expected = {"id": 3, "problem": "1+1?", "answer": "2", "response": "\\boxed{2}", "sample": 1}
    assert _sample(raw) == expected | {"finish": "model_length"}


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("[]", "no samples"),
        ("not JSON", "no Inspect log"),
        (LOG | {"samples": None}, "no samples"),
        (LOG | {"samples": 1}, "no samples"),
        (LOG | {"status": "cancelled"}, "status 'cancelled'"),
        (changed(output={"choices": []}), "no output"),
        (changed(output=None), "no sample of an Inspect log"),
        (changed(epoch="one"), "no sample of an Inspect log"),
        (changed(input=[]), "no sample of an Inspect log"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused(tmp_path, log, says) -> None:
    (tmp_path / "log.json").write_text(log if isinstance(log, str) else json.dumps(log))
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path / "log.json", "inspect")
    assert "log.json" in error.value.where


@pytest.mark.parametrize(
    ("name", "holds"), [("header.json", []), ("samples/a.json", 1), ("samples/a.json", {"epoch": "1"})]
)
def test_a_zipped_log_with_a_part_that_is_none_is_refused(tmp_path, name, holds) -> None:
    parts = {"header.json": {}, "samples/a.json": {"epoch": 1}, "samples/b.json": {"epoch": 2}} | {name: holds}
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, json.dumps(content))
    with pytest.raises(UserError, match="no finished Inspect log") as error:
        read(tmp_path / "log.eval", "inspect")
    assert "log.eval" in error.value.where


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*path, key), *paths(inner, (*path, key)))]


@given(data=st.data())
def test_no_damage_to_a_file_ends_in_anything_but_rows_or_a_user_error(tmp_path_factory, data) -> None:
    """Any field of a log or of a line is taken out, or becomes something else."""
    line = json.loads((FILES / "lm_eval.jsonl").read_text().splitlines()[0])
    format = data.draw(st.sampled_from(["inspect", "lm-eval", "jsonl"]))
    document = copy.deepcopy(
        {"inspect": LOG, "lm-eval": line, "jsonl": {"id": "a", "answer": "1", "response": "1"}}[format]
    )
    *sections, key = data.draw(st.sampled_from(paths(document)))
    inner = document
    for section in sections:
        inner = inner[section]
    if data.draw(st.booleans()):
        del inner[key]
    else:
        inner[key] = data.draw(
            st.sampled_from([None, 1, -1, 1.5, True, "", "text", [], ["a", "b"], [[]], {}, {"a": 1}])
        )
    file = tmp_path_factory.mktemp("damaged") / "file.json"
    file.write_text(json.dumps(document))
    with contextlib.suppress(UserError):
        assert read(file, format)


# --- which format, and field maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "format", "says"),
    [
        ("lm_eval.jsonl", "jsonl", "--format lm-eval"),
        ("inspect.json", "jsonl", "--format inspect"),
        ("zstandard.eval", "jsonl", "--format inspect"),
        ("inspect.json", "lm-eval", "line is not JSON"),
        ("lm_eval.jsonl", "inspect", "no Inspect log"),
        ("lm_eval.jsonl", "lm_eval", "Did you mean 'lm-eval'?"),
        ("lm_eval.jsonl", "csv", "There are jsonl, lm-eval, inspect."),
    ],
)
def test_the_wrong_format_is_told(file, format, says) -> None:
    with pytest.raises(UserError) as error:
        read(FILES / file, format)
    assert says in f"{error.value.what} {error.value.fix}"


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("stop", "stop"),
        ("end_turn", "stop"),
        ("EOS", "stop"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("content_filter", "unknown"),
        (None, "unknown"),
    ],
)
def test_finish_and_benchmark_are_mapped(tmp_path, word, finish) -> None:
    file = jsonl(tmp_path / "r.jsonl", {"id": "a", "response": "x", "why": {"end": word}, "set": "gsm8k"})
    (row,) = read(file, "jsonl", "finish=why.end,benchmark=set")
    assert (row.finish, row.benchmark) == (finish, "gsm8k")


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        (["finish=stop_raeson"], "the row has no field 'stop_raeson', which --map reads as 'finish'"),
        (["id=a.b"], "the row has no field 'a.b'"),
        (["id=key", "id=id"], "mapped twice"),
        (["finsih=why"], "Did you mean 'finish'?"),
    ],
)
def test_a_map_to_nothing_is_refused(tmp_path, maps, says) -> None:
    file = jsonl(tmp_path / "r.jsonl", {"id": "a", "response": "x"})
    with pytest.raises(UserError) as error:
        read(file, "jsonl", *maps)
    assert says in f"{error.value.what} {error.value.fix}"
