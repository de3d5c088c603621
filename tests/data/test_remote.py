import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from noah.data import remote
from noah.data.access import manifest_of_test, open_splits
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.data.remote import below, public, remote_shards


class Server(http.server.ThreadingHTTPServer):
    """Files of a folder; `troubles` holds (end of a path, what to do once): a status, or `cut` for half the bytes."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.troubles, self.requests = folder, [], []

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append(path)
        trouble = next((trouble for trouble in self.server.troubles if path.endswith(trouble[0])), None)
        if trouble:
            self.server.troubles.remove(trouble)
        file = self.server.folder / path.lstrip("/")
        if (trouble and trouble[1] != "cut") or not file.is_file():
            self.send_error(trouble[1] if trouble else 404)
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if trouble else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(train_folder, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    server = Server(train_folder.parent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def everything(shards: Shards) -> list[bytes]:
    return [shards.read(i) for i in range(len(shards))]


def test_shards_behind_http_read_as_those_in_their_folder(server, train_folder, tmp_path):
    ours = remote_shards(server.url("train"), tmp_path / "cache")
    assert everything(ours) == everything(Shards(train_folder))
    assert ours.manifest_sha256 == Shards(train_folder).manifest_sha256
    assert ours.clusters.equals(Shards(train_folder).clusters)
    assert everything(remote_shards(train_folder.as_uri(), tmp_path / "other")) == everything(ours)


def test_a_tar_is_downloaded_when_it_is_first_read_and_once(server, tmp_path):
    shards = remote_shards(server.url("train"), tmp_path / "cache")
    assert not any(path.endswith(".tar") for path in server.requests)
    shards.read(0)
    assert [path for path in server.requests if path.endswith(".tar")] == ["/train/tiny-train-000000.tar"]
    everything(shards)
    everything(remote_shards(server.url("train"), tmp_path / "cache"))
    assert len([path for path in server.requests if path.endswith(".tar")]) == 5
    assert server.requests.count("/train/index.parquet") == 1


@pytest.mark.parametrize("trouble", ["cut", 500, 503])
@pytest.mark.parametrize("name", ["manifest.json", "index.parquet", "000001.tar"])
def test_a_broken_download_is_tried_again(server, train_folder, tmp_path, name, trouble, capsys):
    server.troubles += [(name, trouble)] * 2
    shards = remote_shards(server.url("train"), tmp_path / "cache")
    assert everything(shards) == everything(Shards(train_folder))
    assert capsys.readouterr().err.count("trying again") == 2


def test_what_stays_broken_is_one_line_without_the_secrets_of_the_url(server, tmp_path, capsys):
    server.troubles += [("index.parquet", 500)] * 9
    address = server.url("train?token=hunter2").replace("://", "://alice:secret@")
    with pytest.raises(OSError, match=r"HTTP status 500; tried 4 times.*/train/index\.parquet") as error:
        remote_shards(address, tmp_path / "cache")
    said = str(error.value) + capsys.readouterr().err
    assert not any(secret in said for secret in ("alice", "secret", "hunter2", "token"))
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_missing_file_is_named_at_once(server, tmp_path):
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:\d+/nowhere/manifest\.json: no such file"):
        remote_shards(server.url("nowhere"), tmp_path / "cache")
    assert len(server.requests) == 1


def test_bytes_that_are_not_the_manifests_are_refused_and_not_kept(server, train_folder, tmp_path):
    tar = train_folder / "tiny-train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1
    tar.write_bytes(data)
    shards = remote_shards(server.url("train"), tmp_path / "cache")
    with pytest.raises(ValueError, match=r"000001\.tar: sha256: got .*tried 4 times"):
        everything(shards)
    assert not (shards.folder / tar.name).exists()


def test_other_data_behind_the_same_url_has_a_folder_of_its_own(server, train_folder, tmp_path):
    first = remote_shards(server.url("train"), tmp_path / "cache")
    manifest = train_folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "quarantine_share": 0.5}))
    second = remote_shards(server.url("train"), tmp_path / "cache")
    assert first.folder != second.folder
    assert second.manifest["quarantine_share"] == 0.5


READ_ALL = """
import sys
from pathlib import Path
from noah.data.remote import remote_shards

shards = remote_shards(sys.argv[1], Path(sys.argv[2]))
sys.stdout.buffer.write(b"".join(shards.read(i) for i in range(len(shards))))
"""


def test_processes_that_want_the_same_files_download_them_once(server, train_folder, tmp_path):
    command = [sys.executable, "-c", READ_ALL, server.url("train"), str(tmp_path / "cache")]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    expected = b"".join(everything(Shards(train_folder)))
    assert [reader.communicate(timeout=60)[0] == expected for reader in readers] == [True, True]
    assert len([path for path in server.requests if path.endswith(".tar")]) == 5


def test_batches_are_those_of_local_shards_with_workers_too(server, train_folder, tmp_path, run):
    ours = remote_shards(server.url("train"), tmp_path / "cache")
    pairs = zip(train_loader(Shards(train_folder), run, 0), train_loader(ours, run, 0, workers=2), strict=True)
    for one, other in pairs:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_all_splits_of_a_dataset_open_by_folder_copy_or_url(server, train_folder, tiny, tmp_path):
    for split in tiny.splits:
        shutil.copytree(train_folder, train_folder.parent / "shards" / "tiny" / split)
    root, url = train_folder.parent / "shards", server.url("shards")
    options = {"cache": tmp_path / "cache", "checked": tmp_path / "verified.json"}
    with (
        open_splits(root, tiny, stage_to=None, **options) as here,
        open_splits(root, tiny, stage_to=tmp_path / "node", **options) as copied,
        open_splits(url, tiny, stage_to=None, **options) as remote_ones,
    ):
        assert list(here) == list(copied) == list(remote_ones) == ["train", "minival", "test"]
        assert len({shards["train"].folder for shards in (here, copied, remote_ones)}) == 3
        assert len({shards["test"].manifest_sha256 for shards in (here, copied, remote_ones)}) == 1
    manifests = [manifest_of_test(place, tiny, tmp_path / "cache").read_bytes() for place in (root, url)]
    assert manifests[0] == manifests[1]
    with pytest.raises(ValueError, match=r"--stage-to is .*expected none with a URL"):
        open_splits(url, tiny, stage_to=tmp_path, **options).__enter__()


def test_names_go_below_the_path_and_the_query_stays_behind_it():
    assert below("https://u:p@host/a/?x=1", "b", "c.tar") == "https://u:p@host/a/b/c.tar?x=1"
    assert below("s3://bucket/shards", "b") == "s3://bucket/shards/b"
    assert public("https://u:p@host:8080/a/b?x=1#y") == "https://host:8080/a/b"
