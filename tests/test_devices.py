"""A device that is not there, or cannot do what was asked for, is said in one line before anything is computed."""

from types import SimpleNamespace

import pytest
import torch

from noah import devices
from noah.devices import check_memory, check_precision, choose_device, is_gone

CUDA = torch.device("cuda", 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA V100")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def driver_that_says(no_gpu, monkeypatch, tmp_path):
    """driver_that_says(words): NVIDIA's driver is there, and CUDA does not start with these words."""

    def make(words: str) -> None:
        def init():
            raise RuntimeError(words)

        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(devices, "NVIDIA", tmp_path / "nvidiactl")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", init)

    return make


def test_a_gpu_is_taken_where_there_is_one_each_rank_its_own(two_gpus):
    assert choose_device("auto") == CUDA
    assert choose_device("cuda", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 7) == torch.device("cpu")


def test_more_processes_than_gpus_are_an_error(two_gpus):
    with pytest.raises(ValueError, match="LOCAL_RANK is 2, expected below 2, the number of GPUs that torch sees"):
        choose_device("auto", 2)


def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error(no_gpu):
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no GPU here"):
        choose_device("cuda")


def test_another_name_is_an_error():
    with pytest.raises(ValueError, match="device is 'tpu', expected auto, cpu or cuda"):
        choose_device("tpu")


def test_without_a_driver_auto_is_the_cpu(no_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "NVIDIA", tmp_path / "nvidiactl")
    assert choose_device("auto") == torch.device("cpu")


def test_a_driver_that_is_too_old_is_no_reason_to_train_on_the_cpu_for_weeks(driver_that_says):
    driver_that_says("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it")
    with pytest.raises(
        ValueError, match=r"device is 'auto', but .* is too old \(found version 11040\)\. \(with device"
    ):
        choose_device("auto")


def test_a_job_that_was_given_no_gpu_on_a_machine_with_some_trains_on_the_cpu(driver_that_says):
    driver_that_says("No CUDA GPUs are available")
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no GPU here: No CUDA GPUs are available"):
        choose_device("cuda")


def test_bf16_that_a_card_would_only_imitate_is_an_error(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    check_precision("recipe: precision", "fp16", CUDA)
    check_precision("recipe: precision", "bf16", torch.device("cpu"))
    with pytest.raises(ValueError, match="recipe: precision is bf16, which cuda: NVIDIA V100 does not have, expected"):
        check_precision("recipe: precision", "bf16", CUDA)


def test_a_card_with_too_little_memory_free_is_an_error(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 2**20, 16 * 2**20))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * 2**20)
    check_memory("a step", 3 * 2**20, CUDA)
    check_memory("a step", 2**40, torch.device("cpu"))
    with pytest.raises(ValueError, match="a step needs at least 4 MiB, and cuda: NVIDIA V100 has 3 of its 16 MiB free"):
        check_memory("a step", 4 * 2**20, CUDA)


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: device-side assert triggered", False),
        ("shapes cannot be multiplied", False),
    ],
)
def test_a_card_that_failed_is_told_from_a_program_that_did(words, gone):
    assert is_gone(RuntimeError(words)) is gone
    assert not is_gone(ValueError(words))


def test_devices_are_described_by_their_names(two_gpus):
    assert devices.describe_device(CUDA) == "cuda: NVIDIA V100"
    assert devices.describe_device(SimpleNamespace(type="cpu")).startswith("cpu: ")
