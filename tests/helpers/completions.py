"""A server of completions on the loopback address that answers by arithmetic and can misbehave."""

import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Completions:
    """What the server is, what it is to do, and what it was asked.

    Attributes:
        model: Name of the base model.
        root: Where it has the model from.
        software: ``vllm``, or another that knows no token ids.
        loads: Whether it loads adapters.
        key: Key that it asks for.
        started: When it says that it was started.
        troubles: What the next completions get: ``(status, headers)``, ``drop`` (the connection
            is closed), ``slow`` (an answer after a second), or ``die`` (nothing answers any more).
        ignores: Whether adapters change nothing.
        mixes: Whether the base answers with the adapter that was loaded last.
        refuses: What loading an adapter gets: a status and a message.
        page: What every request gets: a status, headers and a text.
        pages: The same by path, such as ``/metrics``.
        bend: Changes an answer before it is sent.
        adapters: Path of each adapter by name.
        answered: How often each prompt was answered, by model and prompt.
        bodies: Bodies of all completions.
        events: Loads, unloads and the first prompt, in order.
    """

    model: str = "base"
    root: str = ""
    software: str = "vllm"
    loads: bool = True
    key: str = ""
    started: str = "17.5"
    context: int | None = 512
    troubles: list = field(default_factory=list)
    ignores: bool = False
    mixes: bool = False
    refuses: tuple[int, str] | None = None
    page: tuple[int, dict, str] | None = None
    pages: dict[str, tuple[int, dict, str]] = field(default_factory=dict)
    bend: Callable[[dict], object] | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    answered: Counter = field(default_factory=Counter)
    bodies: list[dict] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    url: str = ""
    is_dead: bool = False


def answer_ids(model: str, prompt: list[int]) -> list[int]:
    """Return what the server decodes; an adapter is known by the hash in its name.

    The hash differs from run to run, and no hash may answer like the base model.
    """
    is_base = not model.startswith("adaptermix-") or model.startswith("adaptermix-zeros-")
    salt = 0 if is_base else 1 + sum(map(ord, model.split("-")[1])) % 299
    return [20 + (sum(prompt) + salt * n) % 300 for n in range(1, 2 + len(prompt) % 4)] + [1]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_side: Completions

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        me = self.server_side
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if me.is_dead:
            self.close_connection = True
            return
        if me.key and self.headers.get("Authorization") != f"Bearer {me.key}":
            sent = self.headers.get("Authorization", "nothing")
            return self.say(401, {"error": {"message": f"wrong key: {sent}"}})
        if me.page is not None:
            return self.say(me.page[0], me.page[2], me.page[1])
        path = self.path.removeprefix("/v1")
        if path in me.pages:
            return self.say(me.pages[path][0], me.pages[path][2], me.pages[path][1])
        names = {
            "/models": self.models,
            "/completions": self.completions,
            "/version": lambda _: self.say(200, {"version": "9.9"}),
            "/metrics": lambda _: self.say(200, f"process_start_time_seconds {me.started}\n"),
        }
        if me.loads:
            names |= {"/load_lora_adapter": self.load, "/unload_lora_adapter": self.unload}
        names.get(path, lambda _: self.say(404, {"detail": "Not Found"}))(body)

    def models(self, _):
        me = self.server_side
        card = {"owned_by": me.software, "max_model_len": me.context}
        cards = [{"id": me.model, "root": me.root or me.model, "parent": None, **card}]
        cards += [{"id": name, "parent": me.model, **card} for name in me.adapters]
        self.say(200, {"data": cards})

    def load(self, body):
        me = self.server_side
        if not body:
            return self.say(400, {"error": {"message": "lora_name: Field required"}})
        name = body["lora_name"]
        if me.refuses is not None:
            return self.say(me.refuses[0], {"error": {"message": me.refuses[1]}})
        if name in me.adapters:
            return self.say(400, {"error": {"message": f"'{name}' has already been loaded."}})
        me.adapters[name] = body["lora_path"]
        me.events.append(f"load {name}")
        self.say(200, "Success")

    def unload(self, body):
        me = self.server_side
        me.events.append(f"unload {body['lora_name']}")
        self.say(200 if me.adapters.pop(body["lora_name"], None) else 404, "")

    def completions(self, body):
        me = self.server_side
        asked = body["model"]
        model = list(me.adapters)[-1] if me.mixes and asked == me.model and me.adapters else asked
        if body.get("cache_salt"):
            return self.look(model, body)
        me.bodies.append(body)
        if "prompt" not in me.events:
            me.events.append("prompt")
        trouble = me.troubles.pop(0) if me.troubles else None
        if trouble == "die":
            me.is_dead = True
        if trouble in ("die", "drop"):
            self.close_connection = True
            return
        if trouble == "slow":
            time.sleep(1)
        elif trouble is not None:
            return self.say(trouble[0], {"error": {"message": "not now"}}, trouble[1])
        if model != me.model and model not in me.adapters:
            return self.say(404, {"error": {"message": f"The model `{model}` does not exist."}})
        ids = answer_ids(model, body["prompt"])[: body["max_tokens"]]
        choice = {"text": f"text {ids}", "finish_reason": "stop" if ids[-1] == 1 else "length"}
        if body.get("return_token_ids") and me.software == "vllm":
            choice["token_ids"] = ids
        me.answered[asked, tuple(body["prompt"])] += 1
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        answer = {"choices": [choice], "usage": usage}
        self.say(200, me.bend(answer) if me.bend else answer)

    def look(self, model, body):
        """Answer what is asked to see whether adapters act."""
        me = self.server_side
        if body.get("ignore_eos"):  # decoded beside others, for as long as it takes
            time.sleep(0.3)
            return self.say(200, {"choices": [{"text": "", "finish_reason": "length"}]})
        if me.ignores:
            model = me.model
        first = answer_ids(model, body["prompt"])[0]
        likely = {f"token_id:{first + n}": -0.5 - n for n in range(5)}
        choice = {"text": "", "finish_reason": "length", "logprobs": {"top_logprobs": [likely]}}
        answer = {"choices": [choice], "usage": {}}
        self.say(200, me.bend(answer) if me.bend else answer)

    def say(self, status, content, headers=None):
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that went away is part of the tests."""


@contextmanager
def completions_server(**what) -> Iterator[Completions]:
    """Answer while the block runs."""
    site = Completions(**what)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_side": site}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
