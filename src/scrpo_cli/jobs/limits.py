"""What of a forecast is a bound, what takes more than a day or than the memory there is, and which settings, with which
values, would change that. Sentences for a reader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scrpo_cli.jobs.budget import DAY, Budget, Sizes, duration, generating, known_sizes, size, standing, training
from scrpo_cli.jobs.extrapolate import Measured, Part, Total, eval_cap
from scrpo_cli.recipe.models import Recipe

FULL = 0.9
"""Of the memory there is: a peak above it leaves little for answers that get longer."""


def notes(recipe: Recipe, budget: Budget, measured: Measured, fastest: Total, slowest: Total) -> list[str]:
    """Everything that a reader of the numbers has to know, what does not fit last."""
    evaluation = [measured.evaluation] if measured.evaluation else []
    found = [
        *(of_part(part, recipe.rollout.max_tokens, "steps") for part in measured.phases if part.tokens),
        *(of_part(part, eval_cap(recipe), "evaluation of") for part in evaluation),
    ]
    if fastest.mix != slowest.mix:
        found.append("Which steps come how often depends on what is sampled: the two ends have one kind of steps only.")
    if measured.evaluation is None and budget.evaluation is None and (recipe.task.test or recipe.task.validation):
        found.append("The data of the evaluations is not here: they are not counted.")
    found.append("Answers change while a policy learns: compare with the time left that the run shows.")
    return [*found, *over_memory(recipe, measured), *over_a_day(recipe, budget, measured, slowest)]


def of_part(part: Part, cap: int, what: str) -> str:
    """How long its answers were, and how sure that is."""
    mean = part.tokens / part.rows
    said = f"{what} '{part.name}': {part.rows} answers were sampled, {mean:.0f} tokens on average (cap {cap})"
    if part.cut:
        cut = f"the measurement cut off {part.cut} of them at {part.limit} tokens"
        said += f"; {cut}, and they count as {cap}: the time is an upper bound"
    if part.live < part.rows and "update" in part.seconds:
        said += f"; {part.live} of them earned credit, and the others cost no update"
    return f"{said[0].upper()}{said[1:]}."


# -- memory ------------------------------------------------------------------------------------------------------------


def free_memory(device: str) -> int:
    """Bytes."""
    import psutil
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def has(device: str) -> bool:
    """Whether this machine has the device that a recipe names."""
    import torch

    return device != "cuda" or torch.cuda.is_available()


def memory_settings(recipe: Recipe, sizes: Sizes, free: int) -> list[str]:
    """The settings with which the estimate would fit into `free` bytes; empty where it does."""
    memory = sizes.memory
    room = free - standing(memory)
    if room - memory.get("merged_adapter", 0) <= 0:
        smaller = ["model.dtype=bfloat16"] if sizes.dtype == "float32" else []
        return [*smaller, "model.name=(a smaller model)"]
    found = []
    if generating(memory) >= room:
        merged = memory.get("merged_adapter", 0)
        share = (room - merged) / (generating(memory) - merged)
        found.append(f"rollout.batch_size={max(1, int(recipe.rollout.batch_size * share))}")
    if training(memory) >= room:
        found += training_settings(recipe, memory, room)
    return found


def training_settings(recipe: Recipe, memory: Mapping[str, int], room: float) -> list[str]:
    """So that activations and logits fit: half of the room for logits at most, and smaller micro-batches; where one row
    alone is too long, less is kept of it.
    """
    found, optim, logits = [], recipe.optim, float(memory["logits"])
    if logits > room / 2:
        found.append(f"optim.logits_chunk={max(1, int(optim.logits_chunk * room / 2 / logits))}")
        logits = room / 2
    longest = recipe.method.needs(recipe.setting()).context
    tokens = max(optim.tokens_per_microbatch, longest)
    fitting = int(tokens * (room - logits) / memory["activations"])
    if longest <= fitting < tokens:
        found.append(f"optim.tokens_per_microbatch={fitting}")
    elif fitting < longest and not recipe.model.gradient_checkpointing:
        found += ["model.gradient_checkpointing=true", f"optim.tokens_per_microbatch={longest}"]
    elif fitting < longest:
        found.append(f"rollout.max_tokens={max(1, recipe.rollout.max_tokens // 2)}")
    return found


def memory_warning(recipe: Recipe, sizes: Sizes, free: int) -> str:
    """Said before a start; empty where the estimate fits."""
    if not (settings := memory_settings(recipe, sizes, free)):
        return ""
    needed = f"needs about {size(sizes.peak)} at its peak (estimate), and {size(free)} are free on {sizes.device}"
    return f"Over the memory there is: this recipe {needed}. What would change it: {as_sets(settings)}."


def warning_before(recipe: Recipe) -> str:
    """`memory_warning` on this machine; empty where the sizes are not known."""
    sizes, _ = known_sizes(recipe)
    return memory_warning(recipe, sizes, free_memory(sizes.device)) if sizes and has(sizes.device) else ""


def over_memory(recipe: Recipe, measured: Measured) -> list[str]:
    """What the measurement itself had to make smaller, and a peak near the end of the memory."""
    shrunk = []
    if measured.batch_size < recipe.rollout.batch_size:
        shrunk.append(f"rollout.batch_size={measured.batch_size}")
    if measured.microbatch_tokens < recipe.optim.tokens_per_microbatch:
        shrunk.append(f"optim.tokens_per_microbatch={measured.microbatch_tokens}")
    if shrunk:
        what = "Over the memory there is: the measurement ran out of it and went on with smaller batches, as a run will"
        return [f"{what}. To say so beforehand: {as_sets(shrunk)}."]
    name, peak = max(measured.peaks.items(), key=lambda item: item[1])
    if peak <= FULL * measured.memory:
        return []
    setting = f"optim.tokens_per_microbatch={max(1, recipe.optim.tokens_per_microbatch // 2)}"
    if name != "update":
        setting = f"rollout.batch_size={max(1, recipe.rollout.batch_size // 2)}"
    what = f"Nearly all memory: {size(peak)} of {size(measured.memory)} in {name}"
    return [f"{what}. What would change it: {as_sets([setting])}."]


# -- time --------------------------------------------------------------------------------------------------------------


def over_a_day(recipe: Recipe, budget: Budget, measured: Measured, slowest: Total) -> list[str]:
    """One sentence with what takes longest, and one with settings; nothing where the run takes at most a day."""
    if slowest.all_seconds <= DAY:
        return []
    part, share = slowest.dominant
    what = f"Over a day: about {duration(slowest.all_seconds)}, {share:.0%} of it {part}"
    return [f"{what}. What would change it: {as_sets(time_settings(recipe, budget, measured, slowest), ' or ')}."]


def time_settings(recipe: Recipe, budget: Budget, measured: Measured, slowest: Total) -> list[str]:
    """What makes a run of about a day of this one, and what makes its longest part shorter."""
    evaluation = slowest.seconds.get("evaluation", 0.0)
    rest = slowest.all_seconds - evaluation
    share = min(1.0, max(DAY / 2, DAY - evaluation) / rest)
    found = []
    if share < 1:
        if slowest.generated_tokens:
            found.append(f"optim.max_generated_tokens={rounded(slowest.generated_tokens * share)}")
        found.append(f"optim.steps={rounded(slowest.steps * share)}")
    if evaluation > DAY / 2:
        found += evaluation_settings(recipe, budget, DAY / 2 / evaluation)
    if slowest.dominant[0].startswith("sampling"):
        found += sampling_settings(recipe, measured)
    return found


def evaluation_settings(recipe: Recipe, budget: Budget, share: float) -> list[str]:
    """`share`: of what evaluations take now."""
    problems = max(budget.evaluation.problems.values()) if budget.evaluation else 1
    between = [f"eval.every={math.ceil(recipe.eval.every / share)}"] if recipe.eval.every else []
    return [f"eval.limit={rounded(problems * share)}", *between, f"eval.max_tokens={eval_cap(recipe) // 2}"]


def sampling_settings(recipe: Recipe, measured: Measured) -> list[str]:
    """A faster engine, and a lower cap where answers come near it."""
    cap = recipe.rollout.max_tokens
    found = []
    if measured.engine == "transformers" and measured.device == "cuda":
        found.append("rollout.engine=vllm")
    longest = max(part.length(cap) for part in measured.phases if part.tokens)
    return [*found, f"rollout.max_tokens={cap // 2}"] if longest > cap / 2 else found


def rounded(value: float) -> int:
    """Down to two digits that count, at least 1."""
    digits = 10 ** max(0, int(math.log10(max(1.0, value))) - 1)
    return max(1, int(value // digits * digits))


def as_sets(settings: Sequence[str], joined: str = " and ") -> str:
    return joined.join(f"--set {setting}" for setting in settings)
