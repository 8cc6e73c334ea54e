"""Authentication, what is fetched from where, and what is logged."""

from __future__ import annotations

import http.server
import ipaddress
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway_server import Server, data_url, image_file, question, serving
from qwen3vl_ros.cli.phone import make_certificate
from qwen3vl_ros.client.exceptions import InternalError
from qwen3vl_ros.gateway import logs
from qwen3vl_ros.gateway.auth import HEADERS
from qwen3vl_ros.gateway.proxies import TrustedProxies
from qwen3vl_ros.gateway.settings import Settings, SettingsError, access, check_tls

CHAT = "/v1/chat/completions"
TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def closed() -> Iterator[Server]:
    """A gateway with a token."""
    with serving(token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def local() -> Iterator[Server]:
    """A gateway without one."""
    with serving(allowed_hosts=("robot.example",)) as server:
        yield server


PATHS = ["/v1/models", "/api/status", "/api/catalogue", "/api/tasks", "/api/cameras/front/frame.jpg", "/health",
         "/ready", "/metrics", "/openapi.json", "/nothing"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer another-token-of-20"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"},
     {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer"}, {"X-Api-Key": TOKEN}],
)  # fmt: skip
def test_without_the_token_there_is_nothing_but_the_page(closed: Server, path: str, headers: dict[str, str]) -> None:
    with closed.client() as client:
        response = client.get(path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
        assert response.headers["www-authenticate"] == "Bearer"


def test_without_the_token_nothing_is_asked(closed: Server) -> None:
    with closed.client() as client:
        assert client.post(CHAT, json=question()).status_code == 401
        assert closed.backend._asked.empty()


def test_the_token_opens_everything(closed: Server) -> None:
    with closed.client(headers=BEARER) as client:
        assert client.post(CHAT, json=question()).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/api/status").json()["token_required"] is True
        assert client.get("/nothing").status_code == 404


def test_the_page_is_there_before_the_token(closed: Server) -> None:
    with closed.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/static/index.html").status_code == 200


def test_a_gateway_with_a_token_may_have_any_name(closed: Server) -> None:
    with closed.client(headers={**BEARER, "Host": "robot.example:8080"}) as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/health", "/nothing", "/static/nothing"])
def test_every_response_has_the_headers_that_protect_browsers(local: Server, path: str) -> None:
    with local.client() as client:
        response = client.get(path)
        assert {name: response.headers.get(name) for name in HEADERS} == dict(HEADERS)
        assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_name_that_is_not_this_machines_is_refused(local: Server, host: str) -> None:
    with local.client() as client:
        response = client.get("/api/status", headers={"Host": host})
        assert response.status_code in (400, 403)  # 400: the server itself, for what is no host at all


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "robot.example"])
def test_this_machines_names_and_those_allowed_are_taken(local: Server, host: str) -> None:
    with local.client() as client:
        assert client.get("/api/status", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_may_not_ask(local: Server) -> None:
    with local.client() as client:
        form: dict[str, Any] = {"image": ("a.png", image_file()), "prompt": (None, "What?")}
        for origin in ("https://evil.example", "null", f"http://localhost:{local.port}"):
            assert client.post(CHAT, files=form, headers={"Origin": origin}).status_code == 403
        assert client.post(CHAT, files=form, headers={"Origin": local.url}).status_code == 200
        preflight = client.options(CHAT, headers={"Origin": local.url, "Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 405


# --- how it may be set up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.local"])
def test_beyond_this_machine_it_wants_a_token_or_an_explicit_word(host: str) -> None:
    with pytest.raises(SettingsError, match="there is no token"):
        access(Settings(host=host), {})
    assert access(Settings(host=host), {"QWEN3VL_WEB_TOKEN": TOKEN}).token == TOKEN
    assert access(Settings(host=host, allow_without_token=True), {}).token == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_needs_none(host: str) -> None:
    assert access(Settings(host=host), {}).token == ""


def test_a_token_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert access(Settings(token_file=str(file)), {"QWEN3VL_WEB_TOKEN": "another-token-of-20"}).token == TOKEN


@pytest.mark.parametrize("content", ["", "short", "two words of a passphrase", "ünïcödé-tökén-ünïcödé"])
def test_a_token_that_is_none_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(SettingsError, match="at least 16 ASCII characters") as error:
        access(Settings(token_file=str(file)), {})
    assert not content or content not in str(error.value)


def test_https_needs_a_certificate_with_its_own_key(tmp_path: Path) -> None:
    (one := tmp_path / "one").mkdir()
    (other := tmp_path / "other").mkdir()
    certificate, key = map(str, make_certificate("127.0.0.1", one))
    _, foreign = map(str, make_certificate("127.0.0.1", other))
    check_tls(Settings(tls_certificate=certificate, tls_key=key))
    assert Path(key).stat().st_mode & 0o077 == 0
    with pytest.raises(SettingsError, match="go together"):
        check_tls(Settings(tls_certificate=certificate))
    for wrong in (foreign, certificate, str(tmp_path / "none")):
        with pytest.raises(SettingsError, match="cannot be used"):
            check_tls(Settings(tls_certificate=certificate, tls_key=wrong))


def test_a_token_file_that_is_not_there_is_no_open_door(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        access(Settings(token_file=str(tmp_path / "none")), {})


# --- behind a proxy ---------------------------------------------------------------------------------------------------

PROXIES = ("10.0.0.1", "192.168.7.0/24", "fd00::/8")
ADDRESSES = st.ip_addresses().map(str)
FORGED = st.text(st.characters(max_codepoint=255, exclude_characters=","), max_size=40) | ADDRESSES


def proxied(*trusted: str) -> TrustedProxies:
    async def app(*_: Any) -> None:
        raise AssertionError("nobody asks")

    return TrustedProxies(app, trusted)


@given(st.lists(FORGED, max_size=5))
def test_nobody_is_believed_who_is_no_trusted_proxy(forged: list[str]) -> None:
    headers = [value.encode("latin-1") for value in forged]
    assert proxied(*PROXIES).client_of("10.0.0.2", headers) == "10.0.0.2"
    assert proxied("").client_of("127.0.0.1", headers) == "127.0.0.1"


@given(forged=st.lists(FORGED, max_size=5), client=ADDRESSES, through=st.booleans(), split=st.booleans())
def test_the_address_that_the_trusted_proxy_saw_is_the_clients(
    forged: list[str], client: str, through: bool, split: bool
) -> None:
    """Whatever the client wrote before it; ``through``: a second trusted proxy stands behind the first."""
    proxies = proxied(*PROXIES)
    assume(proxies.client_of(client, [b"1.2.3.4"]) != "1.2.3.4")  # it is no proxy itself
    chain = [*forged, client, *(["192.168.7.9"] if through else [])]
    headers = [value.encode("latin-1") for value in (chain if split else [" , ".join(chain)])]
    seen = proxies.client_of("10.0.0.1", headers)
    plain = ipaddress.ip_address(client)
    assert ipaddress.ip_address(seen) == (getattr(plain, "ipv4_mapped", None) or plain)


@given(st.lists(FORGED, max_size=5))
def test_a_client_is_an_ip_address_whatever_a_proxy_says(forged: list[str]) -> None:
    seen = proxied(*PROXIES).client_of("10.0.0.1", [value.encode("latin-1") for value in forged])
    assert str(ipaddress.ip_address(seen)) == seen
    assert "%" not in seen


@pytest.mark.parametrize(
    "value", ["", "unknown", "-", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "fe80::1%\x1b[31m", "1.2.3", "127.0.0.01"]
)
def test_what_is_no_address_is_not_the_clients(value: str) -> None:
    assert proxied("10.0.0.1").client_of("10.0.0.1", [b"1.2.3.4", value.encode()]) == "10.0.0.1"


def test_a_proxy_is_known_by_its_ipv4_address_on_an_ipv6_socket() -> None:
    assert proxied("10.0.0.0/8").client_of("::ffff:10.1.2.3", [b"1.2.3.4"]) == "1.2.3.4"


@pytest.mark.parametrize("proxy", ["nginx", "10.0.0.1:80", "*", "10.0.0.0/33"])
def test_a_trusted_proxy_that_is_no_address_is_a_sentence_at_the_start(proxy: str) -> None:
    with pytest.raises(SettingsError, match="trusted_proxies"):
        proxied(proxy)


def test_many_names_do_not_widen_the_rate_limit() -> None:
    with serving(rate_limit=3) as server, server.client() as http:
        asked = [
            http.post(CHAT, json=question(), headers={"X-Forwarded-For": f"6.6.6.{n}"}).status_code for n in range(6)
        ]
    assert asked.count(429) == 3
    with serving(rate_limit=3, trusted_proxies=("127.0.0.1",)) as server, server.client() as http:
        asked = [
            http.post(CHAT, json=question(), headers={"X-Forwarded-For": f"6.6.6.{n}"}).status_code for n in range(6)
        ]
    assert asked.count(429) == 0


# --- images from elsewhere --------------------------------------------------------------------------------------------


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server with an image, and with redirects."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        content = {"/image.png": image_file(), "/large.png": b"\x89PNG" * 100_000, "/text": b"text"}.get(self.path)
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def fetching() -> Iterator[httpx.Client]:
    with serving(remote_image_hosts=("127.0.0.1",), max_image_bytes=100_000) as server, server.client() as client:
        yield client


def ask_about(client: httpx.Client, url: str) -> httpx.Response:
    part = {"type": "image_url", "image_url": {"url": url}}
    return client.post(CHAT, json={"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]})


def test_an_image_of_a_listed_host_is_fetched(fetching: httpx.Client, elsewhere: str) -> None:
    assert ask_about(fetching, f"{elsewhere}/image.png").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing.png", 400, "answered 404"),
        ("/text", 400, "no JPEG"),
        ("/large.png", 413, "100000 bytes"),
        ("/to/http://localhost/image.png", 400, "not one that this gateway fetches from"),
        ("/to/file:///etc/passwd", 400, "not one that this gateway fetches from"),
        ("/to//image.png", 400, "inside a private network"),
        ("/to/http://127.0.0.1/image.png", 400, "inside a private network"),
        ("/to/", 400, "inside a private network"),
    ],
)
def test_a_host_does_not_lead_elsewhere(
    fetching: httpx.Client, elsewhere: str, path: str, status: int, words: str
) -> None:
    response = ask_about(fetching, elsewhere + path)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "url", ["http://localhost/a.png", "http://127.0.0.1@evil.example/a.png", "http://user@127.0.0.1/", "http://[::1]/a",
            "http://127.0.0.1.evil.example/a.png", "http://2130706433/a.png", "http://", "http://127.0.0.1:99999/a"]
)  # fmt: skip
def test_another_host_is_not_asked(fetching: httpx.Client, url: str) -> None:
    response = ask_about(fetching, url)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_image_url"


# --- what is written down ---------------------------------------------------------------------------------------------


@pytest.fixture
def log_folder(tmp_path: Path) -> Iterator[Path]:
    loggers = [logs.ACCESS, logs.MODEL, logs.ERROR, logs.SERVER]
    before = [(logger, list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    logs.open_logs(tmp_path)
    yield tmp_path
    for logger, handlers, propagate, level in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = propagate
        logger.setLevel(level)


def test_the_access_log_says_who_asked_about_what_and_for_how_long(log_folder: Path) -> None:
    with serving() as server, server.client() as client:
        form: dict[str, Any] = {"image": ("my\nbox.png", image_file()), "prompt": (None, "What?")}
        client.post(CHAT, files=form)
        client.get("/nothing%0A127.0.0.1 GET")
    first, second = (log_folder / "access.log").read_text().splitlines()
    assert ' 127.0.0.1 POST "/v1/chat/completions" "my' in first
    assert "box.png" in first
    assert " 200 " in first
    assert first.endswith(" s")
    assert " 404 " in second


FORGERY = "6.6.6.6 GET \x1b[2J \x7f\x9b1m\r\n2026-01-01T00:00:00+0000 6.6.6.6 GET \u2028 x"


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
def test_nobody_writes_an_entry_of_their_own_into_a_log(log_folder: Path, trusted: tuple[str, ...]) -> None:
    with serving(trusted_proxies=trusted) as server, server.client() as client:
        client.get(f"/{urllib.parse.quote(FORGERY)}")
        client.get("/health", headers={"X-Forwarded-For": "6.6.6.6 GET \x1b[2J".encode("latin-1").decode("latin-1")})
        client.get("/health", headers={"User-Agent": "x", "X-Forwarded-For": "x" * 5000})
        form: dict[str, Any] = {"image": (FORGERY, image_file()), "prompt": (None, "What?")}
        client.post(CHAT, files=form)
        server.backend.script = lambda asked: asked.fail(InternalError(FORGERY))
        client.post(CHAT, json=question())

        def defect(asked: Any) -> None:
            raise RuntimeError(FORGERY)

        server.backend.script = defect
        client.post(CHAT, json=question())
    logs.MODEL.info("%s", FORGERY)
    for name in ("access", "error", "model"):
        written = (log_folder / f"{name}.log").read_bytes()
        assert not set(written) & {*range(10), *range(11, 32), 127}, name
        assert "\x9b".encode() not in written and "\u2028".encode() not in written, name
        for line in written.decode().split("\n")[:-1]:
            entry = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ ", line)
            assert line.startswith("    ") or (entry and not line.startswith("2026-01-01T00:00:00")), line
    clients = [line.split()[1] for line in (log_folder / "access.log").read_text().splitlines()]
    assert clients == ["127.0.0.1"] * 6


def test_logs_hold_no_images_no_questions_and_no_tokens(log_folder: Path) -> None:
    url = data_url(image_file())
    with serving(token=TOKEN) as server, server.client(headers=BEARER) as client:
        client.post(CHAT, json=question(image_file(), "MY QUESTION"))
        client.post(CHAT, json=question(image_file(), "MY QUESTION", unknown=url))
        client.get(f"/api/status?token={TOKEN}")
        server.backend.script = lambda asked: 1 / 0
        client.post(CHAT, json=question(image_file(), "MY QUESTION"))
    written = "".join(path.read_text() for path in log_folder.iterdir())
    assert "ZeroDivisionError" in written
    for secret in (TOKEN, "MY QUESTION", url[40:80]):
        assert secret not in written


def test_logs_are_rotated(log_folder: Path) -> None:
    for handler in logs.ACCESS.handlers:
        handler.maxBytes = 1000  # type: ignore[attr-defined]
    with serving() as server, server.client() as client:
        for _ in range(120):
            client.get("/health")
    files = sorted(path.name for path in log_folder.glob("access.log*"))
    assert files == ["access.log", *(f"access.log.{number}" for number in range(1, 6))]
    assert all(path.stat().st_size <= 1000 for path in log_folder.glob("access.log*"))
