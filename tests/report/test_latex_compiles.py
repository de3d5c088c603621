"""The fragment in the plainest article, by the pdflatex of a distribution."""

# ruff: noqa: RUF001
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from noah.report.render import RENDERERS, Grid, Group, Table

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex: .ci/setup.sh installs it"),
]

HEADER = ("arm", "top-1", "Δ to baseline", "verdict", "params M", "MACs M", "speed", "Δ paper")
NUMBERS = ("95.41 ± 0.45", "-12.0 [-10.4, +3.8]", "behind", "0.692", "11.2", "1.00x", "+5.3")
CHARACTERS = (
    r"≥ ≤ ≈ × · – — … Δ ± → µ ² − é e̊ ł ß ñ ü ő ş ğ ı ø ð ą ж λ “a” ‘b’ « ∞ € ½ 😀 \ ~ ^ _ % < > | & # { } $ -- ` [x]"
)
CJK = ("漢字の頭", "数字识别", "臺灣", "한국 말", "ｶﾅ・", "〇々ー。")
ARMS = tuple(f"noah_{i}%<x>|&{{y}}" if i % 2 else f"[name-of-an-arm-{i}]" for i in range(30 - len(CJK))) + CJK


def grid(arms, backbones, caption="Accuracy") -> Grid:
    groups = [Group(backbone, tuple((arm, *NUMBERS) for arm in arms)) for backbone in backbones]
    return Grid(caption, HEADER, tuple(groups), "lrrlrrrr")


def installed(*files: str) -> bool:
    return subprocess.run(["kpsewhich", *files], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def cjk() -> str:
    """The packages of a paper that shows Chinese and Japanese."""
    if not installed("CJKutf8.sty", "gbsnu4e.tfm", "bsmiu4e.tfm", "udmj4e.tfm"):
        pytest.skip("no CJKutf8 or not its fonts: .ci/setup.sh installs them")
    return "booktabs,CJKutf8"


def compiled(table: Table, folder: Path, *, packages: str = "booktabs", runs: int = 2) -> str:
    """The log of the last run, which stopped at no error."""
    (folder / "fragment.tex").write_text(RENDERERS["tex"](table), encoding="utf-8")
    lines = [r"\documentclass{article}", rf"\usepackage{{{packages}}}", r"\begin{document}", r"\listoftables"]
    (folder / "paper.tex").write_text("\n".join([*lines, r"\input{fragment}", r"\end{document}"]))
    for _ in range(runs):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        # Without a limit TeX breaks the lines of its log at 79 characters.
        done = subprocess.run(command, cwd=folder, capture_output=True, env=os.environ | {"max_print_line": "1000"})
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


NASTY = Table(
    f"Heads & 漢字 {CHARACTERS}",
    (grid(ARMS, [f"backbone_{i}-w0.5" for i in range(25)] + ["検図 " * 30]), grid(("a" * 25,), ["", "b"], CHARACTERS)),
    (CHARACTERS, *CJK),
    (CHARACTERS, *CJK),
    ({},),
)


def test_thirty_arms_on_26_backbones_compile_without_a_complaint(tmp_path, cjk):
    log = compiled(NASTY, tmp_path, packages=cjk)
    assert not re.findall(r"^(?:Overfull|Missing character|LaTeX Warning|LaTeX Font Warning).*", log, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("pdffonts"), reason="no pdffonts: .ci/setup.sh installs it")
def test_no_letter_is_below_seven_points(tmp_path, cjk):
    compiled(NASTY, tmp_path, packages=cjk)
    fonts = subprocess.run(["pdffonts", tmp_path / "paper.pdf"], capture_output=True, text=True, check=True).stdout
    sizes = [int(size) for size in re.findall(r"\bCM[A-Z]+(\d+)\b", fonts)]
    assert sizes
    assert min(sizes) >= 7


def test_without_the_package_for_them_foreign_letters_become_question_marks(tmp_path):
    log = compiled(NASTY, tmp_path)
    assert "Missing character" not in log


def test_a_typical_table_stays_in_the_margins_at_eight_points(tmp_path):
    table = Table("Rivals", (grid(("gap", "gap-parameters", "noah"), ["deit_tiny"]),), ("Note.",), (), ({},))
    assert r"\scriptsize" not in RENDERERS["tex"](table)
    assert "Overfull" not in compiled(table, tmp_path)
