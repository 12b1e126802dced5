"""Requests that fail before any answer: what the message says, and what it never says."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import suppress

import pytest
from helpers.completions import completions_server

from adaptermix.errors import ConfigError, ResourceError
from adaptermix.generation import server_http
from adaptermix.generation.server_http import BusyError, Connection, Reply

SECRET = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in (*server_http.KEYS, "no_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(url):
    async def once():
        connection = Connection(url)
        try:
            return await connection.ask("GET", "/models", seconds=5)
        finally:
            await connection.close()

    return asyncio.run(once())


def failure_of(url):
    with pytest.raises(BusyError) as error:
        ask(url)
    return error.value


def listener(answer, seconds=0):
    """Answer every connection on the loopback address with the same bytes, after a while."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                time.sleep(seconds)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1]


def certificate(folder):
    """Write a certificate for the loopback address that nobody has signed, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    import datetime
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_that_nobody_signed_is_named_with_the_way_to_trust_it(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    listening = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def refuse():
        with pytest.raises(ssl.SSLError):
            listening.accept()

    thread = threading.Thread(target=refuse)
    thread.start()
    failure = failure_of(f"https://127.0.0.1:{listening.getsockname()[1]}/v1")
    thread.join()
    assert "its certificate is not trusted: self-signed certificate" in failure.reason
    assert "SSL_CERT_FILE" in failure.hint


def test_a_server_without_tls_is_named():
    with completions_server() as site:
        failure = failure_of(site.url.replace("http:", "https:"))
    assert "does not speak TLS" in failure.reason
    assert "http://" in failure.hint


def test_what_is_no_http_server_is_named():
    failure = failure_of(f"http://127.0.0.1:{listener(b'SSH-2.0-OpenSSH_9.6')}/v1")
    assert failure.reason.startswith("its answer is not HTTP: Bad status line")


def test_a_stopped_server_that_leaves_requests_open_is_noticed(monkeypatch):
    """vLLM's server does so when it is told to stop."""
    monkeypatch.setattr(server_http, "_PULSE", 0.05)
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def hold():
        connection, _ = listening.accept()
        held.append(connection)
        listening.close()

    threading.Thread(target=hold).start()
    failure = failure_of(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
    held[0].close()
    assert failure.reason == "it stopped: it no longer accepts connections"


def test_a_slow_answer_of_a_server_that_listens_is_waited_for(monkeypatch):
    monkeypatch.setattr(server_http, "_PULSE", 0.01)
    port = listener(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate", seconds=0.1)
    assert ask(f"http://127.0.0.1:{port}/v1").text == "late"


@pytest.mark.parametrize("proxy", ["me:hunter2@127.0.0.1:{}", "http://me:hunter2@127.0.0.1:{}"])
def test_a_proxy_is_named_without_its_password(monkeypatch, proxy):
    with completions_server(page=(407, {}, "who are you?")) as site:
        port = site.url.rpartition(":")[2].removesuffix("/v1")
        monkeypatch.setenv("http_proxy", proxy.format(port))
        monkeypatch.setenv("https_proxy", proxy.format(port))
        plain, tunnel = failure_of("http://host.invalid/v1"), failure_of("https://host.invalid/v1")
    gone = failure_of("http://host.invalid/v1")
    assert plain.reason == "the proxy answered HTTP 407"
    assert tunnel.reason.startswith("the proxy answered HTTP 501")
    assert gone.reason == "cannot connect to the proxy: Connection refused"
    for failure in (plain, tunnel, gone):
        assert "hunter2" not in failure.reason + failure.hint
        assert "no_proxy" in failure.hint


def test_the_key_is_hidden_wherever_a_server_repeats_it(monkeypatch):
    monkeypatch.setenv(server_http.KEYS[0], SECRET)
    moved = (307, {"Location": f"http://there/?key={SECRET}"}, "")
    with completions_server(page=moved) as site:
        with pytest.raises(ConfigError, match=r"redirects to http://there/\?key=\*\*\*") as error:
            ask(site.url)
        assert SECRET not in str(error.value)
        site.page = (400, {}, "x" * 290 + f" {SECRET}")
        reply = ask(site.url)

    async def said():
        connection = Connection("http://there")
        text = connection.said(reply), connection.clean(f"model {SECRET}\x1b[31m\nmore")
        await connection.close()
        return text

    long, short = asyncio.run(said())
    assert "sk-" not in long
    assert short == "model *** [31m"


@pytest.mark.parametrize("end", ["\nX-Other: 1", "\x01b"])
def test_a_key_that_cannot_be_sent_is_named_but_not_shown(monkeypatch, end):
    monkeypatch.setenv(server_http.KEYS[1], SECRET + end)
    with pytest.raises(ConfigError, match="key in OPENAI_API_KEY has a line break") as error:
        ask("http://there")
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error": {"message": "no"}}', "no"),
        ('{"error": "no"}', "no"),
        ('{"message": "no", "code": 3}', "no"),
        ('{"detail": "no"}', "no"),
        ("no: line 1\nline 2", "no: line 1"),
        ("<html>no</html>", ""),
        ("", ""),
        ("[]", ""),
    ],
)
def test_a_message_is_read_from_json_and_plain_text(text, said):
    assert server_http._message(text).partition("\n")[0] == said


@pytest.mark.parametrize("text", ["inf", "nan", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 400])
def test_a_wait_that_is_no_time_is_none(text):
    assert server_http._wait({"Retry-After": text}) in (None, 0.0)


def test_statuses_are_told_apart():
    found = {status: Reply(status, "", {}) for status in (200, 307, 401, 403, 404, 429, 500, 503)}
    assert {s for s in found if found[s].is_busy} == {429, 500, 503}
    assert {s for s in found if found[s].is_forbidden} == {401, 403}
    assert {s for s in found if found[s].is_redirect} == {307}


def test_a_key_that_is_refused_ends_the_command(monkeypatch):
    monkeypatch.setenv(server_http.KEYS[0], SECRET)
    with completions_server(key="other") as site, pytest.raises(ResourceError, match="rejected"):
        ask(site.url)
