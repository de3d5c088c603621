"""The list of planted faults follows the code: each still has its place, and the tests that shall find it are there."""

import importlib.util
import sys

import pytest
from tests_support import REPOSITORY

spec = importlib.util.spec_from_file_location("mutations", REPOSITORY / "benchmarks" / "mutations" / "__main__.py")
mutations = importlib.util.module_from_spec(spec)
sys.modules["mutations"] = mutations  # where dataclasses look for it
spec.loader.exec_module(mutations)


@pytest.mark.parametrize("fault", mutations.load(), ids=lambda fault: fault.name)
def test_a_fault_still_has_its_place_and_its_tests(fault):
    source = (REPOSITORY / "src" / "noah" / fault.file).read_text(encoding="utf-8")
    assert mutations.planted(source, fault) != source
    for named in fault.tests:
        path, _, test = named.partition("::")
        assert not test or f"def {test.partition('[')[0]}(" in (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
