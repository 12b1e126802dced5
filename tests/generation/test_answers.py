import resource
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adaptermix.files.outputs import cache_folder
from adaptermix.generation.answers import AnswerCache
from adaptermix.generation.engine import Generated

ANSWERS = {
    b"a" * 32: Generated("time: five am", False, 4),
    b"b" * 32: Generated('hostile \0\n\u202e "[bold]" 🙂', True, 128),
    b"\0" * 32: Generated("", False, 1),
}


def test_answers_come_back_in_another_process_as_they_were(tmp_path):
    AnswerCache(tmp_path / "cache").put(ANSWERS)
    cache = AnswerCache(tmp_path / "cache")
    assert cache.get([*ANSWERS, b"unknown"]) == ANSWERS
    assert cache.notes == []


def test_the_folder_is_created_with_those_above_it(tmp_path):
    cache = AnswerCache(tmp_path / "above" / "cache")
    cache.put(ANSWERS)
    assert cache.get(list(ANSWERS)) == ANSWERS
    assert cache.notes == []


def test_more_keys_than_fit_one_query(tmp_path):
    cache = AnswerCache(tmp_path)
    many = {number.to_bytes(4, "big"): Generated(str(number), False, 1) for number in range(1203)}
    cache.put(many)
    assert cache.get(list(many)) == many


def test_the_first_answer_to_a_key_stays(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.put({b"k": Generated("first", False, 1)})
    cache.put({b"k": Generated("second", False, 1), b"l": Generated("new", False, 1)})
    assert [answer.text for answer in cache.get([b"k", b"l"]).values()] == ["first", "new"]


def test_two_processes_may_write_at_the_same_time(tmp_path):
    code = (
        "import sys; from pathlib import Path; from adaptermix.generation.answers import *\n"
        "cache = AnswerCache(Path(sys.argv[1]))\n"
        "for n in range(40):\n"
        "    key = f'{sys.argv[2]}-{n}'.encode()\n"
        "    cache.put({key: Generated(sys.argv[2], False, n)})\n"
        "    assert key in cache.get([key]), cache.notes\n"
        "assert cache.notes == [], cache.notes\n"
    )

    def work(name):
        return subprocess.run([sys.executable, "-c", code, tmp_path, name]).returncode

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(work, "abc")) == [0, 0, 0]
    keys = [f"{name}-{n}".encode() for name in "abc" for n in range(40)]
    assert len(AnswerCache(tmp_path).get(keys)) == 120


@pytest.mark.parametrize("damage", ["text", "zeros in the middle"])
def test_a_damaged_file_is_set_aside_with_a_note(tmp_path, damage):
    cache = AnswerCache(tmp_path)
    cache.put({number.to_bytes(4, "big"): Generated("x" * 99, False, 1) for number in range(999)})
    content = bytearray(cache.path.read_bytes())
    if damage == "text":
        content = b"no database\n" * 1000
    else:
        content[4096:] = bytes(len(content) - 4096)
    cache.path.write_bytes(content)
    cache = AnswerCache(tmp_path)
    assert cache.get([b"k"]) == {}
    cache.put(ANSWERS)
    assert cache.get(list(ANSWERS)) == ANSWERS
    (note,) = cache.notes
    assert note.startswith("the answer cache was damaged; it was moved to ")
    assert Path(note.split(" moved to ")[1].split(",")[0]).read_bytes()[:99] == content[:99]


def test_a_file_that_is_damaged_again_is_not_used(tmp_path):
    cache = AnswerCache(tmp_path)
    for _ in range(2):
        cache.path.write_bytes(b"no database\n" * 1000)
        assert cache.get([b"k"]) == {}
    aside, given_up = cache.notes
    assert "was moved to" in aside
    assert "cannot be used: file is not a database; continuing without it" in given_up
    cache.put(ANSWERS)
    assert cache.path.read_bytes().startswith(b"no database")


def test_a_damaged_file_that_cannot_be_moved_is_not_used(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.path.write_bytes(b"no database\n" * 1000)
    cache.path.with_name(f"{cache.path.name}.damaged").mkdir()  # in the way
    assert cache.get([b"k"]) == {}
    (note,) = cache.notes
    assert "cannot be used: file is not a database; continuing without it" in note


def test_a_damaged_file_that_another_process_has_moved_is_no_trouble(tmp_path, monkeypatch):
    cache = AnswerCache(tmp_path)
    cache.path.write_bytes(b"no database\n" * 1000)
    replace = Path.replace

    def too_late(self, target):
        replace(self, target)
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "replace", too_late)
    cache.put(ANSWERS)
    assert cache.get(list(ANSWERS)) == ANSWERS
    assert cache.notes == []


def test_a_folder_that_cannot_be_used_is_noted_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = AnswerCache(tmp_path / "file")
    cache.put(ANSWERS)
    assert cache.get(list(ANSWERS)) == {}
    assert cache.notes == [
        f"the answer cache {cache.path} cannot be used: File exists; continuing without it"
    ]


def test_an_error_that_has_no_code_is_noted(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.get([{}])  # not SQLite, but Python's module refuses such a key
    (note,) = cache.notes
    assert note.endswith("; continuing without it")


def test_a_full_disk_is_noted(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.put(ANSWERS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache.path.stat().st_size, hard))
    try:
        cache.put({b"large": Generated("x" * 100_000, False, 1)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (note,) = cache.notes
    assert "continuing without it" in note
    assert AnswerCache(tmp_path).get(list(ANSWERS)) == ANSWERS


def test_a_folder_that_takes_no_files_is_noted():
    cache = AnswerCache(Path("/proc/cache"))  # not even root may write there
    cache.put(ANSWERS)
    assert "continuing without it" in cache.notes[0]


def test_a_file_of_another_make_is_noted(tmp_path):
    cache = AnswerCache(tmp_path)
    with sqlite3.connect(cache.path) as connection:
        connection.execute("CREATE TABLE answers (something INTEGER)")
    assert cache.get([b"k"]) == {}
    assert "no such column" in cache.notes[0]


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("ADAPTERMIX_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.delenv("ADAPTERMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "adaptermix"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "adaptermix"
