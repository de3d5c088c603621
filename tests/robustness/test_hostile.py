"""Files that were made to run code or to write elsewhere: each is refused, and nothing happens."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
from robustness.damage import FAR
from robustness.targets import OUT, RUN
from robustness.targets_models import ALONE, STATE, official_model, small_state
from robustness.targets_raw import build

from noah.config import load_dataset, load_run
from noah.config.recipe import load_recipe
from noah.data.reader import Shards
from noah.engine.state import serialized, write_checkpoint
from noah.evaluate.trained import load_trained
from noah.files import read_json
from noah.models.weights import load_official_weights

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding")


class Planted:
    """Pickled, it is a command."""

    def __init__(self, run, *arguments):
        self.parts = run, arguments

    def __reduce__(self):
        return self.parts


COMMANDS = {
    "os.system": Planted(os.system, "touch ../outside/planted"),
    "eval": Planted(eval, "__import__('os').system('touch ../outside/planted')"),
    "open": Planted(open, "../outside/planted", "w"),
    "unpickling again": Planted(pickle.loads, pickle.dumps(Planted(os.system, "touch ../outside/planted"))),
    "torch.load": Planted(torch.load, "weights/official.pth"),
    "import": Planted(__import__, "antigravity"),
}


def as_zip(data) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("write", [as_zip, pickle.dumps], ids=["zip", "pickle"])
def test_a_command_inside_official_weights_does_not_run(command, write, box):
    Path("weights/official.pth").write_bytes(write({"model": COMMANDS[command]}))
    assert box.attempt(lambda: load_official_weights(official_model(), Path("weights/official.pth")))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_inside_a_checkpoint_does_not_run_though_its_checksum_fits(command, box):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        write_checkpoint(STATE / name, serialized({"model": COMMANDS[command]}))
    assert box.attempt(lambda: small_state().load(STATE, ALONE), (str(STATE),)) is None, "reported, and begun anew"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pickle_in_the_place_of_any_other_file_does_not_run(command, box):
    reads = {
        RUN / "model.safetensors": lambda: load_trained(RUN),
        RUN / "run.yaml": lambda: load_run(RUN / "run.yaml"),
        RUN / "metrics.json": lambda: read_json(RUN / "metrics.json"),
        Path("raw/table/table.parquet"): lambda: build("table-parquet"),
        Path("raw/webdataset/train-0.tar"): lambda: build("webdataset"),
        Path("raw/idx/images"): lambda: build("idx"),
        Path("raw/cifar/cifar-10-binary.tar"): lambda: build("cifar"),
    }
    for path, read in reads.items():
        path.write_bytes(pickle.dumps(COMMANDS[command]))
        assert box.attempt(read), path


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch ../outside/planted']", "!!python/name:os.system", "!!python/module:os"],
)
def test_a_tag_of_yaml_does_not_run(tag, box):
    path = Path("config/datasets/tiny.yaml")
    path.write_text(path.read_text() + f"\nextra: {tag}\n")
    assert "tiny.yaml" in box.attempt(lambda: load_dataset("tiny"))


def test_aliases_without_end_are_refused_in_a_short_line(box):
    lines = ["title: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    Path("config/recipes/tiny.yaml").write_text("\n".join([*lines, "epochs: *l11"]))
    assert len(box.attempt(lambda: load_recipe("tiny"))) < 5000


@pytest.mark.parametrize("name", [FAR, "/tmp/planted", "cat/../../../../outside/planted", "..", "cat/.."])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_members_of_an_archive_write_nothing_elsewhere(name, kind, box):
    """A path inside an archive is only a name; links and devices are left out."""
    image = Path("images/plain.jpg").read_bytes()
    with tarfile.open("raw/folder/train.tar", "a") as tar:
        info = tarfile.TarInfo(f"{name}.jpg" if kind == tarfile.REGTYPE else name)
        info.type, info.linkname = kind, FAR
        info.size = len(image) if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(image))
    box.attempt(lambda: build("folder-tar"))
    assert not [path for path in OUT.rglob("*") if path.is_symlink()]


def test_a_manifest_names_no_file_of_another_folder(box):
    path = Path("shards/tiny/train/manifest.json")
    text = path.read_text()
    for name in (f"{FAR}.tar", "/etc/passwd", "..tar", ".tar", "a/b.tar"):
        path.write_text(text.replace("tiny-train-000001.tar", name))
        assert "shards.1.name" in box.attempt(lambda: Shards(path.parent))
