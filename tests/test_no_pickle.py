"""No file of a user is ever read by something that can run code of the file's choice."""

import ast
from pathlib import Path

import pytest
import yaml
from tests_support import REPOSITORY

from noah.config import files

SOURCES = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
NAMES_ONLY = {"pickle.UnpicklingError"}
"""What may be used of those modules: to catch an error is not to read a file."""
FORBIDDEN = {
    *("read_pickle", "to_pickle", "unsafe_load", "full_load", "load_state_dict_from_url", "load_state_dict_from_hub"),
    *("eval", "exec"),
}
MUST_SAY = {
    "torch.load": ("weights_only", True),
    "torch.serialization.load": ("weights_only", True),
}


def problems(source: str) -> list[str]:
    """Lines that read pickles, or run text as code."""
    tree = ast.parse(source)
    found = []
    safe_loaders = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and "SafeLoader" in ast.unparse(node)
    }
    allowed = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and dotted(node) in NAMES_ONLY
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"{node.lineno}: from {node.module}")
        if isinstance(node, ast.Name) and node.id in MODULES and id(node) not in allowed:
            found.append(f"{node.lineno}: {node.id}")
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: {alias.name} as" for alias in node.names if alias.name in MODULES and alias.asname
            ]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in call_problems(node, safe_loaders)]
    return found


def call_problems(call: ast.Call, safe_loaders: set[str]) -> list[str]:
    name = dotted(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    found = []
    if name.split(".")[-1] in FORBIDDEN and not name.endswith(".eval"):  # a module's own eval() is a mode
        found.append(name)
    if name in MUST_SAY:
        keyword, value = MUST_SAY[name]
        if not (isinstance(given.get(keyword), ast.Constant) and given[keyword].value is value):
            found.append(f"{name} without {keyword}={value}")
    if "allow_pickle" in given and not (
        isinstance(given["allow_pickle"], ast.Constant) and given["allow_pickle"].value is False
    ):
        found.append(f"{name} with allow_pickle")
    if name in ("yaml.load", "yaml.load_all"):
        loader = dotted(given["Loader"]) if "Loader" in given else ""
        if loader.split(".")[-1] not in {"SafeLoader", "CSafeLoader", *safe_loaders}:
            found.append(f"{name} with loader '{loader}'")
    return found


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_source_reads_pickles_or_runs_text(path: Path):
    assert not problems(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "import torch\ntorch.load('a', weights_only=flag)",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import pickle\npickle.load(file)",
        "import pickle as p",
        "from pickle import loads",
        "import joblib\njoblib.load('a')",
        "import pandas as pd\npd.read_pickle('a')",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_check_sees_what_it_looks_for(source):
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a', weights_only=True)",
        "import numpy as np\nnp.load('a')",
        "import pickle\nerrors = (pickle.UnpicklingError, OSError)",
        "import yaml\nyaml.safe_load(text)",
        "model.eval()",
    ],
)
def test_the_check_leaves_safe_readers_alone(source):
    assert not problems(source)


def test_the_configs_are_read_by_a_loader_that_makes_plain_values_only():
    assert issubclass(files._UniqueKeyLoader, yaml.SafeLoader)
