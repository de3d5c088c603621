"""Damaged files are refused with a message or read as they are: nothing breaks, runs or is written elsewhere.

A few hundred of them here; `pytest -m long tests/robustness` tries tens of thousands and prints how many.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from robustness import targets_config, targets_data, targets_models, targets_raw, targets_results

pytestmark = pytest.mark.filterwarnings("ignore")
TARGETS = {
    name: target
    for module in (targets_config, targets_data, targets_models, targets_raw, targets_results)
    for name, target in module.TARGETS.items()
}
FEW, MANY = 8, 1000
"""Inputs per file; of slow ones a share."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_refused_with_a_message_or_read(name, box, tried):
    fuzz(TARGETS[name], box, tried, FEW, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files_are_refused_with_a_message_or_read(name, box, tried):
    fuzz(TARGETS[name], box, tried, MANY)


def fuzz(target, box, tried, examples: int, **options) -> None:
    path = Path(target.path)
    good = path.read_bytes()
    assert box.attempt(target.use) is None, "the file as it should be is read"
    damages = target.damages(good)

    @settings(
        max_examples=max(2, round(examples * target.share)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        **options,
    )
    @given(st.one_of(*(st.tuples(st.just(number), damage.changes) for number, damage in enumerate(damages))))
    def try_one(drawn):
        number, changes = drawn
        path.write_bytes(damages[number].apply(changes))
        tried["refused" if box.attempt(target.use) else "read"] += 1

    try_one()
