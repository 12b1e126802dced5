"""What is told beside results, and progress where there is no terminal to draw a bar on."""

import io
import json
import os

import pytest
from rich.progress import Progress as Bars

from adaptermix.cli import console
from adaptermix.cli.main import main
from adaptermix.cli.progress import RecipeWatcher, progress_bar
from adaptermix.errors import DataError
from adaptermix.evaluation.score import ScoreReport
from adaptermix.progress import Progress


def test_a_log_file_gets_a_line_a_minute(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress_bar(quiet=False, name="task [x]") as update:
        for step in range(1, 301):
            now = float(step)
            update(Progress("training", step, 300, "loss 0.500"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"task [x]  loss 0.500  {done}/300" for done in (60, 120, 180, 240, 300)
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_what_json_lacks_is_told_beside_it(as_json, capsys):
    console.show(ScoreReport({}, {"examples": 1}, notes=["a note"]), as_json=as_json)
    out, err = capsys.readouterr()
    assert "a note" not in out
    assert err == "note: a note\n"


@pytest.mark.parametrize("options", [(False, False), (False, True), (True, False)])
def test_with_json_or_quiet_steps_print_no_results(options, capsys):
    quiet, as_json = options
    RecipeWatcher(quiet=quiet, json=as_json).end(None, ScoreReport({}, {"examples": 7}))
    assert ("7" in capsys.readouterr().out) == (options == (False, False))


def test_names_between_colons_are_no_emoji(capsys):
    console.show_error(DataError("owner/name:x:train [b]", hint=":x:"))
    console.say(":x:")
    assert capsys.readouterr().err == "error: owner/name:x:train [b]\nhint: :x:\n:x:\n"


def test_names_that_are_no_text_are_printed_with_escapes(monkeypatch):
    """Standard output is strict in a locale with UTF-8, and main() lets it write escapes."""
    monkeypatch.setattr("os.environ", os.environ.copy())
    name = "caf\udce9.safetensors"
    shown = {}
    for as_json in (False, True):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
        monkeypatch.setattr("sys.stdout", stream)
        report = ScoreReport({}, {name: 1})

        def show(only, as_json=as_json, report=report):
            console.show(report, as_json=as_json)
            raise DataError(name)

        monkeypatch.setattr("adaptermix.cli.main.program", show)
        with pytest.raises(SystemExit):
            main()
        stream.flush()
        shown[as_json] = stream.buffer.getvalue().decode()
    assert name in json.loads(shown[True])["counts"]
    assert r"caf\udce9.safetensors" in shown[False]


def test_quiet_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr("adaptermix.cli.progress._SECONDS_A_LINE", 0)
    with progress_bar(quiet=True) as update:
        update(Progress("decoding", 1, 2))
    assert capsys.readouterr() == ("", "")
    with progress_bar(quiet=False) as update:
        update(Progress("decoding", 1, 2))
        update(Progress("decoding", 2, 2, "1,234 tokens/s"))
        update(Progress("starting the engine", 0, None))
    lines = ["decoding  1/2", "decoding  1,234 tokens/s  2/2", "starting the engine"]
    assert capsys.readouterr().err.splitlines() == lines


def test_other_work_starts_its_own_estimate(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bars = []
    monkeypatch.setattr("adaptermix.cli.progress._Lines", lambda: bars.append(Bars()) or bars[0])
    speeds = []
    with progress_bar(quiet=False) as update:
        for events in ([Progress("fast", n, 9) for n in range(10)], [Progress("slow", 0, 4)]):
            for event in events:
                now += 1
                update(event)
            speeds.append(bars[0].tasks[0].speed)
    assert speeds[0] and speeds[1] is None


def test_a_name_that_is_too_long_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("os.environ", os.environ.copy())  # the program sets some variables
    monkeypatch.setattr("sys.argv", ["adaptermix", "inspect", str(tmp_path / ("x" * 300))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert "choose a shorter name" in capsys.readouterr().err
