"""What is being done: lines where there is no terminal, a live line on one, nothing under --quiet."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from scrpo_cli.tracking import activity
from scrpo_cli.tracking.activity import EVERY_S, SILENCE_S, Activity, now, show_on


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def console(terminal: bool = False, quiet: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, quiet=quiet)


def lines(screen: Console) -> list[str]:
    return screen.file.getvalue().splitlines()


def test_a_stage_is_said_at_once_and_its_parts_when_a_line_is_due() -> None:
    screen, clock = console(), Clock()
    shown = Activity(screen, clock)
    shown.stage("evaluating [before]")
    with shown.doing("repairs"):
        for done in range(1000, 1012):
            shown.progress(done, 2000)
            clock.seconds += EVERY_S / 8
        clock.seconds += EVERY_S
    with shown.doing("grading"):  # at once, as nothing has been said for so long
        pass
    assert lines(screen) == [
        "evaluating [before]",
        "evaluating [before], repairs: 1,008/2,000, about 0:10:20 left",
        "evaluating [before], grading",
    ]


def test_a_panel_tells_plain_lines_how_much_is_done() -> None:
    screen, clock = console(), Clock()
    shown = Activity(screen, clock)
    shown.panel = lambda: shown.whole(clock.seconds / 100, 20)
    shown.stage("runs done")
    shown.progress(0, 20)
    for _ in range(2):
        clock.seconds += 60
        shown.beat()
    shown.clear()
    assert lines(screen)[1:] == ["runs done: 0/20 (for 0:01:00)", "runs done: 0/20, about 0:31:20 left (for 0:02:00)"]


def test_the_time_left_of_a_count_is_from_its_own_pace() -> None:
    clock = Clock()
    shown = Activity(clock=clock)
    shown.stage("grading")
    for done in range(4):
        shown.progress(done, 100)
        clock.seconds += 4.0
    assert shown.text == "grading: 3/100, about 0:06:24 left"  # 12 s for three of them; 4 s ago
    shown.progress(99, 100)
    assert shown.text == "grading: 99/100"  # what is over in a moment needs no estimate
    shown.progress(0, 100)  # another round
    assert shown.text == "grading: 0/100"


def test_the_time_left_is_that_of_everything_where_it_is_known() -> None:
    clock = Clock()
    shown = Activity(clock=clock)
    for done in (20, 30, 40):  # 20 were stored already
        shown.whole(done, 100)
        shown.stage("sampling")
        for row in (0, 1):
            shown.progress(row, 2)
            clock.seconds += 10.0
    assert shown.text == "sampling: 1/2, about 0:01:40 left"  # 40 s for 20 of them, and 20 s ago
    shown.whole(100, 100)
    assert shown.text == "sampling: 1/2"


def test_lines_of_others_put_the_next_one_off() -> None:
    screen, clock = console(), Clock()
    shown = Activity(screen, clock)
    for step in range(3):
        shown.stage(f"step {step}", at_once=False)
        clock.seconds += 0.9 * EVERY_S
        shown.spoke()
    assert lines(screen) == []


def test_after_a_part_the_whole_goes_on_where_it_was() -> None:
    shown = Activity()
    shown.stage("a")
    shown.progress(1, 2)
    with shown.doing("b"):
        assert shown.text == "a, b"
        assert list(shown.each("xyz")) == ["x", "y", "z"]
        assert shown.text == "a, b: 2/3"
    assert shown.text == "a: 1/2"


def test_a_terminal_shows_one_line_that_goes_away() -> None:
    screen = console(terminal=True)
    shown = Activity(screen)
    shown.stage("loading")
    screen.print("a result")
    shown.clear()
    said = screen.file.getvalue()
    assert "loading" in said
    assert said.rstrip("\x1b[?25h\r\n").endswith("\x1b[2K")  # the line is erased
    shown.stage("the next")
    shown.panel = lambda: "the panel"
    shown.clear()
    assert "the panel" in screen.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(terminal: bool) -> None:
    screen = console(terminal, quiet=True)
    shown = Activity(screen)
    shown.stage("loading")
    shown.progress(1, 2)
    shown.clear()
    assert screen.file.getvalue() == ""


def test_there_is_one_activity_and_none_before_a_command_begins() -> None:
    screen = console()
    now().stage("unseen")
    show_on(screen)
    now().stage("seen")
    show_on(None)
    now().stage("unseen")
    assert lines(screen) == ["seen"]
    assert activity.now().console is None


def test_what_goes_on_in_silence_is_said_again() -> None:
    screen, clock = console(), Clock()
    shown = Activity(screen, clock)
    shown.stage("loading torch")
    for _ in range(25):
        clock.seconds += SILENCE_S / 10
        shown.beat()
    assert lines(screen) == ["loading torch", "loading torch (for 0:00:10)", "loading torch (for 0:00:20)"]
    clock.seconds += 3600
    shown.beat()
    clock.seconds += 300  # what takes hours is not said every ten seconds
    shown.beat()
    assert lines(screen)[3:] == ["loading torch (for 1:00:25)"]
    shown.progress(1, 2)
    assert shown.lasting == "loading torch: 1/2"
    shown.clear()


def test_the_silence_is_watched_from_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of ours comes while an extension is imported or one batch is sampled; none is said after the end."""
    monkeypatch.setattr(activity, "SILENCE_S", 0.0)
    screen = console()
    shown = Activity(screen)
    shown.stage("importing")
    while len(lines(screen)) < 2:
        time.sleep(0.05)
    shown.clear()
    time.sleep(1.1)
    said = lines(screen)
    time.sleep(1.2)
    assert lines(screen) == said
    assert {line.partition(" (for")[0] for line in said} == {"importing"}
