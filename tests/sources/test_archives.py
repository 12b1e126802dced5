"""Archives that nobody vouches for."""

import io
import tarfile
import zipfile

import pytest
from helpers.sources import tar_gz, zipped

from adaptermix.errors import DataError
from adaptermix.sources.archives import Archive, unpack
from adaptermix.sources.source import Member

WANTED = (Member("a.txt", "data/a.txt"),)


def take(tmp_path, content, members=WANTED, limit=10**6):
    (tmp_path / "archive").write_bytes(content)
    archive = Archive(tmp_path / "archive", "http://here/archive", limit)
    return unpack(archive, members, tmp_path / "out")


@pytest.mark.parametrize("make", [tar_gz, zipped])
@pytest.mark.parametrize("start", ["", "./"])
def test_wanted_members_are_written_and_no_others(tmp_path, make, start):
    content = make({f"{start}data/a.txt": "text\n", f"{start}data/b.txt": "other"})
    assert take(tmp_path, content) == ["a.txt"]
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_text() == "text\n"


def test_an_encrypted_member_is_refused_with_the_archive(tmp_path):
    content = bytearray(zipped({"data/b.txt": "secret", "data/a.txt": "text"}))
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + flags] |= 1  # of the first member
    with pytest.raises(DataError, match="was not unpacked, because 'data/b.txt' is encrypted"):
        take(tmp_path, bytes(content))


@pytest.mark.parametrize("make", [tar_gz, zipped])
def test_an_archive_of_more_files_than_it_may_have_is_refused(tmp_path, make, monkeypatch):
    monkeypatch.setattr("adaptermix.sources.archives._MOST_MEMBERS", 3)
    names = ["data/a.txt", "b", "c"]
    assert take(tmp_path, make(dict.fromkeys(names, "x"))) == ["a.txt"]
    with pytest.raises(DataError, match="or 3 files"):
        take(tmp_path, make(dict.fromkeys([*names, "d"], "x")))


def test_patterns_keep_the_names_inside(tmp_path):
    content = tar_gz({"dev/est_Latn.dev": "tere", "dev/eng_Latn.dev": "hello"})
    assert take(tmp_path, content, [Member("est_*.dev", "dev/est_*.dev")]) == ["est_Latn.dev"]


def test_lines_of_tags_are_left_out(tmp_path):
    names = "url keywords speaker talkid title description reviewer translator".split()
    tags = "".join(f" <{name}>x</{name}>\n" for name in names)
    content = zipped({"data/a.txt": f'<doc docid="1">\n{tags}Hallo\n<3 Welt\n</doc>\n'})
    take(tmp_path, content, [Member("a.txt", "data/a.txt", is_tagged=True)])
    assert (tmp_path / "out" / "a.txt").read_text() == "Hallo\n<3 Welt\n"


def tar_of(*infos):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def info(name, kind=tarfile.REGTYPE, target="", size=0):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


def zip_of(name, mode=0):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        made = zipfile.ZipInfo(name)
        made.external_attr = mode << 16
        zipped.writestr(made, "x")
        zipped.writestr("data/a.txt", "text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        tar_of(info("../evil.txt", size=3), info("data/a.txt", size=3)),
        tar_of(info("data/../../evil.txt", size=3), info("data/a.txt", size=3)),
        tar_of(info("/tmp/evil.txt", size=3), info("data/a.txt", size=3)),
        tar_of(info("data/a.txt", tarfile.SYMTYPE, "/etc/passwd")),
        tar_of(info("data/a.txt", tarfile.SYMTYPE, "b.txt"), info("data/b.txt", size=3)),
        tar_of(info("data/b.txt", size=3), info("data/a.txt", tarfile.LNKTYPE, "data/b.txt")),
        tar_of(info("data/a.txt", tarfile.FIFOTYPE)),
        tar_of(info("data/a.txt", tarfile.CHRTYPE)),
        zip_of("../evil.txt"),
        zip_of("/evil.txt"),
        zip_of("..\\evil.txt"),
        zip_of("C:/evil.txt"),
        zip_of("link", 0o120777),
        zip_of("pipe", 0o010644),
    ],
    ids=map(str, range(14)),  # archives hold the time, and ids are the same in every process
)
def test_an_archive_with_unsafe_members_is_refused_whole(tmp_path, content):
    with pytest.raises(
        DataError, match="^http://here/archive: the archive was not unpacked"
    ) as caught:
        take(tmp_path, content)
    assert "--mirror" in caught.value.hint
    assert not (tmp_path / "evil.txt").exists()
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("make", [tar_gz, zipped])
def test_an_archive_that_unpacks_to_more_than_it_may_is_refused(tmp_path, make):
    content = make({"data/b.txt": "\0" * 2_000_000, "data/a.txt": "text"})
    assert len(content) < 10_000
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        take(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>not here</html>", "it is a web page"),
        (b"", "it is empty"),
        (tar_gz({"data/a.txt": "x" * 9000})[:40], "ended before the end"),
        (zipped({"data/a.txt": "x" * 9000})[:40], "it is incomplete or damaged"),
    ],
    ids=["html", "empty", "tar", "zip"],
)
def test_what_is_no_archive_is_named(tmp_path, content, told):
    with pytest.raises(DataError, match=f"not readable as an archive: .*{told}") as caught:
        take(tmp_path, content)
    assert "method" not in caught.value.message


def test_a_damaged_member_is_found_by_its_checksum(tmp_path):
    content = bytearray(zipped({"data/a.txt": "".join(map(str, range(500)))}))
    content[60] ^= 0xFF
    with pytest.raises(DataError, match="not readable as an archive"):
        take(tmp_path, bytes(content))


def test_of_members_with_one_path_the_last_counts(tmp_path):
    content = tar_of(info("data/a.txt", size=3), info("data/a.txt", size=5))
    assert take(tmp_path, content) == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_text() == "xxxxx"


def zip_by(method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        zipped.writestr("data/a.txt", "".join(map(str, range(500))))
    return buffer.getvalue()


def tar_by(end):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{end}") as tar:
        tar.addfile(info("data/a.txt", size=20_000), io.BytesIO(bytes(range(250)) * 80))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: zip_by(zipfile.ZIP_BZIP2),
        lambda: zip_by(zipfile.ZIP_LZMA),
        lambda: tar_by("gz"),
        lambda: tar_by("bz2"),
        lambda: tar_by("xz"),
    ],
    ids=["zip bzip2", "zip lzma", "gz", "bz2", "xz"],
)
def test_damage_is_told_for_every_kind_of_compression(tmp_path, make):
    content = make()
    take(tmp_path, content)
    for at in range(0, len(content), max(1, len(content) // 40)):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        try:
            take(tmp_path, bytes(damaged))
        except DataError as error:
            assert error.message.startswith("http://here/archive: ")


def test_a_missing_member_is_named(tmp_path):
    with pytest.raises(DataError, match=r"does not contain data/a\.txt"):
        take(tmp_path, tar_gz({"data/b.txt": "x"}))
