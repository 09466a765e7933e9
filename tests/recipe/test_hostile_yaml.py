"""Files that are YAML, or nearly, and that no recipe is: each is refused at once, with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe

OPTIONS = "extends: tiny\ntask:\n  grader: json:loads\n  options: "
LAUGHS = "{a: &a [x, x], " + ", ".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")
)
TEXTS = {
    "a mapping in itself": (OPTIONS + "&x {b: *x}", "contains itself"),
    "a list in itself": (OPTIONS + "{a: &x [*x]}", "contains itself"),
    "a section in itself": ("optim: &o\n  lr: *o\n", "contains itself"),
    "a billion laughs": (OPTIONS + LAUGHS + "}", "values, aliases written out"),
    "deep": ("optim: " + "[" * 400 + "]" * 400, "nested more than 32 levels"),
    "deep by aliases": (OPTIONS + "{a: &a [[[[[[[[[[[x]]]]]]]]]]], b: &b [[[[[[[[[[*a]]]]]]]]]], "
                        "c: [[[[[[[[[[*b]]]]]]]]]]}", "nested more than 32 levels"),
    "never closed": ("[" * 400, "Not valid YAML"),
    "a key twice in a list": (OPTIONS + "{a: [{b: 1, b: 2}]}", "'task.options.a.0.b' is written twice"),
    "a key of two lines": ('"a\\nb": 1', "A key must be plain text"),
    "a list as key": ("[a]: 1", "A key must be plain text"),
    "more digits than Python reads": ("seed: " + "9" * 5000, "is no int"),
    "a tag that lies": ('seed: !!int ""', "'' is no int"),
    "a bool that is none": ("seed: !!bool x", "'x' is no bool"),
    "code": ("seed: !!python/object/apply:os.system [ls]", "the tag"),
    "a tag of somebody": ("optim: !mine {lr: 1}", "the tag '!mine'"),
    "NUL": ('name: "a\\0b"', "no file or database takes"),
    "half a pair": ('name: "\\ud800"', "no file or database takes"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "another document"),
    "a tab": ("optim:\n\tlr: 1\n", "'\\t'"),
    "nothing": ("", "is empty"),
    "a list": ("- a", "not a mapping"),
    "three hundred unknown keys": ("\n".join(f"k{i}: 1" for i in range(300)), "300 mistakes"),
    "a long parent": (f"extends: {'x' * 5000}.yaml", "No such recipe file"),
    "its own parent": ("extends: mine.yaml", "in a circle"),
    "too large": ("# " + "x" * 2**20, "it has over 1,048,576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text(tmp_path: Path, name: str) -> None:
    text, what = TEXTS[name]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert what in caught.value.what
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix


def test_aliases_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeffextends: tiny\ntask:\n  train: &t {source: tiny, split: train}\n  validation: *t\n")
    assert load_recipe(path).task.validation.split == "train"


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "loop", "long", "nul", "nobody"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
    named = {"long": "x/" * 3000 + "a.yaml", "nul": "a\0.yaml", "nobody": "~nobody-here/a.yaml"}.get(kind, str(path))
    with pytest.raises(UserError, match=r"no regular file|No such recipe file"):
        load_recipe(named)


@pytest.mark.parametrize(
    "item", ["a", "=1", "", "optim..lr=1", "optim.lr=[", f"a{'.a' * 2000}=1", f"optim.lr={'[' * 500}", "a\nb=1",
             "name=\udcff", "model.name=a\0b", "optim={lr: 1, lr: 2}", "optim.lr=*x", f"task.grader={'x' * 5000}.py:f"]
)  # fmt: skip
def test_an_option_with_the_same_oddities(item: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("tiny", [item])
    assert caught.value.where.startswith(f"--set {item}"[:40])
