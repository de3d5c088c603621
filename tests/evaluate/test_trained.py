import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from noah.evaluate.trained import load_trained


def test_a_trained_run_comes_back_ready_to_predict(trained):
    folder = trained("noah", seed=1)
    run, model = load_trained(folder)
    assert (run.arm, run.seed) == ("noah", 1)
    assert not model.training
    written = load_file(folder / "model.safetensors")
    assert all(written[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_weights_of_another_run_are_refused(trained):
    folder, other = trained("noah", seed=0), trained("noah", seed=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors: run_sha256 is .*, expected"):
        load_trained(folder)
    save_file(load_file(other / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(ValueError, match="run_sha256 is None"):
        load_trained(folder)


def test_a_missing_or_broken_file_is_named(trained):
    folder = trained()
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a safetensors file"):
        load_trained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        load_trained(folder)
    (folder / "run.yaml").unlink()
    with pytest.raises(ValueError, match=r"run\.yaml: no such file"):
        load_trained(folder)


def test_weights_that_are_not_the_models_are_refused_by_name(trained):
    folder = trained()
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    weights["x"] = weights.popitem()[1]
    save_file(weights, path, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not what noah writes: .*Missing key.*'?x"):
        load_trained(folder)
