"""Recipes: extends, --set, what merges and what replaces, and where things come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.errors import UserError
from scrpo_cli.methods.grpo import GrpoConfig
from scrpo_cli.methods.scrpo import ScrpoConfig
from scrpo_cli.recipe import load
from scrpo_cli.recipe.document import Document, merge
from scrpo_cli.recipe.load import load_recipe, recipe_json, recipe_schema, shipped_recipes
from scrpo_cli.recipe.models import Recipe

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe file under tmp_path."""

    def file(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_say_what_they_are(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == Path(name).name
    assert recipe.description
    assert Recipe.model_validate_json(recipe_json(recipe)) == recipe


def test_the_issue_names_these_recipes() -> None:
    assert {"tiny", "scrpo-base", "scrpo-gsm8k", "scrpo-r1-1.5b", "scrpo-r1-7b"} <= set(shipped_recipes())


def test_an_installed_package_carries_its_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a wheel the recipes lie inside the package, in a checkout at the root of the repository."""
    inside = tmp_path / "site-packages" / "scrpo_cli"
    (inside / "recipes" / "folder").mkdir(parents=True)
    (inside / "recipes" / "only.yaml").write_text("seed: 4")
    (inside / "recipes" / "folder" / "more.yaml").write_text("extends: only")
    monkeypatch.setattr(load, "__file__", str(inside / "recipe" / "load.py"))
    assert list(shipped_recipes()) == ["only", "folder/more"]
    assert load_recipe("only").seed == 4
    assert (load_recipe("folder/more").seed, load_recipe("folder/more").name) == (4, "more")
    with pytest.raises(UserError) as error:
        load_recipe("more")
    assert "Did you mean 'folder/more'?" in error.value.fix


def test_the_wheel_is_told_to_carry_them() -> None:
    project = (Path(load.__file__).parents[3] / "pyproject.toml").read_text()
    assert 'recipes = "scrpo_cli/recipes"' in project


def test_sections_merge_and_values_replace(write: Write) -> None:
    write("optim: {lr: 1.0, steps: 7}\neval: {benchmarks: [a, b]}\ndescription: base", "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\noptim: {lr: 2.0}\neval: {benchmarks: [c]}"))
    assert (recipe.optim.lr, recipe.optim.steps) == (2.0, 7)
    assert recipe.eval.benchmarks == ["c"]
    assert (recipe.name, recipe.description) == ("mine", "")  # both belong to one file


def test_extends_takes_a_shipped_name_or_a_path_beside_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("extends: tiny\nseed: 5", "a/base.yaml")
    path = write("extends: ../a/base.yaml", "b/child.yaml")
    monkeypatch.chdir("/")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.model.name) == (5, "tiny")


def test_extends_may_not_go_in_a_circle(write: Write) -> None:
    write("extends: b.yaml", "a.yaml")
    write("extends: c.yaml", "b.yaml")
    with pytest.raises(UserError, match=r"a.yaml -> b.yaml -> c.yaml -> a.yaml") as caught:
        load_recipe(write("seed: 1\nextends: a.yaml", "c.yaml").with_name("a.yaml"))
    assert caught.value.where.endswith("c.yaml:2")


@pytest.mark.parametrize(
    ("parent", "fix"), [("tinny", "Did you mean 'tiny'"), ("gone.yaml", "tiny"), ("[a]", "extends")]
)
def test_a_parent_that_is_not_there(write: Write, parent: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(write(f"seed: 1\n\nextends: {parent}"))
    assert caught.value.where.endswith("mine.yaml:3")
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("optim.lr=2e-6", "optim.lr", 2e-6),
        ("optim.max_generated_tokens=400_000", "optim.max_generated_tokens", 400_000),
        ("optim.max_generated_tokens=", "optim.max_generated_tokens", None),
        ("tracking.wandb.mode=off", "tracking.wandb.mode", "off"),  # YAML 1.1 would read false
        ("model.revision=2026-11-20", "model.revision", "2026-11-20"),  # and a date
        ("eval.benchmarks=[gsm8k, math500]", "eval.benchmarks", ["gsm8k", "math500"]),
        ("task.prompt=a=b {problem}", "task.prompt", "a=b {problem}"),
        ("method.reflect_every=never", "method.reflect_every", "never"),
        ("model.lora.targets=[q_proj]", "model.lora.targets", ["q_proj"]),
    ],
)
def test_set_reads_its_value_as_yaml(option: str, key: str, value: object) -> None:
    found: object = load_recipe("tiny", [option])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_last_set_of_a_key_wins() -> None:
    assert load_recipe("tiny", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("option", ["seed", "=1", "optim..lr=1", "seed={a: 1", ".=2"])
def test_a_set_that_is_no_assignment(option: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("tiny", [option])
    assert caught.value.where == f"--set {option}"


def test_set_cannot_reach_into_a_value() -> None:
    with pytest.raises(UserError, match="'optim' was set to a value"):
        load_recipe("tiny", ["optim=3", "optim.lr=1"])


def test_another_method_replaces_the_section(write: Write) -> None:
    write("method: {name: scrpo, reflect_every: 5, kl: {beta: 0.5}}", "base.yaml")
    method = load_recipe(write("extends: base.yaml\nmethod: {name: grpo, clip: {high: 0.28}}")).method
    assert method == GrpoConfig.model_validate({"clip": {"high": 0.28}})  # beta is back at its default


def test_the_same_method_merges(write: Write) -> None:
    write("method: {name: scrpo, reflect_every: 5}", "base.yaml")
    for child in ("method: {name: scrpo, kl: {beta: 0}}", "method: {kl: {beta: 0}}"):
        method = load_recipe(write(f"extends: base.yaml\n{child}")).method
        assert isinstance(method, ScrpoConfig)
        assert (method.reflect_every, method.kl.beta) == (5, 0)


def test_a_method_without_a_name_is_the_default_one(write: Write) -> None:
    path = write("method: {reflect_every: 5}")
    assert load_recipe(path).method == ScrpoConfig(reflect_every=5)
    assert load_recipe(write("extends: mine.yaml\nmethod: {name: scrpo}", "b.yaml")).method == ScrpoConfig(
        reflect_every=5
    )
    assert load_recipe(write("{seed: 1}", "c.yaml"), ["method.reflect_every=5"]).method == ScrpoConfig(reflect_every=5)


def test_set_of_a_method_in_any_order() -> None:
    options = ["method.kl.beta=0.5", "method.name=grpo"]
    for sets in (options, options[::-1]):
        assert load_recipe("tiny", sets).method == GrpoConfig.model_validate({"kl": {"beta": 0.5}})


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("optim:\n  lr: 1\n  lr: 2", 3, "written twice"),
        ("optim:\n  lr: [1\nseed: 2\n", 3, "Not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "Not valid YAML"),
        ("seed: 1\n? [a, b]\n: 3", 2, "plain text"),
        ("seed: !!python/name:os.system x", 1, "Not valid YAML"),
    ],
)
def test_broken_yaml_names_the_line(write: Write, text: str, line: int, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_recipe(write(text))
    assert caught.value.where.endswith(f"mine.yaml:{line}")


@pytest.mark.parametrize(("text", "what"), [("", "empty"), ("# nothing\n", "empty"), ("- a", "not a mapping")])
def test_a_file_that_is_no_recipe(write: Write, text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        load_recipe(write(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("binary.yaml", "folder.yaml", "gone.yaml", "gone"):
        with pytest.raises(UserError) as caught:
            load_recipe(tmp_path / name)
        assert name in caught.value.where


def test_the_schema_knows_extends() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == {"extends", *Recipe.model_fields}
    assert schema["$defs"]["OptimConfig"]["properties"]["max_generated_tokens"]["description"].startswith("Budget")


TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
SECTIONS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4)


def document(data: dict, name: str) -> Document:
    """`data` with every key said to be written in `name`."""
    origins: dict = {(): name}

    def walk(value: object, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                origins[*path, key] = name
                walk(inner, (*path, key))

    walk(data, ())
    return Document(data, origins)


def over(base: object, child: object) -> object:
    """The rule: mappings merge key by key, everything else is the child's."""
    if not (isinstance(base, dict) and isinstance(child, dict)):
        return child
    return base | {key: over(base[key], value) if key in base else value for key, value in child.items()}


@given(SECTIONS, SECTIONS)
def test_merge_and_where_each_key_was_written(base: dict, child: dict) -> None:
    merged = merge(document(base, "base"), document(child, "child"))
    assert merged.data == over(base, child)
    assert set(merged.origins) == set(document(merged.data, "").origins)  # nothing points at a key that is gone
    written = document(child, "child").origins
    assert merged.origins == {path: "child" if path in written else "base" for path in merged.origins}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dumped_recipe_reads_back_the_same(write: Write, name: str) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe
