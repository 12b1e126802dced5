"""What a server is asked before the first prompt, and what stops a command."""

import subprocess
import sys
import time
from email.utils import formatdate

import pytest
from helpers.completions import completions_server
from helpers.evaluation import eval_settings
from pydantic import ValidationError

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.generation import server_client, server_http
from adaptermix.generation.server_client import look_at_servers, pause, shared_folder
from adaptermix.generation.server_http import BusyError

SECRET = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in server_http.KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server_client, "PAUSE", 0.01)


def settings(*urls, model="base", **changes):
    return eval_settings(model, "data", "out", engine="auto", server=urls, **changes)


def look(*sites, has_adapters=False, **changes):
    found = settings(*(site.url for site in sites), **changes)
    return look_at_servers(found, has_adapters=has_adapters)


def test_a_server_says_what_it_is():
    with completions_server(root="/models/base") as site:
        (served,) = look(site)
        assert str(served) == f"{site.url} (vllm 9.9, model base)"
        assert (served.root, served.context, served.started) == ("/models/base", 512, "17.5")
        assert served.loads_adapters
        assert look(site, model="/models/base")[0].model == "base"
        assert look(site, model="other", server_model="base")[0].model == "base"
        assert site.events == []


def test_an_adapter_on_a_server_is_no_base_model():
    with completions_server(adapters={"other": "/there"}) as site:
        for changes in ({"model": "other"}, {"server_model": "other"}):
            with pytest.raises(ArtifactError, match="serves the model base, not other"):
                look(site, **changes)
        assert look(site)[0].model == "base"


def test_the_model_is_known_by_its_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with completions_server(model="served", root=str(tmp_path / "model")) as site:
        assert look(site, model=str(tmp_path / "link"))[0].model == "served"


@pytest.mark.parametrize("changes", [{"model": "other"}, {"server_model": "other"}])
def test_another_model_is_refused(changes):
    with completions_server() as site, pytest.raises(ArtifactError, match="base, not other") as e:
        look(site, **changes)
    assert "--server-model" in e.value.hint


@pytest.mark.parametrize(
    ("what", "hint"),
    [
        ({"loads": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ({"software": "x"}, "a vLLM server"),
    ],
)
def test_a_server_without_adapters_is_named(what, hint):
    with completions_server(**what) as site:
        assert not look(site)[0].loads_adapters
        with pytest.raises(ResourceError, match=f"{site.url} .* cannot load adapters") as error:
            look(site, has_adapters=True)
    assert hint in error.value.hint


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch):
    with completions_server(key=SECRET) as site:
        with pytest.raises(ResourceError, match="requires a key") as error:
            look(site)
        assert "ADAPTERMIX_SERVER_KEY" in error.value.hint
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-one")
        with pytest.raises(ResourceError, match="rejected the key in OPENAI_API_KEY") as error:
            look(site)
        assert "wrong-one" not in str(error.value) + error.value.hint
        monkeypatch.setenv("ADAPTERMIX_SERVER_KEY", SECRET)
        assert look(site)
        site.page = (503, {}, f'{{"error": {{"message": "{SECRET} is over its limit"}}}}')
        with pytest.raises(ResourceError, match=r"HTTP 503: \*\*\* is over") as error:
            look(site)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ((404, {}, "{}"), "no OpenAI API at this address .*HTTP 404"),
        ((200, {}, "<html>"), "no OpenAI API at this address .*HTTP 200"),
        ((200, {}, '{"data": []}'), "no OpenAI API at this address"),
        ((200, {}, '{"data": ["base"]}'), "no OpenAI API at this address"),
        ((200, {}, '{"data": [{"id": null}]}'), "no OpenAI API at this address"),
        ((307, {"Location": "http://elsewhere"}, ""), "redirects to http://elsewhere"),
    ],
)
def test_an_address_without_the_api_is_refused(page, complaint):
    with completions_server(page=page) as site, pytest.raises(ConfigError, match=complaint):
        look(site)


def test_a_server_that_is_not_there_is_named_at_once():
    with completions_server() as site, completions_server() as gone:
        pass
    with pytest.raises(ResourceError, match="cannot connect: Connection refused") as error:
        look(site, gone)
    assert "running" in error.value.hint


def test_a_busy_server_is_waited_for(monkeypatch):
    waits = []
    with completions_server(page=(429, {"Retry-After": "7"}, "")) as site:

        async def sleep(seconds):
            waits.append(seconds)
            site.page = None

        monkeypatch.setattr(server_client.asyncio, "sleep", sleep)
        assert look(site)
    assert waits == [7.0]


def test_a_server_that_asks_for_a_long_wait_is_not_waited_for():
    page = (503, {"Retry-After": "86400"}, "")
    complaint = pytest.raises(ResourceError, match="asks for a wait of 86,400 s")
    with completions_server(page=page) as site, complaint:
        look(site)


@pytest.mark.parametrize(
    "page", [(401, {}, ""), (403, {}, ""), (302, {"Location": "http://login"}, "")]
)
def test_pages_beside_the_api_may_be_closed(page):
    """A gateway in front of vLLM lets its metrics, version and adapters not through."""
    closed = dict.fromkeys(("/metrics", "/version", "/load_lora_adapter"), page)
    with completions_server(pages=closed) as site:
        (served,) = look(site)
        assert (served.software, served.started) == ("vllm of unknown version", "")
        with pytest.raises(ResourceError, match="cannot load adapters"):
            look(site, has_adapters=True)


def test_waits_double_unless_the_server_says_how_long():
    assert [pause(BusyError(""), n) for n in (1, 2, 3)] == [0.01, 0.02, 0.04]
    assert pause(BusyError("", 30.0), 5) == 30.0
    date = formatdate(time.time() + 100, usegmt=True)
    assert 98 < server_http._wait({"Retry-After": date}) <= 100
    assert server_http._wait({}) is None
    assert server_http._wait({"Retry-After": "soon"}) is None


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("https://h/", "https://h/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("https://h/api/v1", "https://h/api/v1"),
    ],
)
def test_addresses_are_completed(url, read):
    assert settings(url).server == (read,)
    assert settings(url, "http://b").server == (read, "http://b/v1")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h:0",
        "http://h?key=1",
        "http://h#a",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValidationError, match="server"):
        settings(url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ValidationError, match="ADAPTERMIX_SERVER_KEY") as error:
        settings(f"ftp://me:{SECRET}@host")
    assert SECRET not in error.value.errors()[0]["msg"]
    with pytest.raises(ValidationError, match="listed twice"):
        settings("http://h", "http://h/v1")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"engine": "vllm"}, "--engine vllm"), ({"engine_args": "seed=1"}, "--engine-args")],
)
def test_servers_and_an_engine_of_ones_own_exclude_each_other(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        eval_settings("m", "d", "o", **{"engine": "auto", "server": "http://h", **changes})


def test_the_shared_folder_may_have_another_path_on_the_servers(tmp_path):
    folder = str(tmp_path)
    assert shared_folder(settings("http://h")) == (None, None)
    assert shared_folder(settings("http://h", server_folder=folder)) == (tmp_path, folder)
    both = settings("http://h", server_folder=f"{folder}=/there")
    assert shared_folder(both) == (tmp_path, "/there")
    with pytest.raises(ConfigError, match="--server-folder .*no such folder"):
        look_at_servers(settings("http://h", server_folder="/no/where"), has_adapters=False)


def test_the_client_imports_no_torch():
    code = (
        "import sys, adaptermix.generation.server_engine, adaptermix.generation.cached; "
        "print([name for name in ('torch', 'transformers', 'vllm', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
