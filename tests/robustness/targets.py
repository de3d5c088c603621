"""What a fuzzed file is: where it lies, how it is damaged, and what reads it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from robustness.damage import Damage

RUN = Path("results/tiny/runs/tiny/tiny/gmlp_tiny-d1-p8-w0.5/noah/s0")
OUT = Path("out")


class Target(NamedTuple):
    """A file, below the folder that the test works in."""

    path: str
    damages: Callable[[bytes], list[Damage]]
    """From the file as it should be."""
    use: Callable[[], Any]
    """Reads the file; may write below `out` alone."""
    share: float = 1.0
    """Of the examples: less for what is slow."""


def copied(*folders: str | Path) -> list[Path]:
    """Fresh copies below `out`."""
    shutil.rmtree(OUT, ignore_errors=True)
    for folder in folders:
        shutil.copytree(folder, OUT / folder, symlinks=True)
    return [OUT / folder for folder in folders]


def each(*acts: Callable[[], Any]) -> None:
    """Do all of them, also after one refused; then let the first refusal through."""
    refused = None
    for act in acts:
        try:
            act()
        except (ValueError, FloatingPointError, OSError) as error:
            refused = refused or error
    if refused:
        raise refused
