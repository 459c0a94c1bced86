# SPDX-License-Identifier: MIT
"""A stand-in for the Hugging Face Hub: serves a folder of repos over HTTP to the real huggingface_hub client.

`root/owner/name/…` becomes the repo `owner/name`. Point the client at it with `HF_ENDPOINT` in the
environment of a fresh process (the client reads that variable once, when it is imported)::

    with FakeHub(root) as hub:
        subprocess.run([sys.executable, "-c", code], env=hub.environment(cache_folder))
        hub.requests  # [(method, path, authorization), …]
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
Headers = dict[str, str]


class FakeHub:
    """The server and what it saw. `facts` overrides fields of a repo's model_info; `denied` maps a repo to
    a status.

    A denied repo answers 403 as a gated one and 404 as a missing one does; with `token` set, that bearer
    token opens the gated ones.
    """

    def __init__(
        self,
        root: str | Path,
        facts: dict[str, dict[str, Any]] | None = None,
        denied: dict[str, int] | None = None,
        token: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.facts = dict(facts or {})
        self.denied = dict(denied or {})
        self.token = token
        self.requests: list[tuple[str, str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Address for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, cache: str | Path, **more: str) -> dict[str, str]:
        """The environment of a process that uses this Hub with a cache folder of its own."""
        return hub_environment(self.url, cache, **more)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str) -> list[Path]:
        """The repo's files, sorted."""
        return sorted(path for path in (self.root / repo).rglob("*") if path.is_file())

    def info(self, repo: str) -> dict[str, Any]:
        """What /api/models/<repo> says, as the Hub derives it: the class comes from model_index.json."""
        names = [path.relative_to(self.root / repo).as_posix() for path in self.files(repo)]
        info: dict[str, Any] = {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "author": repo.partition("/")[0],
            "sha": REVISION,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name} for name in names],
        }
        index = self.root / repo / "model_index.json"
        if index.is_file():
            info["library_name"] = "diffusers"
            info["config"] = {"diffusers": {"_class_name": json.loads(index.read_text()).get("_class_name")}}
        return info | self.facts.get(repo, {})

    def tree(self, repo: str) -> list[dict[str, Any]]:
        """What /api/models/<repo>/tree/<revision> lists."""
        return [
            {
                "type": "file",
                "path": path.relative_to(self.root / repo).as_posix(),
                "size": path.stat().st_size,
                "oid": _etag(path),
            }
            for path in self.files(repo)
        ]

    def refusal(self, repo: str, authorization: str) -> tuple[int, Headers] | None:
        """Status and error headers when this repo is closed to the caller."""
        status = self.denied.get(repo, 200 if (self.root / repo).is_dir() or repo in self.facts else 404)
        if status == 200 or (self.token and authorization == f"Bearer {self.token}"):
            return None
        codes = {401: "GatedRepo", 403: "GatedRepo", 404: "RepoNotFound"}
        return status, {"X-Error-Code": codes[status]} if status in codes else {}


def hub_environment(url: str, cache: str | Path, **more: str) -> dict[str, str]:
    """This process's environment with the Hub at `url` and a cache of its own, no user settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return (
        kept
        | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        | more
    )


def closed_port_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _handler_for(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request: /api/models/… as JSON, /<repo>/resolve/<revision>/<file> as bytes."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_GET
        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            authorization = self.headers.get("Authorization", "")
            hub.requests.append((self.command, path, authorization))
            parts = path.removeprefix("/api/models/").strip("/").split("/")
            repo, rest = "/".join(parts[:2]), parts[2:]
            refused = hub.refusal(repo, authorization)
            if refused:
                self._send(refused[0], b"{}", refused[1])
            elif rest[:1] == ["resolve"]:
                self._send_file(hub.root / repo, "/".join(rest[2:]))
            elif rest[:1] == ["tree"]:
                self._send(200, json.dumps(hub.tree(repo)).encode())
            else:
                self._send(200, json.dumps(hub.info(repo)).encode())

        def _send_file(self, folder: Path, name: str) -> None:
            path = folder / name
            if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
                return
            self._send(
                200,
                path.read_bytes(),
                {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": REVISION, "Content-Type": "application/octet-stream"},
            )

        def _send(self, status: int, body: bytes, headers: Headers | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
