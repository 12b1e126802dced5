"""Public data from a server that has archives of the true format, good and bad."""

import errno
import gzip
import hashlib
import json
import os
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.server import served
from helpers.sources import flores_tar, massive_tar, tatoeba_zip, zipped

from adaptermix.errors import ConfigError, DataError, ResourceError
from adaptermix.sources.catalog import SOURCES
from adaptermix.sources.download import Patience
from adaptermix.sources.get import Order, get
from adaptermix.sources.lock import LOCK_NAME, WORK_NAME
from adaptermix.sources.report import FileReport, GetReport, RemoteReport
from adaptermix.sources.source import Member, Remote

QUICK = Patience(seconds=0.5, tries=2, pause=0.01)
PARQUET = b"PAR1 rows PAR1"
PAIRS = [("Helo.", "Hello."), ("Hwyl fawr.", "Goodbye.")]


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with served({}) as site:
        yield site


def at(site, name, **pins):
    """A source of the table whose files are on the server, with digests of what is there."""
    source = SOURCES[name]

    def remotes(names):
        return [replace(remote, **{"size": None, "digest": ""} | pins) for remote in found(names)]

    found = source.remotes
    return replace(source, address=f"{site.address}/", remotes=remotes)


def order(source, names, out, **options):
    return Order(source, tuple(names), out / "data", **options)


def fetch(*arguments, **options):
    return get(order(*arguments, **options), patience=QUICK)


def test_massive_is_laid_out_as_its_reader_looks_for_it(site, tmp_path):
    from adaptermix.tasks.massive import read_massive

    content = massive_tar(("cy-GB", "en-US", "sw-KE"))
    site.files["amazon-massive-dataset-1.1.tar.gz"] = content
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    source = at(site, "massive", size=len(content), digest=digest)
    report = fetch(source, ["cy-GB", "en-US"], tmp_path)
    folder = tmp_path / "data" / "massive"
    assert sorted(path.name for path in folder.iterdir()) == ["cy-GB.jsonl", "en-US.jsonl"]
    assert len(read_massive("cy", "train", folder)) == 1
    assert report.downloads[0].is_published
    assert [file.status for file in report.files] == ["written", "written"]
    assert {"CC BY 4.0", SOURCES["massive"].citation} <= {report.license, report.citation}


def test_a_second_run_downloads_nothing_and_another_language_only_adds_its_file(site, tmp_path):
    content = massive_tar(("cy-GB", "en-US"))
    site.files["amazon-massive-dataset-1.1.tar.gz"] = content
    source = at(site, "massive")
    fetch(source, ["cy-GB"], tmp_path)
    asked = len(site.asked)
    shutil.rmtree(tmp_path / "data" / WORK_NAME)
    again = fetch(source, ["cy-GB"], tmp_path)
    assert not (tmp_path / "data" / WORK_NAME).exists()  # nothing is locked or written
    assert len(site.asked) == asked
    assert [file.status for file in again.files] == ["there"]
    assert again.downloads[0].status == "there"
    more = fetch(source, ["cy-GB", "en-US"], tmp_path)
    assert [file.status for file in more.files] == ["there", "written"]


def test_tatoeba_is_found_under_its_codes_in_alphabetical_order(site, tmp_path):
    from adaptermix.data.pairs import read_pairs

    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    site.files["en-tl.txt.zip"] = tatoeba_zip("en-tl", [("Hello.", "Kumusta.")])
    fetch(at(site, "tatoeba"), ["cy-en", "tl-en"], tmp_path)
    folder = tmp_path / "data" / "tatoeba"
    assert [(p.source, p.target) for p in read_pairs("cy-en", folder)] == PAIRS
    assert [(p.source, p.target) for p in read_pairs("tl-en", folder)] == [("Kumusta.", "Hello.")]
    assert [(p.source, p.target) for p in read_pairs("en-cy", folder)][0] == ("Hello.", "Helo.")


@pytest.mark.parametrize("pair", ["cmn-en", "en-zh"])
def test_chinese_is_found_under_either_code(site, tmp_path, pair):
    from adaptermix.data.pairs import read_pairs

    rows = [("你好。", "Hello.")]
    site.files[f"{pair}.txt.zip"] = tatoeba_zip(pair, rows if pair == "cmn-en" else [rows[0][::-1]])
    fetch(at(site, "tatoeba"), ["zh-en"], tmp_path)
    (read,) = read_pairs("zh-en", tmp_path / "data" / "tatoeba")
    assert (read.source, read.target) == rows[0]


def test_malay_is_found_under_its_code_there(site, tmp_path):
    site.files["en-zsm.txt.zip"] = tatoeba_zip("en-zsm", [("Hello.", "Helo.")])
    fetch(at(site, "tatoeba"), ["ms-en"], tmp_path)
    assert (tmp_path / "data" / "tatoeba" / "Tatoeba.en-ms.ms").read_text() == "Helo.\n"


def test_flores_holds_both_parts_of_each_language(site, tmp_path):
    from adaptermix.data.multiway import read_multiway

    site.files["flores200_dataset.tar.gz"] = flores_tar(("cym_Latn", "eng_Latn", "est_Latn"))
    fetch(at(site, "flores"), ["cym_Latn", "eng_Latn", "est_*"], tmp_path)
    folder = tmp_path / "data" / "flores200"
    assert len(list(folder.iterdir())) == 6
    for split in ("dev", "devtest"):
        texts = read_multiway(("cy", "en", "et"), split, folder)
        assert texts["et"][0] == f"est_Latn {split} 0"
    asked = len(site.asked)
    fetch(at(site, "flores"), ["cym_Latn", "est_*"], tmp_path)
    assert len(site.asked) == asked


def test_iwslt_is_text_without_its_tags(site, tmp_path):
    from adaptermix.data.pairs import read_pairs

    sides = {"de": "Hallo", "en": "hello"}
    members = {
        f"de-en/train.tags.de-en.{code}": f"<url>u</url>\n{text}\n<talkid>1</talkid>\n{text} 2\n"
        for code, text in sides.items()
    }
    site.files["data/2017-01-trnted/texts/de/en/de-en.zip"] = zipped(members)
    fetch(at(site, "iwslt"), ["de-en"], tmp_path)
    pairs = read_pairs("de-en", tmp_path / "data" / "iwslt2017")
    assert [(p.source, p.target) for p in pairs] == [("Hallo", "hello"), ("Hallo 2", "hello 2")]


def test_alma_has_training_dev_and_test_parts(site, tmp_path):
    from adaptermix.tasks.translation import read_wmt

    row = json.dumps({"translation": {"is": "Halló", "en": "Hello"}})
    for part in ("train", "test"):
        site.files[f"human_written_data/isen/{part}.is-en.json"] = row.encode()
    turned = json.dumps([{"translation": {"en": "Bye", "is": "Bless"}}])
    site.files["human_written_data/isen/test.en-is.json"] = turned.encode()
    fetch(at(site, "alma"), ["is-en"], tmp_path)
    folder = tmp_path / "data" / "alma"
    names = ["en-is.test.json", "is-en.test.json", "is-en.train.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert read_wmt("is-en", "train", folder) == []  # its one row is held out as dev data


def test_uner_is_checked_by_the_object_ids_of_git(site, tmp_path):
    source = at(site, "uner")
    text = "# sent_id = 1\n1\tAarhus\tB-LOC\n\n"
    for remote in source.remotes(["da"]):
        site.files[remote.path] = text.encode()
    with pytest.raises(DataError, match="the digest is not the published git:"):
        fetch(replace(SOURCES["uner"], address=f"{site.address}/"), ["da"], tmp_path)
    assert not list((tmp_path / "data").glob("uner/*"))
    blob = b"blob %d\0%s" % (len(text), text.encode())
    object_id = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    report = fetch(at(site, "uner", digest=f"git:{object_id}"), ["da"], tmp_path)
    assert [file.status for file in report.files] == ["written"] * 3
    assert (tmp_path / "data" / "uner" / "da_ddt-ud-test.iob2").read_text() == text


def test_what_is_not_the_published_content_is_not_kept(site, tmp_path):
    content = massive_tar(("cy-GB",))
    site.files["amazon-massive-dataset-1.1.tar.gz"] = content
    for pins, told in (
        ({"digest": f"sha256:{'0' * 64}"}, "the digest is not the published sha256:0000"),
        ({"size": len(content) + 5}, "bytes, but"),
        ({"size": len(content) - 5}, "larger than"),
    ):
        with pytest.raises(DataError, match=told) as caught:
            fetch(at(site, "massive", **pins), ["cy-GB"], tmp_path, force=True)
        assert site.address in caught.value.message
        assert "--mirror" in caught.value.hint
        assert [path.name for path in (tmp_path / "data").iterdir()] == [".downloads"]
        left = [p.name for p in (tmp_path / "data" / ".downloads").iterdir() if p.suffix == ".gz"]
        assert not left


def test_without_a_published_digest_the_first_download_is_what_later_ones_are_compared_with(
    site, tmp_path
):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    source = at(site, "tatoeba")
    fetch(source, ["cy-en"], tmp_path)
    lock = json.loads((tmp_path / "data" / LOCK_NAME).read_text())
    (recorded,) = lock["downloads"].values()
    assert recorded["sha256"] == hashlib.sha256(site.files["cy-en.txt.zip"]).hexdigest()
    first = (tmp_path / "data" / "tatoeba" / "Tatoeba.cy-en.cy").read_bytes()
    for path in (tmp_path / "data" / "tatoeba").iterdir():
        path.unlink()
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS[:1])
    with pytest.raises(DataError, match=r"sources\.lock recorded") as caught:
        fetch(source, ["cy-en"], tmp_path)
    assert "--force" in caught.value.hint
    assert not list((tmp_path / "data" / "tatoeba").iterdir())
    report = fetch(source, ["cy-en"], tmp_path, force=True)
    assert [file.status for file in report.files] == ["written", "written"]
    assert (tmp_path / "data" / "tatoeba" / "Tatoeba.cy-en.cy").read_bytes() != first


def test_a_file_of_ones_own_is_not_replaced_unasked(site, tmp_path):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    mine = tmp_path / "data" / "tatoeba" / "Tatoeba.cy-en.cy"
    mine.parent.mkdir(parents=True)
    mine.write_text("Fy ngeiriau\nAc eto\n")
    report = fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert {file.status for file in report.files} == {"kept", "written"}
    assert mine.read_text().startswith("Fy")
    assert "--force replaces them" in report.notes[-1]
    fetch(at(site, "tatoeba"), ["cy-en"], tmp_path, force=True)
    assert mine.read_text().startswith("Helo")


def test_gzipped_copies_are_what_was_downloaded(site, tmp_path):
    """They are replaced only if asked, and then not left beside the plain files."""
    from adaptermix.data.pairs import read_pairs

    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    source, folder = at(site, "tatoeba"), tmp_path / "data" / "tatoeba"
    fetch(source, ["cy-en"], tmp_path)
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    asked = len(site.asked)
    report = fetch(source, ["cy-en"], tmp_path)
    assert (len(site.asked), [file.status for file in report.files]) == (asked, ["there"] * 2)
    assert report.notes == [*source.notes]
    (folder / "Tatoeba.cy-en.cy.gz").write_bytes(gzip.compress(b"Arall\nAc eto\n"))
    (folder / "Tatoeba.cy-en.en.gz").write_bytes(b"damaged")
    (told,) = fetch(source, ["cy-en"], tmp_path).notes[len(source.notes) :]
    assert told.startswith("kept 2 existing files that differ from sources.lock, such as ")
    (tmp_path / "data" / LOCK_NAME).unlink()
    (told,) = fetch(source, ["cy-en"], tmp_path).notes[len(source.notes) :]
    assert told.startswith("kept 2 existing files that are not in sources.lock, such as ")
    report = fetch(source, ["cy-en"], tmp_path, force=True)
    assert [file.status for file in report.files] == ["written"] * 2
    assert [(p.source, p.target) for p in read_pairs("cy-en", folder)] == PAIRS


def test_a_broken_download_goes_on_in_the_next_run(site, tmp_path):
    content = massive_tar(("cy-GB",))
    site.files["amazon-massive-dataset-1.1.tar.gz"] = content
    site.troubles["amazon-massive-dataset-1.1.tar.gz"] = [100, "http 503", "http 503"]
    source = at(site, "massive")
    with pytest.raises(ResourceError):
        fetch(source, ["cy-GB"], tmp_path)
    assert not (tmp_path / "data" / "massive").exists()
    fetch(source, ["cy-GB"], tmp_path)
    assert site.asked[-1][1] == "bytes=100-"
    assert (tmp_path / "data" / "massive" / "cy-GB.jsonl").is_file()


def test_a_bad_archive_leaves_nothing(site, tmp_path):
    site.files["cy-en.txt.zip"] = zipped({"../evil": "x", "Tatoeba.cy-en.cy": "Helo\n"})
    with pytest.raises(DataError, match="was not unpacked"):
        fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    there = [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert there == [".lock"]


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusal_names_address_and_mirror(site, tmp_path, status):
    site.troubles["cy-en.txt.zip"] = [f"http {status}"]
    with pytest.raises(ResourceError, match=f"HTTP {status}") as caught:
        fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert f"{site.address}/cy-en.txt.zip" in caught.value.message
    assert "adaptermix data get tatoeba --pairs cy-en" in caught.value.hint


def test_a_mirror_is_an_address_a_folder_or_a_file(site, tmp_path):
    content = tatoeba_zip("cy-en", PAIRS)
    site.files["copies/cy-en.txt.zip"] = content
    source = SOURCES["tatoeba"]  # its own address is not asked
    report = fetch(source, ["cy-en"], tmp_path / "1", mirror=f"{site.address}/copies/")
    assert report.downloads[0].taken_from == f"{site.address}/copies/cy-en.txt.zip"
    assert report.downloads[0].address.startswith("https://object.pouta.csc.fi/")
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "cy-en.txt.zip").write_bytes(content)
    for at_, place in (("2", copies), ("3", copies / "cy-en.txt.zip")):
        report = fetch(source, ["cy-en"], tmp_path / at_, mirror=str(place))
        assert report.downloads[0].status == "copied"
        assert (tmp_path / at_ / "data" / "tatoeba" / "Tatoeba.cy-en.cy").is_file()
    with pytest.raises(ResourceError, match=r"no cy-en\.txt\.zip"):
        fetch(source, ["cy-en"], tmp_path / "4", mirror=str(tmp_path / "1"))
    with pytest.raises(ConfigError, match="expected a folder"):
        fetch(source, ["cy-en"], tmp_path / "5", mirror="nowhere")
    with pytest.raises(ConfigError, match="expected a folder"):
        fetch(source, ["cy-en"], tmp_path / "5", mirror="http://[::1/copies")
    with pytest.raises(ConfigError, match="one file, but 2 files are needed"):
        fetch(source, ["cy-en", "sw-en"], tmp_path / "6", mirror=str(copies / "cy-en.txt.zip"))


def test_a_local_file_under_the_other_code_of_chinese_is_taken(tmp_path):
    copy = tmp_path / "en-zh.txt.zip"
    copy.write_bytes(tatoeba_zip("en-zh", [("Hello.", "你好。")]))
    fetch(SOURCES["tatoeba"], ["zh-en"], tmp_path, mirror=str(copy))
    assert (tmp_path / "data" / "tatoeba" / "Tatoeba.en-zh.zh").read_text() == "你好。\n"


def test_a_dry_run_asks_no_server_and_writes_nothing(site, tmp_path):
    report = get(order(at(site, "tatoeba"), ["cy-en"], tmp_path), dry_run=True)
    assert [remote.status for remote in report.downloads] == ["planned"]
    assert [file.status for file in report.files] == ["missing", "missing"]
    assert not site.asked
    assert not list(tmp_path.iterdir())


def test_progress_is_told(site, tmp_path):
    site.files["amazon-massive-dataset-1.1.tar.gz"] = massive_tar(("cy-GB",))
    seen = []
    wanted = order(at(site, "massive"), ["cy-GB"], tmp_path)
    get(wanted, on_progress=seen.append, patience=QUICK)
    assert seen
    assert seen[-1].stage == "massive: amazon-massive-dataset-1.1.tar.gz"
    kilobytes = len(site.files["amazon-massive-dataset-1.1.tar.gz"]) // 1000
    assert (seen[-1].done, seen[-1].total, seen[-1].detail) == (kilobytes, kilobytes, "kB")


def test_a_record_that_is_none_is_refused(site, tmp_path):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    (tmp_path / "data").mkdir()
    for text in (
        "[]",
        "{}",
        '{"downloads": {"a": 1}, "files": {}}',
        '{"downloads": {}, "files": 3}',
        '{"downloads": [], "files": []}',
        "no json",
    ):
        (tmp_path / "data" / LOCK_NAME).write_text(text)
        with pytest.raises(DataError, match="not a record of downloads"):
            fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)


def test_a_folder_in_the_place_of_a_file_is_kept(site, tmp_path):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    for name in (LOCK_NAME, "tatoeba/Tatoeba.cy-en.cy"):
        folder = tmp_path / name / "data" / name
        (folder / "mine").mkdir(parents=True)
        with pytest.raises(DataError, match=str(folder)):
            fetch(at(site, "tatoeba"), ["cy-en"], tmp_path / name)
        assert (folder / "mine").is_dir()


def test_a_folder_in_the_place_of_a_download_is_told(site, tmp_path):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    (tmp_path / "data" / WORK_NAME / "cy-en.txt.zip").mkdir(parents=True)
    with pytest.raises(ResourceError, match="Is a directory") as caught:
        fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert WORK_NAME in caught.value.hint


@pytest.mark.parametrize("name", ["massive", "uner"])
def test_a_web_page_instead_of_the_file_is_named(site, tmp_path, name):
    source = replace(SOURCES[name], address=f"{site.address}/")
    names = {"massive": ["cy-GB"], "uner": ["da"]}[name]
    for remote in source.remotes(names):
        site.files[remote.path] = b"<html>log in</html>"
    with pytest.raises(DataError, match="it is a web page"):
        fetch(source, names, tmp_path)


def test_the_hubs_address_can_be_another(site, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.address)
    source = SOURCES["wmt23"]
    path = source.address.removeprefix("https://huggingface.co/")
    site.files[f"{path}de-en/test-00000-of-00001.parquet"] = PARQUET
    fetch(source, ["de-en"], tmp_path)
    assert (tmp_path / "data" / "wmt" / "de-en.test.parquet").read_bytes() == PARQUET


@pytest.mark.parametrize(
    ("content", "told"),
    [(b" <!doctype html>", "a web page"), (b"", "empty"), (b"PAR1 rows", "incomplete or damaged")],
)
def test_what_is_no_parquet_file_is_neither_kept_nor_recorded(site, tmp_path, content, told):
    site.files["de-en/test-00000-of-00001.parquet"] = content
    with pytest.raises(DataError, match=f"not a Parquet file: it is {told}") as caught:
        fetch(at(site, "wmt23"), ["de-en"], tmp_path)
    assert site.address in caught.value.message
    assert "--mirror" in caught.value.hint
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == [".lock"]


def test_a_file_that_holds_two_directions_is_downloaded_once(site, tmp_path):
    site.files["en-cs/test-00000-of-00001-88c4a5c266ea101b.parquet"] = PARQUET
    report = fetch(at(site, "wmt23"), ["cs-en", "en-cs"], tmp_path)
    assert len(site.asked) == len(report.downloads) == 1
    assert [file.status for file in report.files] == ["written", "written"]
    names = sorted(path.name for path in (tmp_path / "data" / "wmt").iterdir())
    assert names == ["cs-en.test.parquet", "en-cs.test.parquet"]


def test_a_name_that_files_of_several_pairs_have_is_not_taken_for_one_of_them(tmp_path):
    copies = tmp_path / "copies"
    (copies / "he-en").mkdir(parents=True)
    for folder in (copies, copies / "he-en"):
        (folder / "test-00000-of-00001.parquet").write_bytes(PARQUET)
    fetch(SOURCES["wmt23"], ["he-en"], tmp_path, mirror=str(copies))
    with pytest.raises(ResourceError, match="no de-en/test-00000-of-00001"):
        fetch(SOURCES["wmt23"], ["de-en"], tmp_path, mirror=str(copies))


def test_a_folder_may_be_on_another_disk(site, tmp_path, monkeypatch):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tatoeba").symlink_to(disk)

    def within_a_disk(move):
        def moved(*ends, **options):
            if len({Path(end).resolve().is_relative_to(disk) for end in ends}) > 1:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return move(*ends, **options)

        return moved

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, within_a_disk(getattr(os, name)))
    fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert sorted(path.name for path in disk.iterdir()) == ["Tatoeba.cy-en.cy", "Tatoeba.cy-en.en"]


def test_a_full_disk_is_told_with_the_folder(site, tmp_path):
    site.files["cy-en.txt.zip"] = tatoeba_zip("cy-en", PAIRS)
    (tmp_path / "data" / WORK_NAME).mkdir(parents=True)
    (tmp_path / "data" / WORK_NAME / "cy-en.txt.zip").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=f"{tmp_path}/data: No space left") as caught:
        fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert "free some space" in caught.value.hint


@pytest.mark.parametrize("name", ["massive", "flores", "alma", "uner"])
def test_every_file_of_a_source_with_digests_has_one(name):
    source = SOURCES[name]
    remotes = source.remotes(source.default)
    kinds = {remote.digest.partition(":")[0] for remote in remotes}
    assert kinds == {"sha256"} if name in ("massive", "flores") else {"git"}
    assert len({remote.digest for remote in remotes}) == len(remotes)
    assert all(remote.size for remote in remotes) or kinds == {"git"}


def test_a_pair_of_alma_may_be_named_in_either_order():
    alma = SOURCES["alma"]
    assert alma.remotes(["en-de"]) == alma.remotes(["de-en"])
    assert len(alma.remotes(["en-de"])) == 4


def test_a_copy_that_is_larger_than_the_published_file_is_refused(tmp_path):
    copy = tmp_path / "amazon-massive-dataset-1.1.tar.gz"
    copy.write_bytes(massive_tar(("cy-GB",)) + b"more")
    size = copy.stat().st_size - 4
    known = replace(SOURCES["massive"].remotes(["cy-GB"])[0], size=size, digest="")
    source = replace(SOURCES["massive"], remotes=lambda names: [known])
    with pytest.raises(DataError, match=f"{size + 4:,} bytes, but the published file has {size:,}"):
        fetch(source, ["cy-GB"], tmp_path, mirror=str(copy))


def test_the_line_of_an_order_repeats_it(tmp_path):
    tatoeba, data = SOURCES["tatoeba"], tmp_path / "data"
    line = f"adaptermix data get tatoeba --pairs cy-en,sw-en -o {data}"
    assert order(tatoeba, ["cy-en", "sw-en"], tmp_path).line == line
    everything = order(tatoeba, tatoeba.default, tmp_path)
    assert everything.line == f"adaptermix data get tatoeba -o {data}"


def test_what_is_recorded_is_what_is_there(site, tmp_path):
    """Of the download and of each file; another source's entries stay."""
    content = tatoeba_zip("cy-en", PAIRS)
    site.files["cy-en.txt.zip"] = content
    site.files["flores200_dataset.tar.gz"] = flores_tar(("cym_Latn",))
    report = fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    fetch(at(site, "flores"), ["cym_Latn"], tmp_path)
    lock = json.loads((tmp_path / "data" / LOCK_NAME).read_text())
    address = f"{site.address}/cy-en.txt.zip"
    assert lock["downloads"][address] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "source": "tatoeba",
        "license": "CC BY 2.0 FR",
    }
    assert len(lock["downloads"]) == 2
    assert len(lock["files"]) == 4
    for code in ("cy", "en"):
        name = f"tatoeba/Tatoeba.cy-en.{code}"
        there = (tmp_path / "data" / name).read_bytes()
        digest = hashlib.sha256(there).hexdigest()
        assert lock["files"][name] == {"sha256": digest, "size": len(there), "from": address}
    (download,) = report.downloads
    assert (download.size, download.is_published) == (len(content), False)
    assert report.notes == list(SOURCES["tatoeba"].notes)
    work = [path.name for path in (tmp_path / "data" / WORK_NAME).iterdir()]
    assert work == [".lock"], "no download is left"
    (tmp_path / "data" / "tatoeba" / "Tatoeba.cy-en.cy").write_text("arall\n")
    again = fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert [file.status for file in again.files] == ["kept", "there"]


def test_a_compressed_file_is_there_too(site, tmp_path):
    folder = tmp_path / "data" / "tatoeba"
    folder.mkdir(parents=True)
    for code in ("cy", "en"):
        (folder / f"Tatoeba.cy-en.{code}.gz").write_bytes(gzip.compress(b"helo\n"))
    report = fetch(at(site, "tatoeba"), ["cy-en"], tmp_path)
    assert [file.status for file in report.files] == ["kept", "kept"]
    assert not site.asked


def test_the_view_counts_files_and_says_where_each_comes_from():
    def remote(status, size, digest, *, is_published=False, origin=""):
        address = f"https://here/{status}"
        return RemoteReport(address, origin or address, status, size, digest, is_published)

    report = GetReport(
        *("tatoeba", "Tatoeba, v1", "data/tatoeba", "https://page", "CC BY", "Somebody 2012"),
        [
            remote("downloaded", 12_345_678, "0123456789abcdef", is_published=True),
            remote("copied", 1_000, "", origin="copies/a"),
            remote("there", 999, "fedcba9876543210", is_published=True),
            remote("planned", None, ""),
        ],
        [FileReport(str(n), n, "", s) for n, s in enumerate(["written"] * 3 + ["there"] * 2)],
        ["a note"],
    )
    (_, *lines), remarks = report.view().shown, report.view().remarks
    assert lines == [
        "downloaded: https://here/downloaded (12.3 MB, sha256 0123456789ab, as published)",
        "copied: https://here/copied from copies/a (1.0 kB)",
        "is there: https://here/there (999 bytes, sha256 fedcba987654, published)",
        "to download: https://here/planned",
        "files: 3 written, 2 there",
        *("page: https://page", "license: CC BY", "cite: Somebody 2012"),
    ]
    assert remarks == ["note: a note"]


def test_every_source_is_complete():
    for source in SOURCES.values():
        remotes = source.remotes(source.default)
        assert remotes
        assert source.license
        assert source.citation
        locals_ = [member.local for remote in remotes for member in remote.members]
        assert len(set(locals_)) == len(locals_)
        assert all(isinstance(member, Member) for r in remotes for member in r.members)
        assert all(isinstance(remote, Remote) for remote in remotes)


def test_the_password_of_a_mirror_is_sent_to_it_and_shown_nowhere(site, tmp_path):
    site.files = {"x/cy-en.txt.zip": tatoeba_zip("cy-en", PAIRS)}
    mirror = site.address.replace("//", "//me:pass%21word@") + "/x/"
    report = fetch(SOURCES["tatoeba"], ["cy-en"], tmp_path, mirror=mirror)
    assert report.downloads[0].taken_from == f"{site.address}/x/cy-en.txt.zip"
    assert b64decode(site.accounts[0].removeprefix("Basic ")) == b"me:pass!word"
    with pytest.raises(ResourceError) as caught:
        fetch(SOURCES["tatoeba"], ["sw-en"], tmp_path, mirror=mirror)
    assert "word" not in f"{caught.value.message} {caught.value.hint}".replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "address", ["http://here:port", "http://here:99999", "http://a b", "http://h?q", "http://[::1"]
)
def test_what_is_no_address_is_refused_before_anything_is_asked(tmp_path, monkeypatch, address):
    with pytest.raises(ConfigError, match="expected a folder, a file, or an http"):
        fetch(SOURCES["tatoeba"], ["cy-en"], tmp_path, mirror=address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        fetch(SOURCES["wmt23"], ["en-de"], tmp_path)


def test_the_hubs_token_goes_to_the_hub_only(site, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ResourceError) as caught:
        fetch(SOURCES["wmt23"], ["en-de"], tmp_path)
    assert site.accounts[-1] == "Bearer hf_secret"
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    mirror = f"{site.address}/datasets/me/copy"  # a private data set
    for place, account in (
        (mirror, "Bearer hf_secret"),
        (mirror.replace("127.0.0.1", "localhost"), ""),
    ):
        with pytest.raises(ResourceError):
            fetch(at(site, "tatoeba"), ["cy-en"], tmp_path, mirror=place)
        assert site.accounts[-1] == account
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.address[:-1])  # another port
    with pytest.raises(ResourceError):
        fetch(at(site, "tatoeba"), ["cy-en"], tmp_path, mirror=mirror)
    assert site.accounts[-1] == "", "the address of the mirror only begins like the Hub's"
