"""Progress where there is no terminal to draw a bar on."""

from adaptermix.cli.progress import stage_progress, training_progress
from adaptermix.training.report import Progress


def test_a_log_file_gets_a_line_a_minute(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with training_progress("task [x]", quiet=False) as update:
        for step in range(1, 301):
            now = float(step)
            update(Progress(step, 300, 0.5))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"task [x]  loss 0.500  {done}/300" for done in (60, 120, 180, 240, 300)
    ]


def test_quiet_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr("adaptermix.cli.progress._SECONDS_A_LINE", 0)
    with training_progress("task", quiet=True) as update:
        update(Progress(1, 2, 0.5))
    assert capsys.readouterr() == ("", "")
    with stage_progress(quiet=False) as stage:
        stage("reading", 1, 2)
    assert capsys.readouterr().err == "reading  1/2\n"
