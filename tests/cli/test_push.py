"""Uploads to the Hub, against a small server that takes them as the Hub does."""

import base64
import http.server
import json
import threading

import pytest
from helpers.adapters import adapter_files
from typer.testing import CliRunner

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import CONFIG_FILE, WEIGHTS_FILE
from adaptermix.cli.main import program
from adaptermix.cli.push import check_push, push
from adaptermix.errors import ConfigError, ResourceError

app = program()

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Uploads(http.server.BaseHTTPRequestHandler):
    """Takes what huggingface_hub sends to make a repository and to commit files to it.

    The calls of its HTTP interface, as huggingface_hub 1.x makes them with Xet off: repos/create,
    validate-yaml, preupload, Git LFS's batch interface with one upload, and the commit itself in
    lines of JSON.
    """

    protocol_version = "HTTP/1.1"
    asked: list
    files: dict
    refused: int

    def log_message(self, *arguments):
        pass

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.files[self.path.removeprefix("/lfs/")] = body
        self.answer({})

    def do_GET(self):
        self.answer({"error": "nothing here"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"]))
        host = f"http://{self.headers['Host']}"
        if self.refused:
            return self.answer({"error": "you may not write here"}, self.refused)
        if self.path == "/api/repos/create":
            self.repository = json.loads(body)
            type(self).made = self.repository
            return self.answer({"url": f"{host}/somebody/new"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            plan = zip(names, modes, strict=True)
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in plan]
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{host}/lfs/{item['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        self.commit(map(json.loads, body.splitlines()))
        self.answer(
            {
                "success": True,
                "commitOid": COMMIT,
                "commitUrl": f"{host}/somebody/new/commit/{COMMIT}",
            }
        )

    def commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.files.pop(value["oid"])

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("X-Error-Message", content["error"])
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def uploads(monkeypatch):
    Uploads.asked, Uploads.files, Uploads.refused = [], {}, 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Uploads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    yield Uploads
    server.shutdown()


def use_hub(monkeypatch, endpoint):
    """Set what huggingface_hub read from the environment when it was imported."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hf_api.constants, "ENDPOINT", endpoint)


def merge_in(folder, *more):
    return CliRunner().invoke(
        app,
        ["merge", str(folder / "one"), str(folder / "one"), "--weights", "1,2", *map(str, more)],
    )


@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
def test_a_merge_is_pushed_as_the_two_files_that_peft_reads(uploads, tmp_path, name):
    adapter_files(tmp_path / "one")
    out = tmp_path / name
    done = merge_in(tmp_path, "-o", out, "--push-to-hub", "somebody/new", "--private", "--json")
    assert done.exit_code == 0, done.exception
    assert (uploads.made["organization"], uploads.made["name"]) == ("somebody", "new")
    assert uploads.made["visibility"] == "private"
    assert {CONFIG_FILE, WEIGHTS_FILE} <= uploads.files.keys()
    assert {token for _, token in uploads.asked} == {"Bearer hf_ours"}
    assert json.loads(done.stdout)["out"] == str(out)
    assert "somebody/new" in done.stderr
    there = tmp_path / "there"
    there.mkdir()
    for path, content in uploads.files.items():
        (there / path).write_bytes(content)
    pushed, local = read_adapter(there), read_adapter(out)
    assert pushed.record == local.record
    assert "1 x one + 2 x one" in (there / "README.md").read_text()
    for module, update in local.updates():
        assert (update.delta_weight() == pushed.update(module).delta_weight()).all()


def test_a_card_that_a_person_wrote_beside_a_file_is_pushed_with_it(uploads, tmp_path):
    adapter_files(tmp_path / "one")
    assert merge_in(tmp_path, "-o", tmp_path / "m.safetensors").exit_code == 0
    (tmp_path / "m.README.md").write_text("# Mine")
    push(tmp_path / "m.safetensors", "somebody/new")
    assert uploads.files["README.md"] == b"# Mine"


def test_everything_in_a_folder_is_pushed(uploads, tmp_path):
    adapter_files(tmp_path / "one")
    (tmp_path / "one" / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    push(tmp_path / "one", "somebody/new")
    assert uploads.files.keys() == {path.name for path in (tmp_path / "one").iterdir()}
    assert b"# A card" in uploads.files["README.md"]
    assert "visibility" not in uploads.made


def test_a_push_that_cannot_succeed_is_refused_before_the_work(uploads, tmp_path, monkeypatch):
    adapter_files(tmp_path / "one")
    out = tmp_path / "merged"
    for name, words in (("no name", "somebody"), ("new", "OWNER/NAME"), ("a/b/c", "a/b/c")):
        with pytest.raises(ConfigError, match=words if name != "no name" else "no name"):
            check_push(name)
    private = merge_in(tmp_path, "-o", out, "--private")
    assert "--private needs --push-to-hub" in private.exception.message
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    without_token = merge_in(tmp_path, "-o", out, "--push-to-hub", "somebody/new")
    assert isinstance(without_token.exception, ResourceError)
    assert "no Hub token was found" in without_token.exception.message
    assert not out.exists()
    assert uploads.asked == []


def test_a_dry_run_pushes_nothing(uploads, tmp_path):
    adapter_files(tmp_path / "one")
    done = merge_in(tmp_path, "-o", tmp_path / "m", "--dry-run", "--push-to-hub", "somebody/new")
    assert done.exit_code == 0, done.exception
    assert uploads.asked == []


def test_of_several_processes_only_the_main_one_pushes(uploads, tmp_path, monkeypatch):
    adapter_files(tmp_path / "one")
    monkeypatch.setenv("RANK", "1")
    done = merge_in(tmp_path, "-o", tmp_path / "m", "--push-to-hub", "somebody/new")
    assert done.exit_code == 0, done.exception
    assert uploads.asked == []


@pytest.mark.parametrize("status", [401, 403, 400])
def test_a_hub_that_refuses_is_quoted_and_the_output_stays(uploads, tmp_path, status):
    adapter_files(tmp_path / "one")
    uploads.refused = status
    done = merge_in(tmp_path, "-o", tmp_path / "m", "--push-to-hub", "somebody/new")
    error = done.exception
    assert isinstance(error, ResourceError), error
    assert "somebody/new" in error.message
    assert "you may not write here" in error.message
    assert f"{tmp_path / 'm'} is complete" in error.hint
    assert ("needs write access to somebody" in error.hint) == (status != 400)
    assert "hf_ours" not in error.message + error.hint
    assert read_adapter(tmp_path / "m").modules


def test_a_hub_that_is_away_leaves_the_output_and_the_line_that_pushes_it(
    uploads, tmp_path, monkeypatch
):
    adapter_files(tmp_path / "one")
    use_hub(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    out = tmp_path / "m.safetensors"
    done = merge_in(tmp_path, "-o", out, "--push-to-hub", "somebody/new")
    assert isinstance(done.exception, ResourceError), done.exception
    assert "somebody/new: the upload failed" in done.exception.message
    assert "-o FOLDER --push-to-hub somebody/new" in done.exception.hint
    assert read_adapter(out).modules
