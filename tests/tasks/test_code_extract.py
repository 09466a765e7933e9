"""From chat text to a program: every shape as a row, what each one runs to, and pathological text in linear time."""

from __future__ import annotations

import time
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.tasks.code.extract import blocks, extract_program

F = "def f(x):\n    return x + 1"
OLD = "def f(x):\n    return x - 1"
FENCED = f"```python\n{F}\n```"
PROMPT = dedent('''\
    from typing import List


    def helper(x):
        return 10 * x


    def f(x: int) -> int:
        """Add one.
        >>> f(1)
        2
        """
''')
"""Of the form of HumanEval: imports, a helper, a signature and a docstring."""


def run(program: str | None) -> Any:
    """What f(1) gives, f being what the program defines: these programs are the test's own."""
    assert program is not None
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "program", "exec"), names)
    return names["f"](1)


@pytest.mark.parametrize(
    "response",
    [
        FENCED,
        f"```py\n{F}\n```",
        f"```Python3\n{F}\n```",
        f"```\n{F}\n```",
        f"~~~python\n{F}\n~~~",
        f"````python\n{F}\n````",
        f'```python title="f.py"\n{F}\n```',
        f"```{{.python}}\n{F}\n```",
        f"``` python\n{F}\n```",
        f"Sure! Here it is: ```python\n{F}\n``` Good luck.",
        f"```python\n{F}```",
        f"Here it is:\n\n{FENCED}\n\nIt adds one.\n\n```\n>>> f(1)\n2\n```",
        f"```python\n{F}",
        f"```python\n{F}\n\nprint(f(",
        f"```python\n{F}\n\nThis adds one to its argument.",
        f"```python\r\n{F}\r\n```".replace("\n    ", "\r\n    "),
        "```python\ndef f(x):\n\treturn x + 1\n```",
        "1. The code:\n\n   ```python\n   def f(x):\n       return x + 1\n   ```",
        f"<think>\n```python\n{OLD}\n```\nNo.\n</think>\n{FENCED}",
        f"one more\n```python\n{OLD}\n```\nThat subtracts. Better:\n{FENCED}",
        f"{FENCED}\nUse it so:\n```python\nprint(f(1))\n```",
        f"{FENCED}\n```bash\npython f.py\n```",
        f"```javascript\nfunction f(x) {{ return x }}\n```\n{FENCED}",
        f"{FENCED}\n```text\ndef f(x): return 0\n```",
        f"[BEGIN]\n{F}\n[DONE]",
        f"{F}\n[DONE]\n\nYou are an expert.\n[BEGIN]\ndef g():\n    pass\n[DONE]",
        f"[PYTHON]\n{F}\n[/PYTHON]\n[TESTS]\nassert f(1) == 2\n[/TESTS]",
        f"[PYTHON]\n{F}",
        F,
        f"\n\n{F}\n\n\n",
        f"\ufeff{F}",
        f"# a comment\nimport math\n\n{F}\n",
        f"Here is the function:\n\n{F}\n\nIt adds one (to x).",
        f"{F}\n\nExplanation: don't subtract.",
        f"{F}\nx is fine",
        f'{F}\n\nif __name__ == "__main__":\n    print(f(int(input())))',
        f"Here is the function:\n\n    {F.replace(chr(10), chr(10) + '    ')}\n\nIt adds one.",
        "```python\n>>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2\n```",
        ">>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2",
        "```pycon\n>>> import math\n>>> def f(x):\n...     return x + 1\n```",
        "f = lambda x: x + 1",
        "```python\nf: object = lambda x: x + 1\n```",
        "```python\ndef _f(x):\n    return x + 1\nf = _f\n```",
        "```python\ntry:\n    import nothing_like_it\nexcept ImportError:\n    def f(x):\n        return x + 1\n```",
        "```python\nclass Solution:\n    def f(self, x):\n        return x + 1\n```",
        "class Solution:\n    @staticmethod\n    def f(x):\n        return x + 1",
        f"```python\nclass f_test:\n    def f(self): ...\n\n{F}\n```",
        "```python\nasync_def = 1\ndef f(x):\n    return x + async_def\n```",
        f'{F}\n\n"""\nnotes\nat the margin\n"""\n',
        "def f(x):\n    y = [\n1,\n]\n    return x + y[0]\n\nAll done.",
    ],
)
def test_a_program_is_found(response: str) -> None:
    assert run(extract_program(response, "f").program) == 2


@pytest.mark.parametrize(
    "response",
    [
        "    return x + 1\n",
        "\treturn x + 1\n",
        "\n    y = x\n\n    return y + 1\n",
        "return x + 1",
        "y = x\n    if y:\n        return y + 1\n    return 1",
        "    return x + 1\n\n\ndef g():\n    pass\n\n\nif __name__ == '__main__':\n    print(f(input()))",
        "    return x + 1\n\nprint(f(1))\n\ndef g(",
        "    return x + 1\n\n# Test\nThis adds one.",
        "    return one(x)\n\n\ndef one(x):\n    return x + 1\n",
        "    return helper(x) - 8",
        "```python\n    return x + 1\n```",
        "```python\ny = x\nreturn y + 1\n```",
        "```python\ny = x\n    return y + 1\n```",
        "    def g():\n        return 1\n    return x + g()\n\nExplanation",
        f"    return x - 1\n\nBetter:\n{FENCED}".replace("    return x - 1\n\nBetter:\n", "Better:\n"),
    ],
)
def test_a_completion_continues_the_prompt(response: str) -> None:
    assert run(extract_program(response, "f", PROMPT).program) == 2


@pytest.mark.parametrize(
    ("response", "how"),
    [
        (FENCED, "block"),
        (F, "text"),
        ("    return x + 1", "completion"),
        ("<think>\n" + FENCED, "thinking"),
        ("<think>x</think>\nI do not know.", "nothing"),
        ("", "nothing"),
        ("The answer is 42.", "nothing"),
        ("I would define a function that adds one.", "nothing"),
        ("```\n5\n```", "nothing"),
        ("```bash\ndef f(x): return x\n```", "text"),
        ("    The code adds one.", "nothing"),
        ("    pass", "nothing"),
    ],
)
def test_the_rule_that_found_it_is_told(response: str, how: str) -> None:
    found = extract_program(response, "f", PROMPT)
    assert found.how == how
    assert (found.program is None) == (how in ("thinking", "nothing"))


@pytest.mark.parametrize(
    "response",
    [
        "```python\ndef f(x):\n    return x +\n```",
        "```python\ndef f(x):\n    return (x + 1\n\nprint(f(1))",
        "def f(x):\n    for",
        f"{FENCED}\nNo, better:\n```python\ndef f(x)\n    return x + 1\n```",
    ],
)
def test_a_program_that_does_not_parse_is_an_answer_and_a_wrong_one(response: str) -> None:
    program = extract_program(response, "f").program
    assert program is not None
    with pytest.raises(SyntaxError):
        compile(program, "program", "exec")


def test_another_name_is_not_renamed() -> None:
    program = extract_program("```python\ndef increment(x):\n    return x + 1\n```", "f").program
    assert program == "def increment(x):\n    return x + 1\n"


def test_the_last_block_that_defines_the_function_counts_even_if_an_earlier_one_would_pass() -> None:
    assert run(extract_program(f"{FENCED}\n\nOr:\n```python\n{OLD}\n```", "f").program) == 0


def test_blocks_that_define_what_it_needs_come_before_it_and_no_others() -> None:
    response = dedent("""
        ```python
        import math
        ```
        ```python
        def one():
            return math.floor(1.5)
        ```
        ```python
        unused = 1
        ```
        ```python
        def f(x):
            return x - one()
        ```
        ```python
        def f(x):
            return x + one()
        ```
    """)
    program = extract_program(response, "f").program
    assert run(program) == 2
    assert "unused" not in program
    assert "x - one" not in program


def test_the_prompts_imports_and_helpers_are_added_where_the_program_lacks_them() -> None:
    used = extract_program("```python\ndef f(x: List[int]):\n    return helper(x) - 8\n```", "f", PROMPT).program
    assert run(used) == 2
    own = "from typing import List\ndef helper(x): return x\ndef f(x):\n    return helper(x) + 1\n"
    assert extract_program(f"```python\n{own}```", "f", PROMPT).program == own


def test_future_imports_stay_first() -> None:
    response = f"```python\nfrom __future__ import annotations\n\n{F}\n```"
    program = extract_program(response, "f", PROMPT).program
    assert run(program) == 2
    assert program.startswith("from __future__ import annotations\n")


def test_a_completion_keeps_its_prompt_and_ends_with_the_function() -> None:
    program = extract_program("    return x + 1\n\nThat is all.\n", "f", PROMPT).program
    assert program == PROMPT + "    return x + 1\n"


def test_blocks_name_their_language() -> None:
    found = blocks("```Python\na\n```\n```js\nb\n```\n```\nc\n```")
    assert [(b.language, b.code.strip(), b.python) for b in found] == [
        ("python", "a", True),
        ("js", "b", False),
        ("", "c", True),
    ]


PATHOLOGICAL = {
    "fences": "```python\n" * 20_000,
    "fenced definitions": "```python\ndef f(x):\n    return 1\n```\n" * 3_000,
    "definitions": "def f(x):\n    return 1\n" * 5_000,
    "starts": "x = 1 2\n" * 20_000,
    "open brackets": "def f(x):\n    return " + "(" * 50_000,
    "nested brackets": "def f(x):\n    return " + "(" * 150 + ")" * 150,
    "deep operators": "def f(x):\n    return " + "-" * 90_000 + "x",
    "long sum": "def f(x):\n    return " + "1+" * 40_000 + "x",
    "attributes": "def f(x):\n    return x" + ".a" * 40_000,
    "quotes": 'def f(x):\n    """' + '"' * 90_001,
    "tags": "[BEGIN][DONE]" * 10_000,
    "backticks": "`" * 200_000,
    "backticks and spaces": "```" + " " * 200_000 + "`",
    "spaces": " " * 300_000 + "x",
    "newlines": "\n" * 300_000,
    "transcript": ">>> def f(x):\n" * 20_000,
    "thinking": "<think></think>" * 20_000,
    "prose": "the quick brown fox\n" * 20_000,
    "indented prose": "    the quick brown fox\n" * 20_000,
    "null": "```python\ndef f(x):\n    return '\0'\n```",
    "megabyte": "```python\ndef f(x):\n" + "    x += 1\n" * 100_000 + "```",
    "indentation": "".join(" " * i + "if 1:\n" for i in range(500)),
    "cuts": "def f(x):\n    return 1\n" * 2_000 + "a b\n" * 100,
}


@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_pathological_text_costs_little(kind: str) -> None:
    start = time.process_time()
    extract_program(PATHOLOGICAL[kind], "f", PROMPT)
    assert time.process_time() - start < 5  # measured: all below 1 s


PIECES = [
    "```",
    "~~~",
    "python",
    "\n",
    " ",
    "def f(x):",
    "return x",
    "(",
    '"""',
    "[DONE]",
    ">>> ",
    "\t",
    "\0",
    "\ud800",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_raises(text: str) -> None:
    extract_program(text, "f", PROMPT)
    extract_program(text, "f")
