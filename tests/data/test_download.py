import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from noah.config.dataset import RawFile
from noah.data import download as module
from noah.data.download import download

CONTENT = bytes(range(256)) * 5000
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/stuck":
            self.server.released.wait(10)
        elif self.path == "/cut":
            self.wfile.write(CONTENT[:1000])
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("expected", [SHA256, RawFile(md5=MD5), RawFile(bytes=len(CONTENT)), RawFile(sha256=SHA256)])
def test_a_right_file_appears_under_its_name(server, tmp_path, expected):
    path = download(f"{server}/file", tmp_path / "new" / "file.bin", expected)
    assert path.read_bytes() == CONTENT
    assert [found.name for found in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    ("address", "expected", "message"),
    [
        ("file", "0" * 64, f"sha256 is {SHA256}, expected 0000"),
        ("file", RawFile(md5="0" * 32), f"md5 is {MD5}, expected 0000"),
        ("file", RawFile(bytes=7), "got 1,280,000 bytes, expected 7"),
        ("cut", RawFile(md5=MD5), "expected"),
        ("missing", RawFile(md5=MD5), "cannot be downloaded: .*Not Found.*put it at .*file.bin"),
    ],
)
def test_anything_else_leaves_nothing_behind(server, tmp_path, address, expected, message):
    with pytest.raises(ValueError, match=message) as caught:
        download(f"{server}/{address}", tmp_path / "file.bin", expected)
    assert str(caught.value).startswith(f"{server}/{address}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    with pytest.raises(ValueError, match=r"cannot be downloaded: .*timed out"):
        download(f"{server}/stuck", tmp_path / "file.bin", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ValueError, match=r"cannot be downloaded: .*; download it by other means and put it at"):
        download("http://127.0.0.1:9/file", tmp_path / "file.bin", SHA256)
