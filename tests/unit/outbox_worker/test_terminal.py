"""How the progress of a command is shown where there is no terminal."""

import pytest

from outbox_worker.operator import terminal


def test_progress_is_lines_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line has the number so far, also of an earlier run, and the share if the total is known."""
    monkeypatch.setattr(terminal, "LINE_INTERVAL_S", 0)
    with terminal.progress_bar("replay", 400, shown=True, done=100) as step:
        step(100)
        step(200)
    with terminal.progress_bar("topic", None, shown=True) as step:
        step(5)
    assert capsys.readouterr().err.splitlines() == [
        "outbox_worker: replay: 200 of 400 (50 %)",
        "outbox_worker: replay: 400 of 400 (100 %)",
        "outbox_worker: topic: 5",
    ]


def test_progress_in_a_log_is_rare(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps within a few seconds print nothing, and neither does a command with --json."""
    for shown in (True, False):
        with terminal.progress_bar("replay", 400, shown=shown) as step:
            step(400)
    assert capsys.readouterr().err == ""
