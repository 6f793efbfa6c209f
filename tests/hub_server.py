"""As much of the hub as its own client needs: to make a repository, look into it, commit a folder, fetch a data set."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = "0" * 40  # the one revision of every data set


@dataclass
class Repository:
    """What one holds: small files in commits, large ones by their hash."""

    private: bool
    files: dict[str, bytes | str] = field(default_factory=dict)
    commits: int = 0


class Hub(ThreadingHTTPServer):
    """Repositories by name; uploaded large files by hash; files of data sets by name and path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, code: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self._file(with_content=False)

    def _file(self, with_content: bool) -> None:
        """A file of a data set, /datasets/ORG/NAME/resolve/REVISION/PATH."""
        match = re.match(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        content = self.server.datasets[match[1]][match[2]]
        self.send_response(200)
        for name, value in (
            ("ETag", f'"{zlib.crc32(content)}"'),
            ("X-Repo-Commit", SHA),
            ("Content-Length", len(content)),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self._file(with_content=True)
            return
        if match := re.match(r"/api/datasets/([^/?]+/[^/?]+)", self.path):
            files = self.server.datasets.get(match[1])
            if files is None:
                self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            if "/tree/" in self.path:
                self._answer([{"type": "file", "path": path, "size": len(x), "oid": SHA} for path, x in files.items()])
                return
            self._answer({"id": match[1], "sha": SHA, "siblings": [{"rfilename": path} for path in files]})
            return
        match = re.match(r"/api/models/([^/?]+/[^/?]+)", self.path)
        repository = self.server.repositories.get(match[1]) if match else None
        if repository is None:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": name} for name in repository.files]
        about = {"id": match[1], "sha": f"{repository.commits:040x}", "private": repository.private}
        self._answer({**about, "siblings": siblings})

    def do_PUT(self) -> None:
        self.server.large[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != "Bearer right":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":  # the card's front matter
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            large = [{**f, "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"} for f in files]
            self._answer({"files": [{**f, "shouldIgnore": False} for f in large]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        else:
            self._commit(body)

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            self._answer({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private, {".gitattributes": b""})
        self._answer({"url": f"{self.server.address}/{name}"})

    def _commit(self, body: bytes) -> None:
        name = re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)[1]
        repository = self.server.repositories[name]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                assert value["parentCommit"] == f"{repository.commits:040x}"
            elif entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = value["oid"]
        repository.commits += 1
        address = f"{self.server.address}/{name}/commit/{repository.commits:040x}"
        self._answer({"commitUrl": address, "commitOid": f"{repository.commits:040x}"})


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on this machine, for as long as the block lasts."""
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
