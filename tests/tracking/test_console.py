import io

from rich.console import Console

from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import OptimConfig, Recipe
from scrpo_cli.tracking.activity import now, show_on
from scrpo_cli.tracking.console import FIELDS, ConsoleSink, Pace, describe_eval, describe_step, sparkline

RECIPE = Recipe(name="tiny", optim=OptimConfig(steps=10, max_generated_tokens=5000))
STEP = {"first/reward": 0.25, "first/accuracy": 0.25, "pool/size": 3, "rollout/tokens": 900, "seconds/sample": 1.5}
EVAL = {"eval/accuracy": 0.551, "eval/accuracy_lo": 0.48, "eval/accuracy_hi": 0.622, "eval/repair_rate": 0.41}


def console(terminal: bool, quiet: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, quiet=quiet)


def text_of(sink: ConsoleSink) -> str:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(sink.render())
    return screen.file.getvalue()


def test_one_plain_line_a_step_without_a_terminal():
    screen = console(terminal=False)
    sink = ConsoleSink(screen, RECIPE)
    sink.log(1, STEP)
    sink.log(2, {"reflect/fix_rate": 0.5, "seconds/step": 60.0})
    sink.event("saved [step 2]")
    sink.finish({}, failed=False)
    assert screen.file.getvalue().splitlines() == [
        "step 1/10  reward 0.25  accuracy 25%  pool 3  tokens/s 600",
        "step 2/10  fix rate 50%  about 0:08:00 left (steps)",
        "saved [step 2]",
    ]


def test_quiet_says_nothing():
    for terminal in (False, True):
        screen = console(terminal, quiet=True)
        sink = ConsoleSink(screen, RECIPE)
        sink.log(1, STEP)
        sink.event("saved")
        sink.finish({}, failed=False)
        assert screen.file.getvalue() == ""


def test_live_display_on_a_terminal():
    screen = console(terminal=True)
    sink = ConsoleSink(screen, RECIPE, start=4)
    sink.log(5, STEP | EVAL | {"tokens/total": 1200})
    sink.event("adapter saved")
    sink.finish({}, failed=False)
    assert "adapter saved" in screen.file.getvalue()
    shown = text_of(sink)
    for part in (
        "5/10",
        "1200/5000",
        "reward 0.25",
        "pool 3",
        "tokens/s 600",
        "first-answer accuracy",
        describe_eval(5, EVAL),
    ):
        assert part in shown


def test_the_panel_stands_over_what_is_being_done():
    screen = console(terminal=True)
    show_on(screen)
    try:
        sink = ConsoleSink(screen, RECIPE)
        sink.log(1, STEP)
        now().stage("step 2")
        assert now().panel is not None
        sink.finish({}, failed=False)
        assert now().panel is None
    finally:
        show_on(None)
    said = screen.file.getvalue()
    assert said.index("reward 0.25") < said.index("step 2") < said.rindex("reward 0.25")  # which is left on the screen


def paced(recipe: Recipe, steps: int, tokens: float, start: int = 0) -> str:
    """After so many steps of 2 seconds, each with so many tokens."""
    pace = Pace(recipe, start)
    for step in range(start + 1, start + steps + 1):
        pace.log(step, {"seconds/step": 2.0, "rollout/tokens": tokens, "tokens/total": tokens * step})
        pace.log(step, {"eval/accuracy": 0.5})
    return pace.left()


def test_the_time_left_is_that_of_the_limit_that_is_reached_first():
    assert paced(RECIPE, 2, tokens=10) == "about 0:00:16 left (steps)"  # 8 of 10 steps
    assert paced(RECIPE, 2, tokens=1000) == "about 0:00:06 left (tokens)"  # 3,000 of 5,000
    assert paced(RECIPE, 2, tokens=999) == "about 0:00:08 left (tokens)"  # a step that is begun is finished
    assert paced(RECIPE, 2, tokens=10, start=6) == "about 0:00:04 left (steps)"  # of a resumed run, by its own steps
    assert paced(RECIPE, 2, tokens=3000) == ""
    assert paced(RECIPE, 0, tokens=10) == ""


def test_a_limit_of_seconds_counts_from_the_start():
    recipe = load_recipe("tiny", ["optim.max_seconds=9", "optim.max_generated_tokens=null", "optim.steps=100"])
    assert paced(recipe, 2, tokens=10) == "about 0:00:06 left (seconds)"  # three more steps of 2 seconds
    assert paced(recipe, 2, tokens=10, start=6) == "about 0:03:04 left (steps)"


def test_more_than_a_day_is_said_once_when_the_pace_is_known():
    screen, hours = console(terminal=False), 3600.0
    recipe = Recipe(name="tiny", optim=OptimConfig(steps=30, max_generated_tokens=None))
    for seconds in (hours, hours / 2):  # 27 hours are left after three steps, or 13
        sink = ConsoleSink(screen, recipe)
        for step in range(1, 8):
            sink.log(step, {"seconds/step": seconds})
            sink.log(step, {"eval/accuracy": 0.5})
    said = [line for line in screen.file.getvalue().splitlines() if line.startswith("Over a day")]
    assert len(said) == 1
    assert said[0].startswith("Over a day: about 1 day, 3:00:00 left at the pace of 3 steps, evaluations not counted.")


def test_a_method_that_fits_what_it_sampled_does_not_end_with_the_tokens():
    sets = ["method.name=sft", "optim.steps=10", "optim.max_generated_tokens=5000"]
    assert paced(load_recipe("tiny", sets), 2, tokens=1000) == "at most 0:00:16 left (steps)"


def test_display_keeps_the_first_and_the_last_evaluations():
    sink = ConsoleSink(console(terminal=False), RECIPE)
    for step in range(8):
        sink.log(step, {"eval/accuracy": step / 10})
    shown = text_of(sink)
    assert "step 0: 0.0%" in shown
    assert "step 7: 70.0%" in shown
    assert "step 3:" not in shown


def test_an_undefined_accuracy_is_no_harm():
    sink = ConsoleSink(console(terminal=False), RECIPE)
    sink.log(1, {"first/accuracy": float("nan")})
    assert "first-answer accuracy" not in text_of(sink)


def test_eval_in_words():
    assert describe_eval(40, EVAL) == "eval at step 40: 55.1% [48.0, 62.2], repairs 41.0%"
    assert describe_step(40, 60, EVAL).endswith(describe_eval(40, EVAL))


def test_sparkline():
    assert sparkline([0.0, 0.5, 0.99, 1.0]) == "▁▅██"


def test_display_names_the_monitors_that_fire_now():
    sink = ConsoleSink(console(terminal=False), RECIPE)
    sink.log(1, {"warn/truncation": 1.0, "warn/no_signal": 1.0, "warn/drift": 0.0})
    sink.log(2, {"warn/truncation": 1.0, "warn/no_signal": 0.0})
    assert "warnings truncation" in [line.strip() for line in text_of(sink).splitlines()]


def test_no_number_is_broken_at_80_columns():
    sink = ConsoleSink(console(terminal=False), RECIPE)
    wide = {name: 0.123 for _, name, _ in FIELDS} | {"pool/size": 512, "rollout/tokens": 1_234_567}
    sink.log(1, wide | {"seconds/sample": 1})
    screen = Console(file=io.StringIO(), width=80)
    screen.print(sink.render())
    for part in ("second answer 12%", "pool age 0.1", "grad norm 0.12", "tokens/s 1,234,567"):
        assert part in screen.file.getvalue()
