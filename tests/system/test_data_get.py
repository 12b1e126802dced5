"""``data get`` as a process of its own: killed, offline, and refused."""

import os
import subprocess
import sys
import time

import pytest
from helpers.server import served
from helpers.sources import tatoeba_zip

ROWS = [
    (f"Brawddeg rhif {n}, {n * n % 977}.", f"Sentence {n}, {n**3 % 991}.") for n in range(20_000)
]
CONTENT = tatoeba_zip("cy-en", ROWS)


def command(site, *options):
    line = [sys.executable, "-m", "adaptermix", "data", "get", "tatoeba", "--pairs", "cy-en"]
    return [*line, "--mirror", site.address, *options]


def environment(**changes):
    return os.environ | {"HF_HUB_OFFLINE": "0"} | changes


def test_a_killed_download_goes_on_and_leaves_nothing_behind(tmp_path):
    with served({"cy-en.txt.zip": CONTENT}) as site:
        site.troubles["cy-en.txt.zip"] = [("pause", 100_000)]
        with subprocess.Popen(
            command(site), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
        ) as child:
            part = tmp_path / "data" / ".downloads" / "cy-en.txt.zip"
            until = time.monotonic() + 60
            while not (part.is_file() and part.stat().st_size) and time.monotonic() < until:
                time.sleep(0.05)
            child.kill()
        there = part.stat().st_size
        assert 0 < there < len(CONTENT)
        assert not (tmp_path / "data" / "tatoeba").exists()
        done = subprocess.run(
            command(site), cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert site.asked[-1] == ("cy-en.txt.zip", f"bytes={there}-")
    lines = (tmp_path / "data" / "tatoeba" / "Tatoeba.cy-en.cy").read_text().splitlines()
    assert lines == [row[0] for row in ROWS]
    assert [path.name for path in part.parent.iterdir()] == [".lock"]


def test_two_processes_that_want_the_same_download_it_once(tmp_path):
    with served({"cy-en.txt.zip": CONTENT}) as site:
        children = [
            subprocess.Popen(command(site), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        told = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert site.asked == [("cy-en.txt.zip", "")]


@pytest.mark.parametrize(
    ("trouble", "changes", "code", "told"),
    [
        (["http 404"], {}, 6, "no such file (HTTP 404)"),
        (["http 403"], {}, 6, "the server denied access (HTTP 403)"),
        ([], {"HF_HUB_OFFLINE": "1"}, 6, "HF_HUB_OFFLINE is set"),
        (["truncated"], {}, 4, "not readable as an archive"),
    ],
)
def test_trouble_is_one_line_with_the_address_a_hint_and_a_code(
    tmp_path, trouble, changes, code, told
):
    with served({"cy-en.txt.zip": CONTENT}) as site:
        if trouble == ["truncated"]:
            site.files["cy-en.txt.zip"] = CONTENT[:1000]
        else:
            site.troubles["cy-en.txt.zip"] = trouble
        done = subprocess.run(
            command(site), cwd=tmp_path, env=environment(**changes), capture_output=True, text=True
        )
    error, hint = done.stderr.splitlines()
    assert done.returncode == code
    assert error.startswith("error: ")
    assert told in error
    assert site.address in error
    assert "--mirror" in hint
    assert not (tmp_path / "data" / "tatoeba").exists()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "data").write_text("a file")
    with served({"cy-en.txt.zip": CONTENT}) as site:
        done = subprocess.run(
            command(site), cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
