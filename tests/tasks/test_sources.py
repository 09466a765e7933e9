"""Where problems come from, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.sources import load_problems, read_rows

ROWS = [{"id": f"p{i}", "problem": f"{i}+1?", "answer": str(i + 1), "level": "Level 1"} for i in range(3)]


def jsonl(path, rows=ROWS):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def load(source, **kw):
    return load_problems(ProblemsConfig(source=str(source), **kw))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_from_the_data_directory(tmp_path, monkeypatch, suffix):
    jsonl(tmp_path / "gsm8k" / f"train{suffix}")
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    problems = load("gsm8k")
    assert [(p.id, p.source, p.text, p.answer) for p in problems][1] == ("p1", "gsm8k", "1+1?", "2")
    assert problems[0].meta == {"level": "Level 1"}


def test_from_a_path_and_cut(tmp_path):
    assert [p.id for p in load(jsonl(tmp_path / "mine.jsonl"), limit=2)] == ["p0", "p1"]
    assert load(tmp_path / "mine.jsonl")[0].source == "mine"


def test_from_a_directory_with_splits(tmp_path):
    jsonl(tmp_path / "mine" / "test.jsonl")
    assert len(load(tmp_path / "mine", split="test")) == 3


def test_a_row_names_its_own_source_and_tolerance(tmp_path):
    rows = [ROWS[0] | {"source": "minerva_math"}, ROWS[1] | {"meta": {"rel_tol": 0.1}}, ROWS[2] | {"answer": 7}]
    loaded = load(jsonl(tmp_path / "mine.jsonl", rows))
    assert [(p.source, p.meta.get("rel_tol")) for p in loaded] == [
        ("minerva_math", 0.01),
        ("mine", 0.1),
        ("mine", None),
    ]
    assert loaded[2].answer == "7"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{not json", "the line is not JSON"),
        ("[1, 2]", "the line is not a JSON object"),
        ("[" * 100_000, "the line is not JSON"),
        ({"id": "x", "problem": "?"}, "the field 'answer' is missing (there: id, problem)"),
        ({"problem": "?", "answer": "1"}, "the field 'id' is missing"),
        ({"id": "x", "problem": "", "answer": "1"}, "the field 'problem' is empty or no text"),
        ({"id": "x", "problem": "?", "answer": None}, "the field 'answer' is empty or no text"),
        ({"id": "x", "problem": "?", "answer": True}, "the field 'answer' is empty or no text"),
        ({"id": "p1", "problem": "?", "answer": "1"}, "the id 'p1' occurs twice"),
    ],
)
def test_one_bad_line_refuses_the_file_and_names_itself(tmp_path, bad, says):
    path = jsonl(tmp_path / "mine.jsonl", [*ROWS, "", bad])
    with pytest.raises(UserError) as error:
        load(path)
    assert says in error.value.what
    if "twice" not in says:
        assert error.value.where == f"{path}:5"
        assert "the whole file is refused" in error.value.fix


def test_a_missing_file_names_the_places_and_the_splits_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    jsonl(tmp_path / "math500" / "test.jsonl.gz")
    with pytest.raises(UserError) as error:
        load("math500", split="train")
    assert str(tmp_path / "math500" / "train.jsonl.gz") in error.value.where
    assert "splits there: test" in error.value.fix
    with pytest.raises(UserError, match=r"no data for 'nothing\.jsonl'"):
        load("nothing.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_data_set(tmp_path, content):
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="is empty"):
        load(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mine.jsonl", b"\xff\xfe{}", "not UTF-8"),
        ("mine.jsonl.gz", b"not gzip", "cannot be read"),
        ("mine.jsonl.gz", gzip.compress(b'{"id": "1"}\n' * 500, mtime=0)[:40], "cannot be read"),
    ],
)
def test_bytes_that_are_no_text(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        load(tmp_path / name)


@pytest.mark.parametrize("text", ["a\\ud800b \\ud83d\\ude00", "a\\uD800b \\uD83D\\uDE00"])
def test_half_a_surrogate_pair_is_replaced(tmp_path, text):
    (tmp_path / "mine.jsonl").write_text(f'{{"id": "{text}"}}\n')
    ((row, _),) = read_rows(tmp_path / "mine.jsonl")
    assert row["id"] == "a?b 😀"


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r\n\r\n"])
def test_files_of_windows_programs(tmp_path, packed, ends):
    text = ends.join(['{"id": "ä"}', '{"id": "2"}', ""])
    path = tmp_path / ("mine.jsonl" if packed is bytes else "mine.jsonl.gz")
    path.write_bytes(packed(text.encode("utf-8-sig")))
    assert [row["id"] for row, _ in read_rows(path)] == ["ä", "2"]


def test_the_hub_needs_a_revision():
    with pytest.raises(UserError, match="has no revision"):
        load("hub:owner/name")


HUB_ROWS = [
    {"question": "2+2?", "answer": "2+2 is 4.\n#### 4"},
    {"problem": "3+3?", "solution": "So $\\boxed{6}$."},
    {"problem": "4+4?", "answer": "8", "unique_id": "mine/8"},
]


def test_a_local_directory_goes_through_the_hub_reader(tmp_path, monkeypatch):
    """The shapes of GSM8K and MATH on the hub; offline, as `datasets` reads files as it reads the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    columns = {key: None for row in HUB_ROWS for key in row}
    jsonl(tmp_path / "set" / "test.jsonl", [columns | row for row in HUB_ROWS])
    problems = load(f"hub:{tmp_path / 'set'}", split="test")
    assert [(p.id, p.text, p.answer) for p in problems] == [
        ("test-0", "2+2?", "4"),
        ("test-1", "3+3?", "6"),
        ("mine/8", "4+4?", "8"),
    ]
    with pytest.raises(UserError, match="cannot load"):
        load(f"hub:{tmp_path / 'set'}", split="train")


def test_parquet_through_the_hub_reader(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "set" / "train.parquet"))
    assert [p.id for p in load(f"hub:{tmp_path / 'set'}")] == ["p0", "p1", "p2"]
