"""Second turns extend the sampled ids where the template allows it, and are rendered anew where it does not."""

import copy

import pytest
from tests_tokenizer import TOKENIZER

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ReflectionConfig, TaskConfig
from scrpo_cli.rollout.chat import Chat, assistant, reflection_messages, shown_part, user
from scrpo_cli.types import Completion, FinishReason, Problem

EOS = TOKENIZER.eos_token_id
DROPS_THINKING = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content.split('</think>')[-1] if m.role == 'assistant' "
    "else m.content) + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FIRST = [user("1+1=?")]


def with_template(template: str) -> Chat:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    return Chat(tokenizer)


def completion(chat: Chat, text: str, finish=FinishReason.STOP, ids=None) -> Completion:
    ids = ids if ids is not None else [*TOKENIZER.encode(text), EOS]
    return Completion(chat.ids(FIRST), ids, [0.0] * len(ids), text, finish)


def test_a_second_turn_keeps_the_sampled_ids_even_where_tokenizing_again_would_not():
    chat = Chat(TOKENIZER)
    odd = [TOKENIZER.encode(c)[0] for c in "wrong"]  # letter by letter, which the tokenizer would merge
    assert odd != TOKENIZER.encode("wrong")
    first = completion(chat, "wrong", ids=[*odd, EOS])
    second = chat.second_turn(FIRST, first, "check it")
    assert second[: len(first.prompt_ids) + len(first.ids)] == [*first.prompt_ids, *first.ids]
    assert TOKENIZER.decode(second) == chat.render([*FIRST, assistant("wrong"), user("check it")])


def test_a_template_that_keeps_turns_is_recognised():
    assert Chat(TOKENIZER).keeps_turns
    assert not with_template(DROPS_THINKING).keeps_turns


def test_a_template_that_drops_thinking_is_rendered_as_a_sequence_of_its_own():
    chat = with_template(DROPS_THINKING)
    second = chat.second_turn(FIRST, completion(chat, "<think>long</think>2"), "check it")
    text = TOKENIZER.decode(second)
    assert "<think>" not in text
    assert text == chat.render([*FIRST, assistant("2"), user("check it")])


def test_a_truncated_first_turn_gets_its_end_token_from_the_template():
    chat = Chat(TOKENIZER)
    cut = completion(chat, "1+", FinishReason.LENGTH, TOKENIZER.encode("1+"))
    assert TOKENIZER.decode(chat.second_turn(FIRST, cut, "go on")) == chat.render(
        [*FIRST, assistant("1+"), user("go on")]
    )


def test_no_chat_template_is_a_clear_error():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        Chat(tokenizer)


def test_what_is_shown_of_an_earlier_answer():
    text = "<think>" + "x " * 50 + "</think>\nthe answer is 3"
    assert shown_part(text, ReflectionConfig(show="full"), TOKENIZER) == text
    assert shown_part(text, ReflectionConfig(), TOKENIZER) == "the answer is 3"
    tail = shown_part("a" * 50 + "bcd", ReflectionConfig(show="tail", tail_tokens=3), TOKENIZER)
    assert tail == "bcd"
    assert shown_part("a" * 50 + "bcd", ReflectionConfig(tail_tokens=3), TOKENIZER) == "bcd"


def test_a_reflection_prompt_says_that_the_answer_was_wrong_and_not_what_is_right():
    problem = Problem("p", "s", "1+1=?", "2")
    messages = reflection_messages(TaskConfig(), FIRST, problem, "3", TOKENIZER)
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert "wrong" in messages[2]["content"]
    assert "Analysis:" in messages[2]["content"]
    assert "Corrected Solution:" in messages[2]["content"]
    told = TaskConfig(reflection=ReflectionConfig(give_truth=True))
    assert reflection_messages(told, FIRST, problem, "3", TOKENIZER)[2]["content"].endswith("The right answer is 2.")
    silent = TaskConfig(reflection=ReflectionConfig(reveal_wrong=False))
    assert reflection_messages(silent, FIRST, problem, "3", TOKENIZER)[2]["content"] == silent.check_prompt


def test_thinking_that_the_template_opens_is_found():
    opens = TOKENIZER.chat_template.replace("'<|assistant|>'", "'<|assistant|><think>\\n'")
    assert with_template(opens).prefill == "<think>"
    assert Chat(TOKENIZER).prefill == ""
