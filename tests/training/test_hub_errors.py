"""What the Hub answers, as a sentence that says what to do: a server here answers as the Hub does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from support import refused

from topoflow.training.checkpoints import resolve_commits
from topoflow.training.models import download


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[BaseHTTPRequestHandler]]:
    """A Hub that refuses whatever it is asked, with a `status` and the `code` that the Hub says it by."""

    class Refusing(BaseHTTPRequestHandler):
        status, code = 404, ""

        def do_GET(self) -> None:
            self.send_response(self.status)
            if self.code:
                self.send_header("X-Error-Code", self.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Refusing
    server.shutdown()
    server.server_close()


PAGE = "https://huggingface.co/owner/name"
ANSWERS = [
    (403, "GatedRepo", f"it is gated; accept its licence at {PAGE}, then log in with: hf auth login"),
    (401, "GatedRepo", "it is gated; accept its licence"),
    (401, "RepoNotFound", f"there is none, or it is private; look at {PAGE}, and log in"),
    (404, "RepoNotFound", "there is none, or it is private"),
    (403, "", "access is denied (403); log in with a token that may read it: hf auth login"),
    (
        404,
        "RevisionNotFound",
        f"it has no such branch, tag or commit; those that it has are at {PAGE}/tree/main",
    ),
]


@pytest.mark.parametrize(("status", "code", "told"), ANSWERS)
@pytest.mark.parametrize(
    "ask", [lambda: download("owner/name", "v1"), lambda: resolve_commits("owner/name", ["v1"])]
)
def test_what_the_hub_refuses_is_said_with_what_to_do(hub, status, code, told, ask):
    hub.status, hub.code = status, code
    with refused(name="id", expected="a model", got="'owner/name' at 'v1'", remedy=told):
        ask()


def test_a_hub_that_cannot_be_reached_and_one_that_may_not_be_asked_are_told_apart(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    with refused(name="id", remedy="the Hub cannot be reached from here"):
        download("owner/name", "v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(name="id", remedy="HF_HUB_OFFLINE forbids to download it; unset that, or fetch it"):
        download("owner/name", "v1")
    with refused(name="revisions", expected="the cache (HF_HUB_OFFLINE is set) has", got=["v1"]):
        resolve_commits("owner/name", ["v1"])
