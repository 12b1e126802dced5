"""The hub path, against a small server that answers as the hub does."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pyarrow
import pytest
from helpers.adapters import adapter_files, peft_adapter
from pyarrow import parquet
from typer.testing import CliRunner

from adaptermix.adapters.adapter import locate_adapter
from adaptermix.adapters.format import CONFIG_FILE, WEIGHTS_FILE
from adaptermix.cli.main import program
from adaptermix.errors import ArtifactError
from adaptermix.files.hub import HubPlace, hub_place
from adaptermix.models.files import fingerprint, locate_model
from adaptermix.settings.locations import from_folder
from adaptermix.settings.shared import ModelSettings

app = program()

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves ``files``: {(kind, repository): {path: bytes}}."""

    protocol_version = "HTTP/1.1"
    files: dict = {}
    asked: list = []

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        self.asked.append(path)
        for (kind, repository), files in self.files.items():
            if path.startswith(f"/api/{kind}/{repository}"):
                return self.answer_api(path, repository, files)
            prefix = "/datasets/" if kind == "datasets" else "/"
            start = f"{prefix}{repository}/resolve/"
            if path.startswith(start):
                name = next((n for n in files if path.endswith("/" + n)), None)
                if name:
                    return self.answer(files[name], "application/octet-stream")
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_api(self, path, repository, files):
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()
            ]
            return self.answer(json.dumps(entries).encode(), "application/json")
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
        return self.answer(json.dumps(info).encode(), "application/json")

    def answer(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def table(**columns):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


def massive(count):
    return table(
        id=[str(n) for n in range(count)],
        partition=[1] * count,  # a class number in the hub's copy
        utt=[f"at {n}" for n in range(count)],
        annot_utt=[f"at [time : {n}]" for n in range(count)],
    )


@pytest.fixture
def hub(model_dir, tmp_path):
    adapter = adapter_files(tmp_path / "for-the-hub")
    pickle = {"adapter_model.bin": b"a pickle", "optimizer.pt": b"another"}
    unread = {
        name: b"not read"
        for name in (
            *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.gguf"),
            *("original/consolidated.00.pth", "onnx/model.onnx", "training_args.bin"),
            *("original/model.safetensors", "consolidated.safetensors"),
        )
    }
    Hub.files = {
        ("datasets", "AmazonScience/massive"): {
            "en-US/train/0000.parquet": massive(3),
            "en-US/validation/0000.parquet": massive(2),
            "cy-GB/massive-test.parquet": massive(4),
        },
        ("models", "somebody/tiny"): {
            path.name: path.read_bytes() for path in model_dir.iterdir() if path.is_file()
        }
        | unread
        | adapter,  # transformers would add it to the model
        ("models", "somebody/model"): {"config.json": b"{}"},
        ("models", "somebody/lora"): adapter | pickle,
        ("models", "somebody/runs"): {
            f"checkpoint-2/{name}": content for name, content in adapter.items()
        },
        ("models", "somebody/pickle"): pickle | {CONFIG_FILE: adapter[CONFIG_FILE]},
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def through_the_hub(code, endpoint, cache):
    """Run code in a process of its own: huggingface_hub reads its endpoint when imported."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_massive_comes_from_the_hubs_parquet_copy_in_both_layouts(hub, tmp_path):
    code = (
        "from adaptermix.tasks.massive import read_massive as read\n"
        "print(len(read('en', 'train', None)), len(read('en', 'dev', None)), "
        "len(read('cy', 'test', None)), read('cy', 'test', None)[3].annotated)"
    )
    assert through_the_hub(code, hub, tmp_path) == "3 2 4 at [time : 3]"


def test_a_model_comes_from_the_hub(hub, tmp_path, model_dir):
    code = (
        "from adaptermix.settings.shared import ModelSettings as S\n"
        "from adaptermix.models.files import fingerprint, locate_model\n"
        "print(fingerprint(locate_model(S(model='somebody/tiny'))))"
    )
    from adaptermix.models.files import fingerprint

    assert through_the_hub(code, hub, tmp_path) == fingerprint(model_dir)


def test_of_a_model_only_what_is_read_is_fetched(hub, tmp_path, model_dir):
    code = (
        "from adaptermix.settings.shared import ModelSettings as S\n"
        "from adaptermix.models.files import locate_model\n"
        "folder = locate_model(S(model='somebody/tiny'))\n"
        "print(*sorted(str(path.relative_to(folder)) for path in folder.rglob('*.*')))"
    )
    fetched = through_the_hub(code, hub, tmp_path).split()
    assert fetched == sorted(path.name for path in model_dir.iterdir())


@pytest.mark.slow
def test_a_model_is_of_the_revision_that_was_asked_for(hub, tmp_path):
    """As a training is typed: what stands in --revision is what the hub hears."""
    code = (
        "from adaptermix.cli.main import program\n"
        "for given in ([], ['--revision', 'v2'], ['--revision', 'refs/pr/1']):\n"
        "    program()(['train-task', '--model', 'somebody/tiny', *given, '--langs', 'en', "
        "'--system-prompt', '', '--dry-run', '--json'], standalone_mode=False)\n"
        "    print('---')"
    )
    Hub.asked.clear()
    plans = through_the_hub(code, hub, tmp_path).split("---")[:3]
    assert [json.loads(plan)["examples"] for plan in plans] == [{"en": 3}] * 3
    models = [path for path in Hub.asked if path.startswith("/api/models/somebody/tiny")]
    asked = [path.partition("/revision/")[2] for path in models if "/tree/" not in path]
    assert list(dict.fromkeys(asked)) == ["main", "v2", "refs/pr/1"]


def test_what_the_hub_lacks_is_said(hub, tmp_path):
    expected = {
        "read_massive('sw', 'test', None)": "has no test split of 'sw-KE'",
        "locate_model(S(model='nobody/nothing'))": "could not be downloaded from the Hub",
        "locate_model(S(model='no such//name'))": "neither a local folder nor a name on the Hub",
    }
    code = (
        "from adaptermix.settings.shared import ModelSettings as S\n"
        "from adaptermix.tasks.massive import read_massive\n"
        "from adaptermix.data.pairs import read_pairs\n"
        "from adaptermix.errors import AdaptermixError\n"
        "from adaptermix.models.files import locate_model\n"
        + "".join(
            f"try: {call}\nexcept AdaptermixError as error: print(error.message)\n"
            for call in expected
        )
    )
    messages = through_the_hub(code, hub, tmp_path).splitlines()
    for message, words in zip(messages, expected.values(), strict=True):
        assert words in message


@pytest.mark.slow
def test_an_unreachable_hub_is_said_with_the_two_ways_on(tmp_path):
    code = (
        "import time\n"
        "time.sleep = lambda seconds: None  # between the hub library's attempts\n"
        "from adaptermix.tasks.massive import read_massive\n"
        "from adaptermix.errors import ResourceError\n"
        "try: read_massive('cy', 'test', None)\n"
        "except ResourceError as error: print(error.message, error.hint)"
    )
    said = through_the_hub(code, "http://127.0.0.1:9", tmp_path)
    assert "AmazonScience/massive could not be downloaded from the Hub" in said
    assert "--model PATH --data-dir PATH" in said


@pytest.mark.slow
def test_an_adapter_comes_from_the_hub_without_its_pickles(hub, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from adaptermix.adapters.adapter import locate_adapter, read_adapter\n"
        "adapter = read_adapter(Path('somebody/lora'))\n"
        "print(adapter.path, *adapter.modules, *sorted(p.name for p in "
        "locate_adapter(adapter.path).iterdir()))"
    )
    assert through_the_hub(code, hub, tmp_path).split() == [
        "somebody/lora",
        "model.layers.0.self_attn.q_proj",
        CONFIG_FILE,
        WEIGHTS_FILE,
    ]
    # Once there, it is found without the hub.
    assert "somebody/lora" in through_the_hub(code, "http://127.0.0.1:9", tmp_path)


@pytest.mark.slow
def test_hub_adapters_are_inspected_merged_and_named_by_their_repository(hub, tmp_path):
    code = (
        "import os\n"
        "from pathlib import Path\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "from adaptermix import InspectSettings, MergeSettings\n"
        "from adaptermix.adapters.systems import read_systems\n"
        "from adaptermix.adapters.inspection import inspect\n"
        "from adaptermix.merging.merge import merge\n"
        "lora = Path('somebody/lora')\n"
        "merge([lora, lora], MergeSettings(weights=(1, 1), out=Path('merged')))\n"
        "report = inspect([lora, Path('merged')], InspectSettings())\n"
        "names = read_systems([lora])\n"
        "print(report.adapters[0].path, report.total.norms, *names)\n"
        "print(report.adapters[1].record['sources'][0]['path'])"
    )
    norm = 24**0.5  # 4 x 6 ones
    first, second = through_the_hub(code, hub, tmp_path).splitlines()
    assert first == f"somebody/lora [{norm}, {2 * norm}] lora"
    assert second == "somebody/lora"


@pytest.mark.slow
def test_revisions_folders_and_addresses_on_the_hub_are_understood(hub, tmp_path):
    names = {
        "somebody/lora@v2": "somebody/lora@v2",
        "somebody/lora@refs/pr/1": "somebody/lora@refs/pr/1",
        "somebody/runs/checkpoint-2": "somebody/runs/checkpoint-2",
        "https://huggingface.co/somebody/lora": "somebody/lora",
        "https://huggingface.co/somebody/runs/tree/v3/checkpoint-2/": (
            "somebody/runs/checkpoint-2@v3"
        ),
    }
    Hub.asked.clear()
    code = (
        "from pathlib import Path\n"
        "from adaptermix.adapters.adapter import read_adapter\n"
        f"for name in {list(names)}:\n"
        "    print(*read_adapter(Path(name)).modules, read_adapter(Path(name)).path)"
    )
    lines = through_the_hub(code, hub, tmp_path).splitlines()
    module = "model.layers.0.self_attn.q_proj"
    assert lines == [f"{module} {name}" for name in names.values()]
    for revision in ("v2", "v3", "refs/pr/1"):
        assert any(path.endswith(f"/revision/{revision}") for path in Hub.asked)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a/b", HubPlace("a/b")),
        ("a/b@main", HubPlace("a/b", "", "main")),
        ("a/b/c/d@v1", HubPlace("a/b", "c/d", "v1")),
        ("http://hf.co/a/b/tree/refs%2Fpr%2F3", HubPlace("a/b", "", "refs/pr/3")),
        ("https:/huggingface.co/a/b/tree/main/c?x=1", HubPlace("a/b", "c", "main")),
        ("here/b/c", None),
        ("here/b", None),
        ("here/b@main", HubPlace("here/b", "", "main")),
        ("https://hf.co/here/b", HubPlace("here/b")),
        ("a/b/c.safetensors", None),
        ("a", None),
        ("../a/b", None),
        ("/a/b", None),
        ("https://example.org/a/b", None),
    ],
)
def test_what_names_a_place_on_the_hub(tmp_path, text, place):
    (tmp_path / "here").mkdir()
    assert hub_place(text, tmp_path) == place
    if place is not None and not text.endswith("here/b"):
        assert hub_place(str(place), tmp_path) == place


@pytest.mark.parametrize(
    "command",
    [
        "merge {} task.safetensors --weight 0.5 -o m",
        "inspect {}",
        "eval --model base --data-dir corpus --langs en --adapter {} -o e",
        "retrieval --model base --data-dir corpus --adapter {} -o r",
        "train-task --model base --data-dir corpus --on {} -o t",
    ],
)
@pytest.mark.parametrize("name", ["runs/adapter", "./out/adapter", "./adapter", "runs/a/b"])
def test_the_hub_is_not_asked_for_a_path_that_is_not_here(
    tmp_path, monkeypatch, model_dir, corpus_dir, name, command
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "base").symlink_to(model_dir)
    (tmp_path / "corpus").symlink_to(corpus_dir)
    peft_adapter(model_dir, tmp_path / "task.safetensors")
    done = CliRunner().invoke(app, command.format(name).split())
    assert isinstance(done.exception, ArtifactError), done.output
    assert f"{name.removeprefix('./')}" in done.exception.message
    assert "no such file" in done.exception.message
    hinted = (
        "the folder runs exists, so this is used as a path; for the Hub, use: runs/adapter@main"
    )
    assert (done.exception.hint == hinted) == (name == "runs/adapter")


@pytest.mark.parametrize("name", ["runs/base", "./out/base", "../base", "/no/base"])
def test_the_hub_is_not_asked_for_a_model_that_reads_as_a_path(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ArtifactError, match="no such folder") as raised:
        locate_model(ModelSettings(model=name))
    assert ("--revision main" in raised.value.hint) == (name == "runs/base")


@pytest.mark.slow
def test_a_model_whose_owner_is_a_folder_here_comes_from_the_hub_with_a_revision(
    hub, tmp_path, model_dir
):
    code = (
        f"import os; os.chdir({str(tmp_path)!r}); os.mkdir('somebody')\n"
        "from adaptermix.models.files import locate_model, fingerprint\n"
        "from adaptermix.settings.shared import ModelSettings as S\n"
        "print(fingerprint(locate_model(S(model='somebody/tiny', revision='main'))))"
    )
    assert through_the_hub(code, hub, tmp_path) == fingerprint(model_dir)


def test_places_on_the_hub_stay_what_they_are_in_files_with_settings(tmp_path):
    (tmp_path / "here").mkdir()
    names = ["a/b/c@v1", "https://hf.co/a/b", "here/b/c"]
    read = [*names[:2], str(tmp_path / "here/b/c")]
    assert from_folder(tmp_path, "adapters", names) == read


@pytest.mark.slow
def test_what_is_neither_here_nor_on_the_hub_is_said(hub, tmp_path):
    expected = {
        "nobody/nothing": "no such file or folder, and no adapter of that name could be",
        "somebody/pickle": "the Hub repository has no adapter_model.safetensors",
        "somebody/model": "the Hub repository has no adapter_config.json",
        "runs/task.safetensors": "runs/task.safetensors: no such file",
        "../task": "../task: no such file",
        "a/b/c": "a/b/c: no such file",
        "task": "task: no such file",
        "no/na--me": "no/na--me: no such file",
    }
    code = (
        "from pathlib import Path\n"
        "from adaptermix.adapters.adapter import read_adapter\n"
        "from adaptermix.errors import AdaptermixError\n"
        f"for name in {list(expected)}:\n"
        "    try: read_adapter(Path(name))\n"
        "    except AdaptermixError as error: print(error.message)"
    )
    messages = through_the_hub(code, hub, tmp_path).splitlines()
    for message, words in zip(messages, expected.values(), strict=True):
        assert words in message


def test_a_folder_that_is_here_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    adapter_files(tmp_path / "somebody" / "lora")
    monkeypatch.chdir(tmp_path)
    assert locate_adapter(Path("somebody/lora")) == Path("somebody/lora")
