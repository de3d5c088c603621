"""Whether the tests would notice: faults are planted one by one in a copy of the repository, and each has to be found.

    python benchmarks/mutations                      all of mutations.yaml, about half an hour
    python benchmarks/mutations --only "EMA"         those of that name

A fault is dead when one of the tests named beside it fails, and these pass without it. Exit code 1 where one survives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
COPIED = ("src", "tests", "config", "data", "benchmarks", "docs", "pyproject.toml", "README.md", "CHANGELOG.md")


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    """Under src/noah."""
    edits: list[tuple[str, str]]
    """Text that stands there, and what is planted in its place; every occurrence."""
    tests: list[str]
    """Files under tests/, or pytest's names of single tests."""


def load() -> list[Mutation]:
    entries = yaml.safe_load((Path(__file__).parent / "mutations.yaml").read_text(encoding="utf-8"))
    return [Mutation(entry["name"], entry["file"], entry["edits"], entry["tests"]) for entry in entries]


def planted(source: str, mutation: Mutation) -> str:
    """ValueError where the text is no longer there: the list has to follow the code."""
    for old, new in mutation.edits:
        if old not in source:
            raise ValueError(f"mutations.yaml: {mutation.name}: not in {mutation.file}: {old}")
        source = source.replace(old, new)
    return source


def passes(copy: Path, tests: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutations whose name contains this")
    wanted = [mutation for mutation in load() if parser.parse_args().only in mutation.name]
    survivors, sound = [], {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for mutation in wanted:
            path, tests = copy / "src/noah" / mutation.file, tuple(mutation.tests)
            if tests not in sound:
                sound[tests] = passes(copy, mutation.tests)
            original, start = path.read_text(encoding="utf-8"), time.monotonic()
            path.write_text(planted(original, mutation), encoding="utf-8")
            survives = passes(copy, mutation.tests)
            path.write_text(original, encoding="utf-8")
            said = "SURVIVES" if survives else "dead" if sound[tests] else "?, for its tests fail without it"
            survivors += [mutation.name] if said != "dead" else []
            print(f"{said:10} {time.monotonic() - start:5.0f} s  {mutation.name}", flush=True)
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} are dead")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
