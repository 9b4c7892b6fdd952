"""Publishing, against a local server that speaks as much of the hub as that needs."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mtmamba
from mtmamba.publishing import PublishError, publish

ROOT = Path(__file__).parents[1]


class Hub(BaseHTTPRequestHandler):
    """Creates repositories, takes large files and commits."""

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.answer({"id": "me/model", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        hub, body = self.server, self.body()
        address = f"http://localhost:{hub.server_port}"
        if hub.refuse:
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self.answer({"url": f"{address}/me/model"})
        elif self.path.startswith("/api/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if "safetensors" in f["path"] else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self.answer({"files": modes})
        elif self.path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{address}/put/{o['oid']}"}}} for o in objects]
            self.answer({"transfer": "basic", "objects": actions})
        else:
            hub.commits.append([json.loads(line) for line in body.decode().splitlines()])
            self.answer({"commitUrl": f"{address}/me/model/commit/1", "commitOid": "1" * 40, "success": True})

    def do_PUT(self):
        self.server.stored[self.path.rpartition("/")[2]] = self.body()
        self.answer({})


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    server.made, server.commits, server.stored, server.refuse = [], [], {}, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def call(hub, model, *more):
    """Publish as a user does, to a hub of one's own."""
    environment = {
        "HF_ENDPOINT": f"http://localhost:{hub.server_port}",
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, str(ROOT / "src/publish.py"), f"ckpt={model}", "repo=me/model", *more]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = mtmamba.build_model(mtmamba.load_config(["encoder.pretrained=false"]))
    return mtmamba.save_pretrained(network, tmp_path_factory.mktemp("model") / "mine")


def test_a_model_arrives_whole(hub, model):
    done = call(hub, model, "notes='Trained on dreams.'")
    assert done.stdout.endswith("/me/model/commit/1\n"), done.stderr
    assert hub.made[0]["name"] == "model"
    (commit,) = hub.commits
    files = {entry["value"]["path"]: entry for entry in commit if entry["key"] in ("file", "lfsFile")}
    assert set(files) >= {"model.safetensors", "config.json", "README.md"}
    weights = (model / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert files["model.safetensors"]["value"]["oid"] == digest
    assert hub.stored[digest] == weights
    card = base64.b64decode(files["README.md"]["value"]["content"]).decode()
    assert "Trained on dreams." in card
    assert "trained on 480 synthetic scenes in the layout of NYUDv2" in card


def test_who_may_not_is_told(hub, model, monkeypatch):
    hub.refuse = True
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://localhost:{hub.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(PublishError, match=r"^Expected to write to me/model on .*401.*`hf auth login`\.$"):
        publish(model, "me/model")


def test_without_a_connection_it_is_said(monkeypatch, model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, so that nobody else answers there
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_any")
        with pytest.raises(PublishError, match="check name and connection"):
            publish(model, "somebody/rooms")


@pytest.mark.parametrize(
    ("absent", "message"), [("huggingface_hub", "pip install 'mtmamba[hub]'"), ("", "hf auth login")]
)
def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path, absent, message):
    for name in filter(None, ("torch", absent)):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HOME": str(tmp_path)}
    for key in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        environment.pop(key, None)
    command = [sys.executable, str(ROOT / "src/publish.py"), "ckpt=nyud_lite", "repo=me/model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Expected ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["model", "me/..", "../model", "me/.model", "me/a/b"])
def test_names_that_are_none(model, name):
    with pytest.raises(PublishError, match=f"repo=owner/name, got {name}: "):
        publish(model, name)


def test_whoever_may_read_the_card_may_read_the_weights(model):
    assert len({path.stat().st_mode for path in model.iterdir()}) == 1
