"""The budget: bounds by hand, sizes against real models, memory against what autograd really keeps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from scrpo_cli.jobs.budget import Budget, estimate, layer_activations, model_sizes, render, size
from scrpo_cli.jobs.limits import memory_settings
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import LoraConfig, ModelConfig, Recipe
from scrpo_cli.training.logprobs import completion_states
from scrpo_cli.training.policy import add_adapter

SHAPES = [  # hidden, feed-forward, layers, heads, key-value heads, head size
    (64, 256, 2, 4, 2, 16),
    (64, 96, 3, 4, 4, 16),
    (32, 512, 2, 2, 1, 32),
]


def config(kind: Any, shape: tuple[int, ...]) -> Any:
    h, f, layers, heads, kv, size = shape
    return kind(
        hidden_size=h,
        intermediate_size=f,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=size,
        vocab_size=128,
        tie_word_embeddings=True,
    )


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    config(Qwen3Config, SHAPES[0]).save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


def recipe(model: Path | str, *sets: str) -> Recipe:
    return load_recipe("tiny", [f"model.name={model}", *sets])


def test_bounds_of_grpo() -> None:
    sets = ["optim.steps=10", "optim.prompts_per_step=4", "rollout.group_size=8", "rollout.max_tokens=100"]
    budget = estimate(load_recipe("tiny-grpo", [*sets, "optim.max_generated_tokens=", "model.name=/nowhere"]))
    assert (budget.rollouts_per_step, budget.turns) == ({"first": 32}, 1)
    assert (budget.rollouts, budget.generated_tokens) == (320, 32_000)


def test_bounds_of_scrpo_take_the_larger_of_both_steps() -> None:
    sets = ["optim.steps=10", "optim.prompts_per_step=4", "method.stage2.prompts=6", "method.stage2.group_size=16"]
    sets += ["rollout.max_tokens=100", "optim.max_generated_tokens=", "model.name=/nowhere"]
    budget = estimate(load_recipe("tiny", sets))
    assert budget.rollouts_per_step == {"first": 32, "reflect": 96}
    assert budget.rollouts == 960
    never = estimate(load_recipe("tiny", [*sets, "method.reflect_every=never"]))
    assert never.rollouts_per_step == {"first": 32}
    assert never.context < budget.context  # no answer is shown again


def test_the_step_that_reaches_the_token_budget_is_finished() -> None:
    sets = ["optim.prompts_per_step=4", "rollout.max_tokens=100", "optim.max_generated_tokens=5000"]
    assert estimate(load_recipe("tiny-grpo", [*sets, "model.name=/nowhere"])).generated_tokens == 4999 + 3200


def test_prompts_with_the_answers_that_they_show_are_counted() -> None:
    sets = ["optim.steps=10", "optim.prompts_per_step=4", "rollout.max_tokens=100", "optim.max_generated_tokens="]
    sets += ["task.max_prompt_tokens=50", "model.name=/nowhere", "task.check_prompt=again", "task.reflect_prompt=again"]
    first = estimate(load_recipe("tiny-grpo", sets))
    assert first.prompt_tokens == 320 * 50
    turns = estimate(load_recipe("compare/score", [*sets, "method.turns=2", "rollout.group_size=8"]))
    assert turns.prompt_tokens == 640 * (50 + 100 + 17)  # three letters a token, and 16 of the template
    reflect = estimate(load_recipe("tiny", sets))
    assert reflect.prompt_tokens == 320 * (50 + 100 + 17)


def evaluations(*sets: str) -> Any:
    own = ["model.name=/nowhere", "optim.steps=100", "task.test.limit=10", "task.validation.limit=5", "eval.samples=3"]
    own += ["task.max_prompt_tokens=50", "eval.max_tokens=200", "task.check_prompt=again", "task.reflect_prompt=again"]
    return estimate(load_recipe("tiny", [*own, "eval.repair=false", *sets])).evaluation


def test_the_runs_own_evaluations_by_hand() -> None:
    work = evaluations("eval.every=30")
    assert (work.times, work.problems) == ({"test": 2, "validation": 3}, {"test": 10, "validation": 5})
    assert (work.answers, work.context, work.rollouts) == (3, 250, 35 * 3)
    assert (work.generated_tokens, work.prompt_tokens) == (105 * 200, 105 * 50)


@pytest.mark.parametrize(
    ("sets", "answers", "context"),
    [
        (["eval.repair=true"], 2, 50 + 2 * 200 + 17),
        (["eval.turns=3"], 3, 50 + 3 * 200 + 2 * 17),
        (["eval.turns=2", "eval.repair=true"], 3, 50 + 2 * 200 + 17),
        (["eval.turns=2", "eval.second_turn=reflect", "eval.repair=true"], 2, 50 + 2 * 200 + 17),
    ],
)
def test_further_answers_of_an_evaluation(sets: list[str], answers: int, context: int) -> None:
    work = evaluations(*sets)
    assert (work.answers, work.context) == (3 * answers, context)


def test_a_run_that_evaluates_on_validation_only() -> None:
    assert evaluations("task.test=null", "eval.every=50").times == {"validation": 3}
    assert evaluations("task.test=null", "task.validation=null") is None
    assert evaluations("eval.every_tokens=100000", "optim.max_generated_tokens=300000").times["validation"] == 3


def test_evaluations_with_longer_answers_need_the_larger_cache(qwen: Path) -> None:
    sets = ["method.reflect_every=never", "task.max_prompt_tokens=100", "rollout.max_tokens=60", "eval.repair=false"]
    short, long = (model_sizes(recipe(qwen, *sets, f"eval.max_tokens={n}")).memory["kv_cache"] for n in (60, 380))
    assert long == 3 * short  # 480 tokens a row for 160


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_sizes_are_those_of_the_real_model(qwen: Path, targets: Any) -> None:
    base = AutoModelForCausalLM.from_config(config(Qwen3Config, SHAPES[0]))
    parameters = base.num_parameters()
    model = add_adapter(base.requires_grad_(False), ModelConfig(lora=LoraConfig(r=4, targets=targets)), 0)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sizes = model_sizes(recipe(qwen, "model.lora.r=4", f"model.lora.targets={targets}", "checkpoint.keep=3"))
    assert (sizes.parameters, sizes.adapter_parameters) == (parameters, trainable)
    assert (sizes.checkpoint, sizes.disk) == (12 * trainable, 4 * 12 * trainable)


def test_an_adapter_to_start_from_gives_its_own_shape(qwen: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_config(config(Qwen3Config, SHAPES[0])).requires_grad_(False)
    model = add_adapter(base, ModelConfig(lora=LoraConfig(r=3)), 0)
    model.save_pretrained(tmp_path / "adapter")
    sizes = model_sizes(recipe(qwen, f"model.adapter={tmp_path / 'adapter'}", "model.lora.r=16"))
    assert sizes.adapter_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_memory_is_that_of_the_engine(qwen: Path) -> None:
    sets = ["model.dtype=float32", "method.reflect_every=never", "eval.repair=false", "rollout.max_tokens=60"]
    ours, inside, server = (
        model_sizes(recipe(qwen, *sets, f"rollout.engine={engine}"))
        for engine in ("transformers", "vllm", "vllm_server")
    )
    for theirs in (inside.memory, server.memory):
        assert (theirs["kv_cache"], theirs["sampling"]) == (0, 0)
        assert "merged_adapter" not in theirs
        assert theirs["activations"] == ours.memory["activations"]
    assert inside.peak - server.peak == inside.memory["vllm_weights"] == 4 * inside.parameters
    large = [*sets, "rollout.batch_size=100000", "optim.tokens_per_microbatch=100"]
    for engine, setting in (("transformers", ["rollout.batch_size"]), ("vllm_server", [])):
        made = recipe(qwen, *large, f"rollout.engine={engine}")
        found = memory_settings(made, model_sizes(made), 10**9)
        assert [each.partition("=")[0] for each in found] == setting


def test_a_merged_copy_of_the_weights_has_no_memory(qwen: Path) -> None:
    sizes = model_sizes(made := recipe(qwen, "model.dtype=float32", "method.reflect_every=never"))
    between = sizes.memory["weights"] + sizes.memory["adapter"] + sizes.memory["merged_adapter"] // 2
    assert "model.dtype=bfloat16" in memory_settings(made, sizes, between)


def test_memory_by_hand(qwen: Path) -> None:
    """hidden 64, feed-forward 256, 2 layers, 4 heads and 2 key-value heads of 16, 128 words; float32."""
    sets = ["model.dtype=float32", "task.max_prompt_tokens=100", "rollout.max_tokens=60", "rollout.batch_size=10"]
    sets += ["optim.tokens_per_microbatch=1000", "optim.logits_chunk=50", "method.reflect_every=never"]
    sets += ["eval.repair=false"]
    sizes = model_sizes(recipe(qwen, *sets))
    assert sizes.memory == {
        "weights": 4 * sizes.parameters,
        "adapter": 16 * sizes.adapter_parameters,
        "activations": 1000 * 2 * (16 * 64 + 8 * 64 + 8 * 32 + 16 * 256),
        "logits": 50 * 128 * 4 * 2,
        "kv_cache": 10 * 160 * 2 * 2 * 32 * 4,
        "sampling": 10 * 128 * 28,
        "merged_adapter": 4 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256),
    }
    memory = sizes.memory
    assert sizes.peak == memory["weights"] + memory["adapter"] + memory["activations"] + memory["logits"]
    checkpointed = model_sizes(recipe(qwen, *sets, "model.gradient_checkpointing=true")).memory["activations"]
    assert checkpointed == 2 * 1000 * 4 * 64 + memory["activations"] // 2


def test_a_microbatch_holds_at_least_one_row_and_at_most_all(qwen: Path) -> None:
    one = [
        "method.reflect_every=never",
        "task.max_prompt_tokens=100",
        "rollout.max_tokens=60",
        "optim.prompts_per_step=1",
        "rollout.group_size=2",
    ]
    small, large = (
        model_sizes(recipe(qwen, *one, f"optim.tokens_per_microbatch={n}")).memory["activations"] for n in (10, 10**6)
    )
    assert large == 2 * small  # 160 tokens, and 2 x 160


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config, LlamaConfig])
def test_activations_are_what_autograd_keeps(kind: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within 20%: the formula leaves out norms of heads, position embeddings and the adapter's narrow middle."""
    cfg, rows, length = config(kind, shape), 4, 64
    base = AutoModelForCausalLM.from_config(cfg, dtype=dtype, attn_implementation="sdpa").requires_grad_(False)
    model = add_adapter(base, ModelConfig(lora=LoraConfig(r=2)), 0)
    kept = kept_bytes(model, rows, length)
    _, _, layers, heads, kv, head_size = shape
    expected = rows * length * layers * layer_activations(cfg, heads * head_size, kv * head_size, dtype.itemsize)
    assert expected == pytest.approx(kept, rel=0.2)


def kept_bytes(model: Any, rows: int, length: int) -> int:
    """Bytes of the tensors that a forward pass saves for the backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        completion_states(model, [([1] * (length // 2), [2] * (length // 2))] * rows)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in parameters)


def test_gpt2_names_its_sizes_differently(tmp_path: Path) -> None:
    GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64).save_pretrained(tmp_path / "gpt2")
    assert model_sizes(recipe(tmp_path / "gpt2")).peak > 0


@pytest.mark.parametrize("name", ["/nowhere", "./nowhere", "nobody/nothing"])
def test_an_unknown_model_is_said_and_not_raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    budget = estimate(recipe(name))
    assert budget.sizes is None
    assert name.removeprefix(".") in budget.note
    assert budget.rollouts > 0


def shown(budget: Budget) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render(budget))
    return console.file.getvalue()


def test_render_shows_every_number_or_why_not(qwen: Path) -> None:
    text = shown(estimate(recipe(qwen)))
    assert "This is arithmetic" in text
    for words in (
        "adapter parameters",
        "prompt tokens with shown answers",
        "evaluations",
        "generated tokens, at most",
        "memory: kv cache",
        "one checkpoint",
    ):
        assert words in text
    assert "not known here" in shown(estimate(recipe("/nowhere")))


def test_budget_as_plain_data(qwen: Path) -> None:
    data = estimate(recipe(qwen)).as_dict()
    assert data["sizes"]["memory"]["weights"] > 0


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**41, "2.0 TiB")]
)
def test_size(amount: int, text: str) -> None:
    assert size(amount) == text
