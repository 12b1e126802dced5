"""Data sets by their names on a hub: the library streams them from a server on this machine."""

import http.server
import io
import json
import subprocess
import sys
import threading
from importlib.util import find_spec
from urllib.parse import unquote

import pyarrow
import pytest
from pyarrow import parquet

pytestmark = pytest.mark.skipif(
    find_spec("datasets") is None, reason="the package datasets is not installed"
)
COMMIT = "a" * 40
BASE = "/api/datasets/owner/name"
READ = """
import sys
from pathlib import Path
from adaptermix.data.chats import read_chats
from adaptermix.errors import AdaptermixError
for name in sys.argv[1:]:
    try:
        chats = read_chats(Path(name), None, 2, lambda progress: print(progress.note))
        print(*(chat.location for chat in chats), chats[1].messages[0]["content"])
    except AdaptermixError as error:
        print(error.exit_code, error.message)
"""


def table(rows):
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


ROWS = [{"prompt": f"question {n}", "completion": "answer"} for n in range(5)]
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "data/train-00000-of-00001.parquet": table(ROWS),
    "helper.py": b"raise AssertionError('code of a data set was run')",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does for one data set; nothing is there but at its one commit."""

    asked: list[str] = []

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(self.path.partition("?")[0])
        self.asked.append(path)
        if path in (BASE, f"{BASE}/revision/v1", f"{BASE}/revision/{COMMIT}"):
            files = [{"rfilename": name} for name in FILES]
            tags = ["license:apache-2.0"]
            self.send({"id": "owner/name", "sha": COMMIT, "tags": tags, "siblings": files})
        elif path.startswith(f"{BASE}/tree/{COMMIT}"):
            self.send(self.listing(path.removeprefix(f"{BASE}/tree/{COMMIT}").strip("/")))
        elif path.startswith(f"/datasets/owner/name/resolve/{COMMIT}/"):
            self.send_file(path.partition(f"{COMMIT}/")[2])
        else:
            self.send({}, 404, **{"X-Error-Code": "RepoNotFound"})

    def listing(self, folder):
        start = f"{folder}/" if folder else ""
        inside = {name.removeprefix(start) for name in FILES if name.startswith(start)}
        files = [each for each in inside if "/" not in each]
        folders = {each.partition("/")[0] for each in inside if "/" in each}
        entry = {"oid": "0" * 40, "size": 0}
        return [
            *({"type": "directory", "path": f"{start}{each}", **entry} for each in folders),
            *(
                {"type": "file", "path": f"{start}{each}", **entry}
                | {"size": len(FILES[f"{start}{each}"])}
                for each in files
            ),
        ]

    def send_file(self, name):
        if name not in FILES:
            return self.send({}, 404, **{"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
        self.send_bytes(FILES[name], 200, headers)

    def send(self, value, status=200, **headers):
        self.send_bytes(json.dumps(value).encode(), status, headers)

    def send_bytes(self, content, status, headers):
        wanted, total = self.headers.get("Range"), len(content)
        if wanted and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last or total) + 1]
            end = int(first) + len(content) - 1
            status, headers = 206, headers | {"Content-Range": f"bytes {first}-{end}/{total}"}
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_data_sets_are_streamed_at_one_commit_and_their_code_is_not_run(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    names = ["owner/name", "owner/name@v1:default:train", "owner/name:test", "owner/none"]
    line = [sys.executable, "-c", READ, *names]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    note = (
        "reading owner/name, configuration default, split train, revision "
        f"{COMMIT}; license: apache-2.0"
    )
    rows = "owner/name:default:train:1 owner/name:default:train:2 question 1"
    assert done.stdout.splitlines() == [
        *(note, rows),
        *(note, rows),
        "4 owner/name: no split 'test' in the configuration 'default'",
        "6 owner/none is not a local file, and the Hub has no such data set",
    ]
    assert f"{BASE}/revision/v1" in Hub.asked
