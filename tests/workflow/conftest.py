"""One clone per test module."""

import pytest
from workflow_clone import Clone, make_clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("clone") / "noah")
