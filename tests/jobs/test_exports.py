"""What leaves a database, read back by those who are meant to read it: datasets, transformers and peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from exported_run import HOSTILE
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.jobs import cards
from scrpo_cli.jobs import export as jobs
from scrpo_cli.jobs.adapter import export_adapter
from scrpo_cli.jobs.dataset import COLUMNS, export_dataset
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.activity import Activity
from scrpo_cli.training import checkpoint
from scrpo_cli.training.policy import Policy, load_policy

# --- Parquet ------------------------------------------------------------------------------------------------------


def test_a_data_set_has_the_rows_of_the_lines(db: Database, run: RunRow, tmp_path: Path) -> None:
    import datasets

    lines = tmp_path / "lines.jsonl"
    assert jobs.export_run(db, run, lines) == export_dataset(db, run, tmp_path / "set") == 19
    found = datasets.load_dataset(str(tmp_path / "set"), "eval-test-after", split="test", cache_dir=str(tmp_path / "c"))
    assert found.column_names == list(COLUMNS)
    for row, line in zip(found, lines.read_text().splitlines(), strict=True):
        expected = json.loads(line)
        assert json.loads(row.pop("meta")) == expected.pop("meta")
        assert {key: value for key, value in row.items() if value is not None} == {
            key: value for key, value in expected.items() if value is not None
        }


def test_a_card_cannot_be_broken_out_of(db: Database, run: RunRow, tmp_path: Path) -> None:
    export_dataset(db, run, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.to_dict()["configs"] == [
        {"config_name": "eval-test-after", "data_files": [{"split": "test", "path": "data/eval-test-after.parquet"}]}
    ]
    assert "onerror" not in outside_of_code(card.content)
    assert f"| `test:after` | 2 | 2 x 4 | `avg` | {100 * (0.5 + 2 / 3) / 2:.1f}% [" in card.content
    assert yaml.safe_load(card.content.split("yaml\n")[-1].rpartition("````")[0])["name"] == HOSTILE


def outside_of_code(markdown: str) -> str:
    """What a renderer of Markdown would take for anything else than code."""
    rendered = MarkdownIt("commonmark").enable("table").parse(markdown)
    pieces = [child for token in rendered for child in (token.children or [token])]
    return "".join(token.content for token in pieces if token.type not in ("code_inline", "fence", "inline"))


@pytest.mark.parametrize("text", ["`", "``a`", "a|b", "a\nb", "", "```\n</code>", "`x`"])
def test_code_of_anything_is_one_piece(text: str) -> None:
    parsed = MarkdownIt("commonmark").enable("table")
    (*_, cell) = [t for t in parsed.parse(cards.table(("a",), [(cards.code(text),)])) if t.type == "inline"]
    assert [child.content for child in cell.children] == ([" ".join(text.split())] if text else [])
    (block,) = [t for t in parsed.parse(cards.fenced(text)) if t.type == "fence"]
    assert block.content == f"{text}\n" if text else True


def test_a_directory_that_is_there_stays_as_it_is(db: Database, run: RunRow, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="something at this place"):
        export_dataset(db, run, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["README.md"]
    with pytest.raises(UserError, match="writes a directory"):
        export_dataset(db, run, Path("-"))
    assert not list(tmp_path.glob(".scrpo-*"))


# --- the adapter --------------------------------------------------------------------------------------------------

IDS = torch.tensor([[3, 5, 7, 9, 11]])


@pytest.fixture
def policy(recipe: Recipe, run: RunRow) -> Policy:
    """The run's, with its last checkpoint in place."""
    policy = load_policy(recipe.model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    progress = checkpoint.Progress(2, 20, adapter_sha256=policy.adapter_hash())
    optimizer = torch.optim.AdamW(policy.trainable())
    checkpoint.save(Path(run.directory) / "checkpoints", progress, policy, optimizer, keep=2)
    return policy


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def by_transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=torch.float32)
    model.load_adapter(str(folder))
    return model


def by_peft(folder: Path) -> Any:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("load", [by_transformers, by_peft])
def test_the_adapter_loads_as_the_policy(
    db: Database, run: RunRow, policy: Policy, tmp_path: Path, load: Callable[[Path], Any]
) -> None:
    done = export_adapter(db, run, tmp_path / "adapter")
    assert done["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert torch.allclose(logits(load(tmp_path / "adapter")), logits(policy.model), atol=1e-5)
    with policy.model.disable_adapter():
        assert not torch.allclose(logits(load(tmp_path / "adapter")), logits(policy.model), atol=0.1)


def test_the_merged_model_is_the_policy_rounded_as_its_base(
    db: Database, run: RunRow, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: list[str] = []
    monkeypatch.setattr(Activity, "_show", lambda self, at_once=False: said.append(self.text))
    export_adapter(db, run, tmp_path / "merged", merge=True)
    stages = [text.partition(": ")[2].split()[0] for text in said if text.startswith("merging")]
    assert stages == ["loading", "adding", "writing"]
    assert not list((tmp_path / "merged").glob("adapter*"))
    base, model = (AutoModelForCausalLM.from_pretrained(p) for p in (embedded_model_dir(), tmp_path / "merged"))
    assert model.dtype == base.dtype == torch.bfloat16
    learned = policy.model.merge_and_unload().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, learned[name].bfloat16()), name
    moved = [n for n, weight in base.state_dict().items() if not torch.equal(weight, model.state_dict()[n])]
    assert len(moved) == 7 * base.config.num_hidden_layers
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    said = [{"role": "user", "content": "1+1=?"}]
    texts = [t.apply_chat_template(said, tokenize=False) for t in (tokenizer, policy.tokenizer)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("merge", [False, True])
def test_the_model_card_says_what_it_is(db: Database, run: RunRow, policy: Policy, tmp_path: Path, merge: bool) -> None:
    export_adapter(db, run, tmp_path / "out", merge=merge)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == ("transformers" if merge else "peft")
    assert card.data.base_model is None  # a directory of this machine, which means nothing on a hub
    assert "trained for 2 steps on 20 generated tokens" in card.content
    assert "`repair_rate`" in card.content
    assert "onerror" not in outside_of_code(card.content)
    stored = yaml.safe_load(card.content.split("## Recipe\n\n")[1].split("yaml\n")[1].rpartition("````")[0])
    assert Recipe.model_validate(stored) == load_recipe("tiny").model_copy(update={"name": HOSTILE})


def test_a_base_model_of_the_hub_is_named_with_its_revision(tmp_path: Path, recipe: Recipe) -> None:
    from scrpo_cli.jobs.adapter import CONFIG, WEIGHTS, card_data, usage, write_adapter

    cfg = recipe.model.model_copy(update={"name": "Qwen/Qwen2.5-0.5B", "revision": "abc"})
    (tmp_path / CONFIG).write_text(json.dumps({"r": 8, "revision": None}))
    (tmp_path / WEIGHTS).write_bytes(b"")
    (tmp_path / "new").mkdir()
    write_adapter(cfg, tmp_path, tmp_path / "new")
    assert json.loads((tmp_path / "new" / CONFIG).read_text())["revision"] == "abc"
    assert card_data(cfg.name, merged=False).to_dict()["base_model"] == "Qwen/Qwen2.5-0.5B"
    python, shell = usage(cfg, tmp_path / "new", merged=False)
    assert "from_pretrained('Qwen/Qwen2.5-0.5B', revision='abc')" in python
    assert "vllm serve Qwen/Qwen2.5-0.5B --revision abc --enable-lora --max-lora-rank 8" in shell


def test_a_damaged_checkpoint_is_not_exported(db: Database, run: RunRow, policy: Policy, tmp_path: Path) -> None:
    (file,) = Path(run.directory).rglob("adapter_model.safetensors")
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        export_adapter(db, run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
