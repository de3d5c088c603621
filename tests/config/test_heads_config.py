"""What a study may say of a head: its own fields, its own inits, and nothing of another head's."""

import inspect
from pathlib import Path

import pytest
import yaml

from noah.config import Head, load_study
from noah.config.head import FIELDS, HEADS, INITS

NEVER_CONFIGURED = {"in_features", "num_classes", "drop_rate", "init", "impl", "positions", "device", "dtype"}
SAMPLES = {
    "num_heads": 2,
    "key_ratio": 0.5,
    "score": "sigmoid",
    "split_groups": False,
    "split_key_value": False,
    "kernel_size": 3,
    "merge": "max",
    "match": "macs",
    "lam": 0.5,
    "mlp_ratio": 2.0,
    "num_groups": 5,
    "embed_dim": 16,
    "hidden_dim": 16,
    "gamma": 1.25,
    "num_blocks": 1,
    "layer_scale": 0.1,
}


def with_arm(**arm) -> None:
    path = Path("config/studies/tiny.yaml")
    study = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**study, "arms": {"one": arm}, "compare": []}))


def test_fields_and_inits_are_those_of_the_classes():
    from noah.heads import HEADS as CLASSES

    for name, head in CLASSES.items():
        assert set(inspect.signature(head).parameters) - NEVER_CONFIGURED == set(FIELDS.get(name, ()))
        for init in INITS[name]:
            head(8, 2, init=init)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("field", SAMPLES)
def test_a_head_takes_its_own_fields_and_no_others(name, field):
    data = {"name": name, "init": INITS[name][0], field: SAMPLES[field]}
    if field in FIELDS.get(name, ()):
        assert Head.model_validate(data).kwargs[field] == SAMPLES[field]
    else:
        with pytest.raises(ValueError, match=f"head '{name}': unknown key '{field}', which only '"):
            Head.model_validate(data)


def test_every_field_has_a_sample_here():
    assert set(SAMPLES) == set(Head.model_fields) - {"name", "drop_rate", "init"}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_can_be_an_arm(project, name):
    with_arm(head=name, drop_rate=0.1)
    head = load_study("tiny").runs[0].head
    assert (head.name, head.drop_rate) == (name, 0.1)


def test_a_control_has_the_size_of_the_papers_noah_and_no_handicap_at_the_start(project):
    with_arm(head="gap_hidden", match="macs")
    head = load_study("tiny").runs[0].head
    assert head.kwargs == {"drop_rate": 0.0, "init": "default", "num_heads": 4, "key_ratio": 0.5, "match": "macs"}


def test_a_rival_starts_as_its_own_paper_has_it_whatever_the_backbone(project):
    with_arm(head="csra", lam=0.5)
    assert load_study("tiny").runs[0].head.kwargs == {"drop_rate": 0.0, "init": "default", "lam": 0.5}


@pytest.mark.parametrize(
    ("arm", "parts"),
    [
        ({"head": "simpool", "gama": 2.0}, ["studies/tiny.yaml", "arms.one", "'gama'", "did you mean gamma?"]),
        ({"head": "simpool", "lam": 2.0}, ["studies/tiny.yaml", "arms.one", "'lam'", "only 'csra'"]),
        ({"head": "csra", "lam": "much"}, ["studies/tiny.yaml", "arms.one", "lam", "'much'", "number"]),
        ({"head": "csra", "init": "zero"}, ["studies/tiny.yaml", "arms.one", "'zero'", "default"]),
        ({"head": "noah", "name": "gap"}, ["studies/tiny.yaml", "arms.one", "'name'"]),
        ({"head": "attention_pool", "num_heads": 3}, ["arm 'one'", "gmlp_tiny", "64 channels", "num_heads (3)"]),
        ({"head": "gap_hidden", "num_heads": 3}, ["arm 'one'", "gmlp_tiny", "num_heads 3 does not divide"]),
        ({"head": "noah", "key_ratio": 0.0}, ["arm 'one'", "key_ratio is 0.0"]),
    ],
)
def test_a_mistake_in_an_arm_is_one_line_that_names_file_field_and_expectation(project, arm, parts):
    with_arm(**arm)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_study("tiny")
    for part in parts:
        assert part in str(error.value)


def test_heads_that_share_all_channels_need_not_divide_them(project):
    with_arm(head="noah", num_heads=3, split_groups=False)
    assert load_study("tiny").runs[0].head.num_heads == 3
