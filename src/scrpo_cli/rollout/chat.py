"""Messages to token ids, and second turns that extend the ids of the first instead of tokenizing it again.

Re-tokenising a sampled answer can give other ids than were sampled. Where the chat template keeps earlier turns as a
prefix, the second prompt is `prompt ids + completion ids + ids of the template's suffix`; where it does not (templates
that drop earlier `<think>` blocks), the second prompt is rendered as a sequence of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from scrpo_cli.errors import UserError, blaming
from scrpo_cli.recipe.models import ReflectionConfig, TaskConfig
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Message, Problem, SampleRequest

PROBE = "47+38=?"
MEND = "Mend chat_template.jinja (or chat_template in tokenizer_config.json), or leave out what it does not take."


class Chat:
    """A tokenizer with its chat template, which has been tried."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "The tokenizer has no chat template.",
                f"model: {tokenizer.name_or_path}",
                "Use an instruction-tuned model, or put a `chat_template.jinja` beside its tokenizer.",
            )
        self.tokenizer = tokenizer
        if PROBE not in self.render([user(PROBE)]):
            what = "The chat template leaves out what the user says: no model would see the problem."
            raise UserError(what, f"model: {tokenizer.name_or_path}", MEND)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text, up to where the assistant starts to write."""
        where = f"model: {self.tokenizer.name_or_path}"
        with blaming(f"The chat template fails on {' and '.join(m['role'] for m in messages)}", where, MEND):
            return self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Prompt token ids; the template writes special tokens itself, so none are added."""
        return self.tokenizer.encode(self.render(messages), add_special_tokens=False)

    def lengths(self, prompts: Sequence[Sequence[Message]]) -> list[int]:
        """Tokens of each of many prompts: as `ids`, in a third less time."""
        found = self.tokenizer([self.render(messages) for messages in prompts], add_special_tokens=False)
        return [len(ids) for ids in found["input_ids"]]

    def prompt(self, request: SampleRequest) -> list[int]:
        """Prompt ids of an ask: the rendered messages, or a further turn of the conversation with `ask.previous`; then
        what of the answer is given.
        """
        begun = self.tokenizer.encode(request.begun, add_special_tokens=False) if request.begun else []
        if request.previous is None:
            return [*self.ids(request.messages), *begun]
        *earlier, _, follow_up = request.messages
        return [*self.second_turn(earlier, request.previous.completion, follow_up["content"]), *begun]

    def suffix(self, messages: Sequence[Message], answer: str, follow_up: str) -> str | None:
        """What the template writes between this answer (its end token included) and the next one, or None where it
        does not keep the prompt and the answer as they are, or writes no end token after the answer.
        """
        kept = self.render(messages) + answer + (self.tokenizer.eos_token or "")
        both = self.render([*messages, assistant(answer), user(follow_up)])
        return both[len(kept) :] if both.startswith(kept) else None

    def second_turn(self, messages: Sequence[Message], completion: Completion, follow_up: str) -> list[int]:
        """Prompt ids of the turn after a sampled one: an extension of its ids where that is possible."""
        suffix = self.suffix(messages, completion.text, follow_up)
        extends = completion.finish is FinishReason.STOP and completion.ids[-1] == self.tokenizer.eos_token_id
        if suffix is None or not extends:
            return self.ids([*messages, assistant(completion.text), user(follow_up)])
        return [*completion.prompt_ids, *completion.ids, *self.tokenizer.encode(suffix, add_special_tokens=False)]

    @cached_property
    def prefill(self) -> str:
        """`<think>` where the template writes it at the start of every answer (R1 models), else nothing. It belongs
        to the answer's text though it was not sampled.
        """
        return "<think>" if self.render([user("q")]).rstrip().endswith("<think>") else ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what gives token ids their meaning: vocabulary, template and prefill."""
        parts = [sorted(self.tokenizer.get_vocab().items()), self.tokenizer.chat_template, self.prefill]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def follow_up_tokens(self, text: str) -> int:
        """How much longer a prompt becomes by a follow-up, with what the template writes around it and the answer."""
        answer = "a"
        whole = len(self.ids([user("q"), assistant(answer), user(text)]))
        return whole - len(self.ids([user("q")]))

    @property
    def keeps_turns(self) -> bool:
        """Whether the template keeps an earlier exchange, thinking included, as a prefix of the next prompt."""
        return self.suffix([user("q")], "<think>t</think>a", "f") is not None


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def next_turn(
    request: SampleRequest, attempt: Attempt, follow_up: str, kind: AttemptKind = AttemptKind.CHECK
) -> SampleRequest:
    """One more turn after `attempt`, which answered `ask`."""
    messages = [*request.messages, assistant(attempt.completion.text), user(follow_up)]
    return SampleRequest(attempt.problem, messages, 1, kind, previous=attempt)


def shown_part(response: str, cfg: ReflectionConfig, tokenizer: Any) -> str:
    """What a reflection prompt shows of the earlier answer: the answer is shortened, never the instruction."""
    if cfg.show == "full":
        return response
    if cfg.show == "answer_part" and "</think>" in response:
        response = response.rsplit("</think>", 1)[1].lstrip()
    ids = tokenizer.encode(response, add_special_tokens=False)
    return response if len(ids) <= cfg.tail_tokens else tokenizer.decode(ids[-cfg.tail_tokens :])


def informed_messages(messages: Sequence[Message], shown: str, text: str) -> list[Message]:
    """A question with more said: `text` instead of its last message where it has `{problem}`, or after `shown`."""
    if "{problem}" not in text:
        return [*messages, assistant(shown), user(text)]
    *before, asked = messages
    said = {"problem": asked["content"], "shown": shown}
    return [*before, user(re.sub(r"\{(problem|shown)\}", lambda mark: said[mark[1]], text))]


def reflection_messages(
    task: TaskConfig, first: Sequence[Message], problem: Problem, response: str, tokenizer: Any
) -> list[Message]:
    """ScRPO's T(q, y_bad): the problem, the shown part of the wrong answer, and the request to reflect and correct."""
    shown = shown_part(response, task.reflection, tokenizer)
    return [*first, assistant(shown), user(task.reflection_request(problem.answer))]
