"""ScRPO on a model of Qwen2.5-0.5B's shape with random weights: build it, warm it up, `scrpo train`, report.

Nothing is downloaded. Random weights answer every problem wrong, and a group without a right and a wrong answer teaches
nothing; so the model first learns 16 problems by heart, half of its examples wrong. Its tokenizer is the embedded one
and emits small ids only; the embedding has the real number of rows, so that logits have their real size.

    python bench/gpu/smoke.py [--shape qwen2.5-0.5b] [--steps 4] [--set K=V ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import machine, save
from models import SHAPES as REAL

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat, reflection_messages
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.tiny import parse_chain
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.policy import set_threads
from scrpo_cli.types import Problem

RECIPE = Path(__file__).parent / "smoke.yaml"
SHAPES: dict[str, Qwen2Config] = {
    "qwen2.5-0.5b": REAL["qwen2.5-0.5b"],
    "two-layers": Qwen2Config(  # for a test on a CPU
        vocab_size=512,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    ),
}
LEARNING_RATES = {"qwen2.5-0.5b": 3e-4, "two-layers": 5e-3}
Example = tuple[list[int], list[int]]  # prompt ids, completion ids


def build(shape: str, directory: Path, recipe: Recipe, console: Console) -> dict[str, Any]:
    """A warmed-up model in bfloat16 with its tokenizer in `directory`; returns what was built."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = SHAPES[shape]
    config.eos_token_id = tokenizer.eos_token_id
    model: Any = Qwen2ForCausalLM(config)
    set_threads(recipe.model, model.num_parameters())
    model.to(device)
    start = time.perf_counter()
    loss, steps = warm_up(model, list(examples(recipe, tokenizer)), LEARNING_RATES[shape], console)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return {
        "shape": shape,
        "parameters": model.num_parameters(),
        "warm_up": {"steps": steps, "loss": loss, "seconds": time.perf_counter() - start},
    }


def examples(recipe: Recipe, tokenizer: Any) -> Iterator[Example]:
    """Per problem a right and a wrong first answer, and a right and a wrong correction of the wrong one."""
    task, chat = make_task(recipe.task), Chat(tokenizer)
    markers = recipe.task.reflection
    for problem in task.problems(recipe.task.train):
        first = task.messages(problem)
        wrong = answer(problem, 1)
        request = reflection_messages(recipe.task, first, problem, wrong, tokenizer)
        for off in (0, 1):
            solution = answer(problem, off)
            correction = f"{markers.analysis}\n{parse_chain(problem.text).text}\n{markers.solution}\n{solution}"
            for messages, text in ((first, solution), (request, correction)):
                yield chat.ids(messages), [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def answer(problem: Problem, off: int) -> str:
    """The worked lines and a boxed result that is `off` by so much."""
    lines = [f"{s.a}{s.op}{s.b}={s.result}" for s in parse_chain(problem.text).steps()]
    return "\n".join([*lines, f"\\boxed{{{int(problem.answer) + off}}}"])


def warm_up(model: Any, data: Sequence[Example], lr: float, console: Console) -> tuple[float, int]:
    """Supervised steps until the examples are known by heart (0.1 nats a token, of which the coin toss between right
    and wrong is about 0.02), 1,000 at most. Returns the last loss and the number of steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    order = torch.Generator().manual_seed(0)
    recent = math.inf
    for step in range(1, 1001):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / 20)
        rows = [data[i] for i in torch.randperm(len(data), generator=order)[:16].tolist()]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            logp_N, _ = completion_logprobs(model, rows, 1.0, 1024)
        loss = -logp_N.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        recent = value if recent is math.inf else 0.9 * recent + 0.1 * value
        if step % 50 == 0:
            console.print(f"warm-up step {step}: {recent:.3f} nats a token")
        if recent < 0.1:
            break
    return recent, step


def train(recipe: str, directory: Path, sets: Sequence[str]) -> list[dict[str, float]]:
    """`scrpo train` in a process of its own; the metrics of each step. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "scrpo_cli", "train", "--recipe", recipe, "--json", "--debug"]
    command += ["--db", str(directory / "bench.db")]
    for item in sets:
        command += ["--set", item]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    metrics = Path(json.loads(done.stdout)["metrics"])
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def failures(steps: Sequence[dict[str, float]]) -> list[str]:
    """What is wrong with a run, if anything: a value that is no number, or a kind of step that trained nothing."""
    found = [f"step {s['step']}: {k} is {v}" for s in steps for k, v in s.items() if v is None or not math.isfinite(v)]
    for kind in ("first", "reflect"):
        if not any(s["train/tokens"] > 0 for s in steps if f"{kind}/reward" in s):
            found.append(f"no {kind} step trained a token")
    return found


def table(steps: Sequence[dict[str, float]]) -> Table:
    """The first step of each kind pays for the start of CUDA; the later ones are the speed."""
    grid = Table("step", "kind", "reward", "sample tokens/s", "train tokens/s", "drift", "peak MiB")
    for s in steps:
        kind = "first" if "first/reward" in s else "reflect"
        sample, trained = s["rollout/tokens"] / s["seconds/sample"], s["train/tokens"] / s["seconds/train"]
        cells = [f"{s[f'{kind}/reward']:.2f}", f"{sample:,.0f}", f"{trained:,.0f}"]
        grid.add_row(str(s["step"]), kind, *cells, f"{s.get('train/drift', 0):.1e}", f"{s['memory/mb']:,.0f}")
    return grid


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--steps", type=int, default=4, help="first-answer and reflection in turn (default 4)")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="override a recipe key")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    args = parser.parse_args()
    console, before = Console(), machine()
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        built = build(args.shape, model, load_recipe(RECIPE, args.set), console)
        console.print(f"{built['parameters']:,} parameters, warmed up in {built['warm_up']['seconds']:.0f} s")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        sets = [*args.set, f"model.name={model}", f"optim.steps={args.steps}"]
        steps = train(str(RECIPE), Path(directory), sets)
    console.print(table(steps))
    wrong = failures(steps)
    console.print("\n".join(wrong) if wrong else "Every value is finite; both kinds of step trained.")
    data = {"bench": "gpu-smoke", "machine": before, "model": built, "steps": steps, "failures": wrong}
    console.print(str(save("gpu-smoke", data, args.out)), soft_wrap=True, highlight=False)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
