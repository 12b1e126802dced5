"""The program builds the typed command only, and behaves as if it had built all."""

import errno
import os

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from adaptermix.cli.main import _report_problems, main, program
from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import ConfigError, DataError


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_has_the_help_that_it_has_among_all(name):
    alone, among_all = (
        CliRunner().invoke(app, [name, "--help"]) for app in (program(name), program())
    )
    assert alone.exit_code == among_all.exit_code == 0
    assert alone.stdout == among_all.stdout


def test_only_the_named_command_of_the_catalog_is_built():
    everything = set(typer.main.get_command(program()).commands)
    assert everything > set(COMMANDS)
    assert set(typer.main.get_command(program("merge")).commands) == (
        everything - COMMANDS.keys() | {"merge"}
    )


@pytest.mark.parametrize(
    ("typed", "built"),
    [(["merge", "--help"], "merge"), (["--help"], None), (["mrege"], None), ([], None)],
)
def test_the_typed_command_is_the_one_that_is_built(monkeypatch, capsys, typed, built):
    asked = []
    monkeypatch.setattr(
        "adaptermix.cli.main.program", lambda only: asked.append(only) or program(only)
    )
    monkeypatch.setattr("sys.argv", ["adaptermix", *typed])
    with pytest.raises(SystemExit):
        main()
    assert asked == [built]
    assert "Usage: " in "".join(capsys.readouterr())


def test_a_seed_that_is_too_large_is_refused_before_the_demo_writes(tmp_path):
    out = tmp_path / "demo"
    done = CliRunner().invoke(program(), ["demo", "-o", str(out), "--seed", str(2**32)])
    assert (
        str(done.exception) == "--seed: must be a whole number from 0 to 2^32 - 1, not 4294967296"
    )
    assert not out.exists()


DISK = ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO")


@pytest.mark.parametrize("path", [None, "out/scores.json"])
@pytest.mark.parametrize("name", DISK)
def test_an_error_of_the_disk_is_one_line(monkeypatch, capsys, name, path):
    number = getattr(errno, name)

    def fail(only):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("adaptermix.cli.main.program", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 6
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"error: {path or 'disk'}: {os.strerror(number)}"
    assert len(told) == (1 if path else 2)
    assert path or told[1] == "hint: free some space for --out, $TMPDIR and $ADAPTERMIX_CACHE"


def test_another_error_of_the_system_is_a_bug(monkeypatch):
    def fail(only):
        raise OSError(errno.EBADF, "bad")

    monkeypatch.setattr("adaptermix.cli.main.program", fail)
    with pytest.raises(OSError, match="bad"):
        main()


def test_a_dry_run_ends_with_the_code_of_its_first_problem(capsys):
    first, last = DataError("one", hint="a hint"), ConfigError("two", hint="a hint")
    with pytest.raises(typer.Exit) as ended:
        _report_problems([first, first, last])
    assert ended.value.exit_code == DataError.exit_code
    told = capsys.readouterr().err
    assert [told.count(text) for text in ("one", "two", "a hint")] == [1, 1, 1]
    _report_problems([])
