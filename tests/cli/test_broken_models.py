"""Broken models and adapters through the real command line: refused in three lines, and no answer of theirs is kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.test_bad_input import counted, refused
from processes import small
from run_rows import DATABASE, execute
from safetensors.torch import load_file, save_file

from scrpo_cli.recipe.load import load_recipe, recipe_json
from scrpo_cli.training import checkpoint

SIZES = small(
    optim__steps=1,
    optim__prompts_per_step=2,
    checkpoint__every=1,
    eval__repair="false",
    eval__limit=1,
    rollout__max_tokens=8,
    task__train__limit=8,
    task__grading__in_process="true",
)
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
Tensors = Mapping[str, torch.Tensor]


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def shortened(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


def keys(name: str, **changes: object) -> Callable[[Path], None]:
    """Keys of a JSON file set, or with None taken out."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return damage


def tensors(name: str, change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        changed = {key: tensor.contiguous().clone() for key, tensor in change(load_file(folder / name)).items()}
        save_file(changed, folder / name, metadata={"format": "pt"})

    return damage


def numbers(value: float) -> Callable[[Tensors], Tensors]:
    """A single number of the first tensor is `value`."""

    def change(found: Tensors) -> Tensors:
        first = min(found)
        changed = found[first].clone()
        changed.view(-1)[-1] = value
        return {**found, first: changed}

    return change


def both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [damage(folder) for damage in damages] and None


BROKEN_MODELS = {
    "weights cut off": (shortened(WEIGHTS, 20_000), "could not be loaded"),
    "weights empty": (shortened(WEIGHTS, 0), "could not be loaded"),
    "no weights": (without(WEIGHTS), "holds no weights"),
    "other width": (keys("config.json", hidden_size=16), "by its config.json"),
    "more layers": (keys("config.json", num_hidden_layers=3, layer_types=None), "weights lack 11 tensors"),
    "fewer layers": (keys("config.json", num_hidden_layers=1, layer_types=None), "weights hold 11 tensors"),
    "other architecture": (keys("config.json", model_type="gpt2"), "could not be loaded|weights lack"),
    "unknown architecture": (keys("config.json", model_type="nothing"), "model type `nothing`"),
    "a word for a number": (keys("config.json", hidden_size="big"), "hidden_size"),
    "config no JSON": (text("config.json", "{"), "config.json cannot be read"),
    "config a list": (text("config.json", "[1]"), "config.json cannot be read: it is no JSON object"),
    "no config": (without("config.json"), "has no config.json"),
    "NaN": (tensors(WEIGHTS, numbers(float("nan"))), "not finite numbers: "),
    "infinity": (tensors(WEIGHTS, numbers(float("-inf"))), "not finite numbers: "),
    "small vocabulary": (
        both(
            keys("config.json", vocab_size=50),
            tensors(WEIGHTS, lambda w: {k: v[:50] if "embed_tokens" in k else v for k, v in w.items()}),
        ),
        "token ids up to 99, and the model knows 50 tokens",
    ),
    "tokenizer no JSON": (text("tokenizer.json", "{"), "No tokenizer could be loaded"),
    "tokenizer empty": (text("tokenizer.json", "{}"), "No tokenizer could be loaded"),
    "generation config": (text("generation_config.json", "{"), "generation_config.json cannot be read"),
    "end token a word": (text("generation_config.json", '{"eos_token_id": "stop"}'), "no end token (stop"),
    "template cut off": (text("chat_template.jinja", "{% for m in messages %}{{ m"), "chat template fails on user"),
    "template raises": (text("chat_template.jinja", "{{ raise_exception('no') }}"), "chat template fails on user: no"),
    "template undefined": (text("chat_template.jinja", "{{ messages[9].content.x }}"), "chat template fails on user"),
    "template constant": (text("chat_template.jinja", "hello"), "leaves out what the user says"),
    "an adapter": (text("adapter_config.json", "{}"), "is an adapter and no model"),
}


@pytest.mark.parametrize("kind", BROKEN_MODELS)
def test_a_broken_model_is_refused(scrpo, tmp_path, model_dir, kind) -> None:
    damage, words = BROKEN_MODELS[kind]
    damage(model_dir)
    what, where, _ = refused(scrpo("eval", *SIZES, "--set", f"model.name={model_dir}"))
    assert any(each in what for each in words.split("|"))
    assert str(model_dir) in where
    assert counted(tmp_path) == 0


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter_source(model_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scrpo_cli.recipe.models import LoraConfig, ModelConfig
    from scrpo_cli.training.policy import load_policy

    path = tmp_path_factory.mktemp("adapter")
    policy = load_policy(ModelConfig(name=str(model_source), lora=LoraConfig(r=4)), 0)
    with torch.no_grad(), torch.random.fork_rng():
        for p in policy.trainable():
            p.normal_()
    policy.model.save_pretrained(path, save_embedding_layers=False)
    return path


@pytest.fixture
def adapter(adapter_source: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(adapter_source, tmp_path / "adapter"))


CONFIG = "adapter_config.json"
BROKEN_ADAPTERS = {
    "other names": (
        tensors(ADAPTER, lambda w: {k.replace("layers", "blocks"): v for k, v in w.items()}),
        "lacks 28 of the 28 tensors",
    ),
    "one missing": (tensors(ADAPTER, lambda w: {k: w[k] for k in sorted(w)[1:]}), "lacks 1 of the 28 tensors"),
    "none at all": (tensors(ADAPTER, lambda w: {}), "lacks 28 of the 28 tensors"),
    "one too many": (
        tensors(ADAPTER, lambda w: {**w, min(w).replace("layers.0", "layers.7"): torch.zeros(4, 64)}),
        "has 1 tensors that have no place in this model",
    ),
    "fewer targets": (keys(CONFIG, target_modules=["q_proj"]), "has 24 tensors that have no place"),
    "other rank": (keys(CONFIG, r=8), "weights have rank 4, and its adapter_config.json says 8"),
    "absurd rank": (keys(CONFIG, r=10**9), "rank is 1000000000, and no layer of this model has one above 32"),
    "absurd rank of a layer": (keys(CONFIG, rank_pattern={"q_proj": 10**12}), "rank is 1000000000000"),
    "other width": (
        tensors(ADAPTER, lambda w: {k: v[..., :3] if "lora_A" in k else v for k, v in w.items()}),
        "is of another model: 4 x 3 and not",
    ),
    "NaN": (tensors(ADAPTER, numbers(float("nan"))), "not finite numbers"),
    "cut off": (shortened(ADAPTER, 3000), "weights cannot be read"),
    "empty": (shortened(ADAPTER, 0), "weights cannot be read"),
    "no weights": (without(ADAPTER), "The adapter has no weights"),
    "pickled junk": (both(without(ADAPTER), text("adapter_model.bin", "junk")), "weights cannot be read"),
    "config no JSON": (text(CONFIG, "{"), "adapter_config.json cannot be read"),
    "config a list": (text(CONFIG, "[]"), "it is no JSON object"),
    "no kind": (keys(CONFIG, peft_type=None), "does not say its peft_type"),
    "unknown kind": (keys(CONFIG, peft_type="NOTHING"), "peft knows no adapter of type NOTHING"),
    "targets nothing": (keys(CONFIG, target_modules=["nothing"]), "nothing"),
    "targets a number": (keys(CONFIG, target_modules=5), "does not fit qwen3"),
    "targets a broken pattern": (keys(CONFIG, target_modules="(("), "does not fit qwen3"),
    "rank a word": (keys(CONFIG, r="four"), "does not fit qwen3"),
    "no config": (without(CONFIG), "Not an adapter directory"),
}


@pytest.mark.parametrize("kind", BROKEN_ADAPTERS)
def test_a_broken_adapter_is_refused(scrpo, tmp_path, model_source, adapter, kind) -> None:
    damage, words = BROKEN_ADAPTERS[kind]
    damage(adapter)
    what, where, _ = refused(scrpo("eval", *SIZES, "--set", f"model.name={model_source}", "--adapter", adapter))
    assert words in what
    assert str(adapter) in where
    assert counted(tmp_path) == 0


@pytest.mark.parametrize("command", ["collect", "train", "train --dry-run", "doctor"])
def test_so_it_is_by_every_command(scrpo, model_source, adapter, command) -> None:
    """It was evaluated as the bare base model, under the adapter's name."""
    damage, words = BROKEN_ADAPTERS["other names"]
    damage(adapter)
    sizes = SIZES if command != "doctor" else ["--set", "task.train.limit=5"]
    sets = ("--set", f"model.name={model_source}", "--set", f"model.adapter={adapter}")
    outcome = scrpo(*command.split(), *sizes, *sets, "--json")
    assert outcome.code == (1 if command == "doctor" else 2)
    assert words in json.dumps(outcome.json)


def test_so_is_a_checkpoint_that_is_resumed(scrpo, tmp_path, model_source) -> None:
    train = ("train", *SIZES, "--set", "optim.steps=2", "--set", f"model.name={model_source}", "--json")
    run = scrpo(*train).json["run"]
    execute(tmp_path, "DELETE FROM evaluation WHERE label = 'after'")
    newest, _ = checkpoint.newest(tmp_path / ".scrpo/runs" / run / "checkpoints")
    tensors(ADAPTER, lambda w: {k: w[k] for k in sorted(w)[1:]})(newest)
    (newest / checkpoint.MANIFEST).unlink()
    checkpoint.seal(newest)
    assert "lacks 1 of the" in refused(scrpo("train", "--resume", run))[0]


def test_a_whole_adapter_changes_the_answers(scrpo, tmp_path, model_source, adapter) -> None:
    answers = []
    for more in ((), ("--adapter", adapter)):
        sets = (*SIZES, "--set", f"model.name={model_source}", "--samples", 8)
        outcome = scrpo("eval", *sets, *more, "--json")
        assert outcome.code == 0, outcome.err
        asked = "SELECT hex(ids) FROM attempt WHERE run_id = ? ORDER BY id"
        answers.append(execute(tmp_path, asked, outcome.json["run"]))
    assert answers[0] != answers[1]


@pytest.mark.parametrize("moved", [False, True])
def test_a_base_model_that_is_another_one_is_named(scrpo, tmp_path, model_dir, adapter, moved) -> None:
    """Its shapes are the same; that it only lies elsewhere says nothing."""
    other = Path(shutil.copytree(model_dir, tmp_path / "other"))
    if not moved:
        tensors(WEIGHTS, lambda w: {k: v + 0.01 for k, v in w.items()})(other)
    keys(CONFIG, base_model_name_or_path=str(other))(adapter)
    outcome = scrpo("eval", *SIZES, "--set", f"model.name={model_dir}", "--adapter", adapter)
    if moved:
        assert outcome.code == 0, outcome.err
    else:
        assert f"another base model, {other}: its weights are others" in refused(outcome)[0]


def test_a_pickled_adapter_runs_no_code(scrpo, model_source, adapter) -> None:
    import pickle

    (adapter / ADAPTER).unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(print))
    refused(scrpo("eval", *SIZES, "--set", f"model.name={model_source}", "--adapter", adapter))


def test_the_adapter_config_is_written_in_order(scrpo, tmp_path, model_source) -> None:
    """peft keeps the targets as a set, whose order changes from process to process."""
    outcome = scrpo("train", *SIZES, "--set", f"model.name={model_source}", "--json")
    assert outcome.code == 0, outcome.err
    (config,) = (tmp_path / ".scrpo/runs").glob(f"*/checkpoints/step-*/{CONFIG}")
    targets = json.loads(config.read_text())["target_modules"]
    assert len(targets) > 5
    assert targets == sorted(targets)


# --- numbers that are not finite ----------------------------------------------------------------------------------


def scaled_up(found: Tensors) -> Tensors:
    """Every weight is finite, and no logit is."""
    return {k: torch.full_like(v, 3e38) if k.endswith("model.norm.weight") else v for k, v in found.items()}


@pytest.mark.parametrize("command", ["train", "collect", "eval", "doctor"])
def test_logits_that_are_not_finite_stop_the_run(scrpo, tmp_path, model_dir, command) -> None:
    tensors(WEIGHTS, scaled_up)(model_dir)
    sizes = SIZES if command != "doctor" else ["--set", "task.train.limit=5"]
    outcome = scrpo(command, *sizes, "--set", f"model.name={model_dir}")
    if command == "doctor":
        assert outcome.code == 1
        assert "logits are not finite" in outcome.out
        return
    what, where, _ = refused(outcome, code=1)
    assert "logits are not finite numbers at token 1" in what
    assert "float32" in where
    assert counted(tmp_path) == counted(tmp_path, "pool_entry") == 0
    assert execute(tmp_path, "SELECT status FROM run") == [("failed",)]


def test_a_step_that_breaks_the_adapter_is_not_kept(scrpo, tmp_path, model_source, monkeypatch) -> None:
    from scrpo_cli.training.update import Updater

    def broken(self: Any, *args: Any) -> dict[str, float]:
        with torch.no_grad():
            self.policy.trainable()[-1].fill_(float("inf"))
        return {"train/loss": 0.0}

    monkeypatch.setattr(Updater, "update", broken)
    what, _, _ = refused(scrpo("train", *SIZES, "--set", f"model.name={model_source}"), code=1)
    assert what.startswith("The adapter's weights are not finite numbers after step 1")
    assert counted(tmp_path, "step") == 0
    assert not list((tmp_path / ".scrpo/runs").glob("*/checkpoints/step-*"))


# --- settings that no model takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.threads=100000", "model.threads is 100000, and this machine has"),
        ("model.lora.r=1000000000", "rank is 1000000000, and no layer of this model has one above 32"),
        (f"model.lora.r={10**400}", "and no layer of this model has one above 32"),
        ("model.lora.targets=[]", "'model.lora.targets' is empty"),
        ("model.lora.targets=[foo]", "no module 'foo'"),
        ("model.lora.targets=[q_proj, v_prj]", "no module 'v_prj'"),
    ],
)
def test_settings_that_no_model_takes(scrpo, model_source, setting, words) -> None:
    assert words in refused(scrpo("train", *SIZES, "--set", f"model.name={model_source}", "--set", setting))[0]


# --- where a model is looked for ----------------------------------------------------------------------------------


@pytest.fixture
def recipe_beside(model_dir: Path, tmp_path: Path) -> Path:
    """A recipe that names the directory beside it, without `./`."""
    (tmp_path / "work").mkdir()
    model_dir.rename(tmp_path / "work/mine")
    path = tmp_path / "work/own.yaml"
    path.write_text("extends: tiny\nmodel: {name: mine}\n")
    return path


def test_a_model_is_looked_for_beside_the_recipe_and_stays_found(scrpo, tmp_path, recipe_beside, monkeypatch) -> None:
    for folder, ref in ((tmp_path, "work/own.yaml"), (tmp_path / "work", "own.yaml"), (Path("/"), recipe_beside)):
        monkeypatch.chdir(folder)
        assert load_recipe(ref).model.name == str(tmp_path / "work/mine")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("tiny", ["model.name=./work/mine"]).model.name == str(tmp_path / "work/mine")
    assert load_recipe(recipe_beside, ["model.name=work/mine"]).model.name == str(tmp_path / "work/mine")
    assert load_recipe(recipe_beside, ["model.name=owner/name"]).model.name == "owner/name"
    assert load_recipe(recipe_beside, ["model.name=tiny"]).model.name == "tiny"


@pytest.mark.parametrize(
    ("part", "name"), [("task.train.source", "rows.jsonl"), ("task.test.source", "./rows"), ("model.adapter", "a")]
)
def test_so_are_adapters_and_data(tmp_path, monkeypatch, part, name) -> None:
    (tmp_path / "work/a").mkdir(parents=True)
    (tmp_path / "work/rows").mkdir()
    (tmp_path / "work/rows.jsonl").write_text("{}")
    section, _, key = part.rpartition(".")
    nested: Any = {key: name}
    for outer in reversed(section.split(".")):
        nested = {outer: nested}
    (tmp_path / "work/own.yaml").write_text(json.dumps({"extends": "tiny"} | nested))
    monkeypatch.chdir("/")
    document = json.loads(recipe_json(load_recipe(tmp_path / "work/own.yaml")))
    for step in part.split("."):
        document = document[step]
    assert document == str((tmp_path / "work" / name).resolve())


def test_a_run_whose_model_is_gone_never_asks_the_hub(scrpo, tmp_path, recipe_beside, monkeypatch) -> None:
    from scrpo_cli import hub

    monkeypatch.setattr(hub, "answers", lambda *_: pytest.fail("the hub was asked"))
    outcome = scrpo("train", "-r", recipe_beside, *SIZES, "--json")
    assert outcome.code == 0, outcome.err
    (tmp_path / "work/mine").rename(tmp_path / "work/other")
    execute(tmp_path, "DELETE FROM evaluation WHERE label = 'after'")
    what, where, _ = refused(scrpo("train", "--resume", outcome.json["run"]))
    assert what == "The model directory does not exist."
    assert where == f"model.name: {tmp_path / 'work/mine'}"


@pytest.mark.parametrize("command", ["doctor", "train"])
def test_a_hub_that_cannot_be_reached_is_given_up_at_once(scrpo, monkeypatch, command) -> None:
    """Each file was asked for six times, over half a minute."""
    from huggingface_hub import constants

    from scrpo_cli import hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    hub.answers.cache_clear()
    start = time.monotonic()
    outcome = scrpo(command, "--set", f"model.name=nobody/{command}")
    assert time.monotonic() - start < 20
    if command == "train":
        what, where, fix = refused(outcome)
        assert what.startswith("No tokenizer could be loaded")
        assert where == "model.name: nobody/train"
        assert "The model hub does not answer." in fix
    assert outcome.code == (2 if command == "train" else 1)
    assert not DATABASE.exists() or execute(Path(), "SELECT status FROM run") == [("failed",)]
