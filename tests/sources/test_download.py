"""Downloads over real connections that break, stall and change."""

import gzip
import random
from dataclasses import replace

import pytest
from helpers.server import served

from adaptermix.errors import DataError, ResourceError
from adaptermix.sources.download import Download, MissingUpstreamError, Patience, download

CONTENT = random.Random(0).randbytes(400_000)
QUICK = Patience(seconds=0.5, tries=3, pause=0.01)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with served({"data/a.bin": CONTENT}) as site:
        yield site


def wanted(site, tmp_path, name="data/a.bin", limit=10**6):
    hint = "name a copy: --mirror"
    return Download(f"{site.address}/{name}", tmp_path / "a.bin", limit, hint=hint)


def fetch(wanted, patience=QUICK):
    seen = []
    download(wanted, lambda done, total: seen.append((done, total)), patience)
    return seen


def test_a_file_comes_whole_and_tells_how_far_it_is(site, tmp_path):
    seen = fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_cut_connection_is_taken_up_where_it_broke(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, 100_000]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    starts = [int(span.removeprefix("bytes=").rstrip("-") or 0) for _, span in site.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]


def test_a_later_run_goes_on_and_a_content_that_changed_starts_again(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, "http 503", "http 503"]
    with pytest.raises(ResourceError, match="HTTP 503") as caught:
        fetch(wanted(site, tmp_path), Patience(0.5, 2, 0.01))
    assert "continue where it stopped" in caught.value.hint
    assert 0 < (tmp_path / "a.bin").stat().st_size <= 150_000
    site.asked.clear()
    other = CONTENT[::-1]
    site.files["data/a.bin"] = other
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == other
    assert site.asked[0][1].startswith("bytes=")


def test_a_server_without_ranges_sends_all_again(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, "no ranges"]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_only_a_weak_tag_describes_is_not_gone_on_with(site, tmp_path):
    site.troubles["data/a.bin"] = [("weak", 150_000)]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [span for _, span in site.asked] == ["", ""]


def test_what_is_left_of_a_smaller_file_is_thrown_away(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, "http 503", "http 503", "http 503"]
    with pytest.raises(ResourceError):
        fetch(wanted(site, tmp_path))
    whole = CONTENT + b"more"
    (tmp_path / "a.bin").write_bytes(whole)  # longer than the server has: HTTP 416
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("troubles", [[("part", 1000)], [150_000, ("part", 1000), ("part", 1)]])
def test_a_part_of_what_was_asked_for_is_not_the_end(site, tmp_path, troubles):
    site.troubles["data/a.bin"] = troubles
    seen = fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert {total for _, total in seen} == {len(CONTENT)}


def test_bytes_without_a_note_of_their_origin_are_not_gone_on_with(site, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"something else")
    site.troubles["data/a.bin"] = [("part", 1000)]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_compressed_answer_is_decompressed(site, tmp_path):
    site.troubles["data/a.bin"] = ["gzip"]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_compressed_answer_is_not_gone_on_with(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, "gzip"]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_compressed_file_is_not_decompressed(site, tmp_path):
    site.files["a.tar.gz"] = gzip.compress(CONTENT)
    site.troubles["a.tar.gz"] = ["gzip file"]
    fetch(wanted(site, tmp_path, "a.tar.gz"))
    assert (tmp_path / "a.bin").read_bytes() == gzip.compress(CONTENT)


def test_a_connection_may_break_more_often_than_there_are_tries_if_it_gets_on(site, tmp_path):
    site.troubles["data/a.bin"] = [60_000] * 5
    fetch(wanted(site, tmp_path), Patience(0.5, 2, 0.01))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(site.asked) == 6


def test_every_wait_is_twice_the_one_before(site, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("adaptermix.sources.download.time.sleep", waits.append)
    site.troubles["data/a.bin"] = ["http 503"] * 4
    fetch(wanted(site, tmp_path), Patience(0.5, 5, 0.25))
    assert waits == [0.25, 0.5, 1.0, 2.0]


def test_what_is_left_of_another_address_is_not_gone_on_with(site, tmp_path):
    site.troubles["data/a.bin"] = [150_000, "http 418"]
    with pytest.raises(ResourceError):
        fetch(wanted(site, tmp_path))
    site.files["data/b.bin"] = CONTENT
    site.asked.clear()
    fetch(wanted(site, tmp_path, "data/b.bin"))
    assert site.asked == [("data/b.bin", "")]


def test_a_server_may_say_how_long_to_wait(site, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("adaptermix.sources.download.time.sleep", waits.append)
    site.troubles["data/a.bin"] = ["http 429 7", "http 503 86400"]
    fetch(wanted(site, tmp_path))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert waits == [7, 60]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HTTP_PROXY", "ftp://here", "proxy"),
        ("SSL_CERT_FILE", "/not/there", "No such file"),
    ],
)
def test_settings_that_prevent_the_request_are_told(site, tmp_path, monkeypatch, name, value, told):
    from huggingface_hub import close_session

    close_session()  # it keeps its settings
    monkeypatch.setenv(name, value)
    try:
        with pytest.raises(ResourceError, match=f"the request cannot be sent: .*{told}") as caught:
            fetch(wanted(site, tmp_path))
    finally:
        close_session()
    assert name in caught.value.hint


def test_a_token_that_no_header_can_hold_is_told_and_not_shown(site, tmp_path):
    headers = {"Authorization": "Bearer ключ"}
    with pytest.raises(ResourceError, match="the request cannot be sent") as caught:
        fetch(replace(wanted(site, tmp_path), headers=headers))
    assert "ключ" not in str(caught.value)
    assert "HF_TOKEN" in caught.value.hint


def test_a_server_that_stalls_is_given_up(site, tmp_path):
    site.troubles["data/a.bin"] = ["silence"] * 9
    with pytest.raises(ResourceError, match=r"no answer within 0\.2 s"):
        fetch(wanted(site, tmp_path), Patience(0.2, 2, 0.01))


def test_a_stall_that_ends_loses_nothing(site, tmp_path):
    site.troubles["data/a.bin"] = ["stall", "stall"]
    fetch(wanted(site, tmp_path), Patience(0.2, 2, 0.01))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (404, MissingUpstreamError, "no such file"),
        (410, MissingUpstreamError, "no such file"),
        (403, ResourceError, "denied access"),
        (401, ResourceError, "denied access"),
        (418, ResourceError, "HTTP 418"),
        (500, ResourceError, "HTTP 500"),
    ],
)
def test_refusals_name_the_address_and_the_way_on(site, tmp_path, status, kind, told):
    site.troubles["data/a.bin"] = [f"http {status}"] * 3
    with pytest.raises(kind, match=told) as caught:
        fetch(wanted(site, tmp_path))
    assert caught.value.message.startswith(f"{site.address}/data/a.bin: ")
    assert "--mirror" in caught.value.hint
    assert caught.value.exit_code == 6
    assert len(site.asked) == (3 if status == 500 else 1)


def test_a_file_that_is_too_large_is_not_taken(site, tmp_path):
    with pytest.raises(DataError, match="larger than the expected 399,999 bytes"):
        fetch(wanted(site, tmp_path, limit=len(CONTENT) - 1))
    assert not (tmp_path / "a.bin").exists()


def test_a_file_that_is_said_to_be_too_large_is_not_begun(site, tmp_path):
    seen = []
    small = wanted(site, tmp_path, limit=len(CONTENT) - 1)
    with pytest.raises(DataError, match="larger than the expected"):
        download(small, lambda *progress: seen.append(progress), QUICK)
    assert not seen


def test_a_file_that_only_turns_out_to_be_too_large_is_not_taken_either(site, tmp_path):
    """The size of a compressed answer is not that of the file."""
    site.files["data/a.bin"] = b"0" * 400_000
    site.troubles["data/a.bin"] = ["gzip"]
    with pytest.raises(DataError, match="larger than the expected 100,000 bytes"):
        fetch(wanted(site, tmp_path, limit=100_000))
    assert not (tmp_path / "a.bin").exists()


def test_no_server_is_told_on_one_line(site, tmp_path):
    away = Download("http://127.0.0.1:9/a", tmp_path / "a", 10, hint="name a copy")
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:9/a: the server cannot be reached"):
        fetch(away, Patience(0.5, 1, 0.01))


def test_offline_mode_asks_nobody(site, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        fetch(wanted(site, tmp_path))
    assert not site.asked
