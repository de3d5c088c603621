"""Who imports whom: downward only, as docs/architecture.md draws it."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "noah"

ALLOWED = {
    "backbones": set(),
    "average_precision": set(),
    "files": set(),
    "signals": set(),
    "machine": set(),
    "precision": set(),
    "devices": {"machine"},
    "redact": set(),
    "dvc_cache": set(),
    "config": {"backbones"},
    "heads": {"backbones"},
    "data": {"config", "files"},
    "models": {"heads", "backbones", "files"},
    "engine": {
        "average_precision",
        "heads",
        "models",
        "data",
        "config",
        "devices",
        "files",
        "machine",
        "precision",
        "redact",
        "signals",
    },
    "evaluate": {"average_precision", "models", "data", "config", "devices", "files", "machine", "precision"},
    "published": {"config", "files"},
    "report": {"config", "files", "backbones", "published"},
    "tracking": {"config", "files", "redact", "report"},
    "benchmark": {"backbones", "heads", "models", "data", "engine", "evaluate", "config", "files", "machine"},
    "plan": {"backbones", "evaluate", "models", "data", "config", "files", "published"},
    "commands": {"config", "data", "dvc_cache", "engine", "evaluate", "plan", "report", "tracking"},
    "cli": {"benchmark", "commands", "data", "redact", "signals"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            modules = [f"noah.{alias.name}" for alias in node.names] if node.module == "noah" else [node.module]
        found |= {module.split(".")[1] for module in modules if module.startswith("noah.")}
    return found


def test_every_module_imports_only_layers_below_it():
    for path in SOURCE.rglob("*.py"):
        layer = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        extra = imports_of(path) - ALLOWED[layer] - {layer}
        assert not extra, f"{path.relative_to(SOURCE)} imports {sorted(extra)}"


def test_the_workflow_imports_nothing_but_the_config():
    rules = (SOURCE.parents[1] / "workflow").rglob("*.smk")
    for path in [*rules, SOURCE.parents[1] / "Snakefile"]:
        lines = [line for line in path.read_text().splitlines() if "import" in line and "noah" in line]
        assert all("noah.config" in line for line in lines), path
