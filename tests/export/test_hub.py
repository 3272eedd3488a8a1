"""A push, against a stand-in of the hub on this machine that speaks as much of its protocol as small files need."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest

from slamlab.errors import OptionError, StoreError
from slamlab.export import hub
from slamlab.export.hub import check_target, push


class Hub(BaseHTTPRequestHandler):
    """Takes new repositories and commits; remembers who asked for what."""

    seen: list  # of (path, authorization, body), of the running stand-in
    refuses = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        address = f"http://127.0.0.1:{self.server.server_port}/me/model"
        if self.refuses:
            self._say(403, {"error": "you may not"})
        elif self.path == "/api/repos/create":
            self._say(200, {"url": address})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            answer = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._say(200, {"files": answer})
        elif self.path.endswith("/commit/main"):
            self._say(200, {"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40, "pullRequestUrl": None})
        else:
            self._say(200, {})

    def do_GET(self):
        self._say(200, {"id": "me/model", "sha": "0" * 40, "siblings": []})

    def _say(self, code, content):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    """Run a stand-in, and let this process be logged in to it."""
    handler = type("Handler", (Hub,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_file_of_the_folder_arrives_in_a_private_model(stand_in, tmp_path):
    files = {"README.md": b"---\nlicense: unknown\n---\n# A\n", "decoder/config.json": b"{}", "slam.json": b'{"a": 1}'}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert push(tmp_path, "me/model").endswith("/me/model")
    created = json.loads(next(body for path, _, body in stand_in.seen if path == "/api/repos/create"))
    assert (created["name"], created["organization"]) == ("model", "me")
    assert created.get("private") is True or created.get("visibility") == "private"
    commit = next(body for path, _, body in stand_in.seen if path.endswith("/commit/main"))
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
    assert sent == files
    assert {authorization for _, authorization, _ in stand_in.seen} <= {"Bearer secret", None}


def test_a_refusal_is_a_sentence_and_the_folder_stays(stand_in, tmp_path):
    stand_in.refuses = True
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"the hub takes .*me/model, got .*the export lies in {tmp_path}"):
        push(tmp_path, "me/model")
    assert (tmp_path / "file").exists()


def test_a_hub_that_does_not_answer_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StoreError, match="the hub takes"):
        push(tmp_path, "me/model")


@pytest.mark.parametrize("name", ["model", "me/model/x", "me/", "/model", "me/mo del", "me/-x"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(OptionError, match="named OWNER/NAME"):
        check_target(name)


def test_nobody_logged_in_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(StoreError, match="needs a login"):
        check_target("me/model")
    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    check_target("me/model")
