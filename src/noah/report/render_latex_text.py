r"""Any text as LaTeX that pdflatex, xelatex and lualatex take, and how wide it is.

Libraries for this (pylatexenc) write half of their characters as commands that a plain article does not define.
"""

# ruff: noqa: RUF001
import re
import unicodedata
from itertools import groupby

from noah.report.render_structure import plain

GLYPHS = r"\noahglyphs"
"""Characters that pdflatex has no font for: shown by an engine of Unicode, or by CJKutf8, else a question mark.
Expandable, for a list of tables before the fragment does not know the command."""

DEFINE_GLYPHS = (
    rf"\ifdefined{GLYPHS}\else\def{GLYPHS}#1#2{{\ifdefined\Umathcode#2\else\ifdefined\CJKtilde"
    r"\ifx\relax#1\relax?\else\begin{CJK}{UTF8}{#1}#2\end{CJK}\fi\else?\fi\fi}\fi"
)

_CJK_FONTS = (
    ("gbsn", "gb2312", r"[\u2e80-\u30fa\u30fc-\uffff]+"),
    ("min", "euc_jp", r"[々〇\u3041-\u30ff\u3400-\ufaff]+"),
    ("bsmi", "big5", r"[\u3400-\ufaff]+"),
)
"""What a font of CJKutf8 covers: all of a character set that is in a range. Each was tried."""

_POINTS = {
    character: points
    for points, characters in (
        (2.4, "!',.:;[]`il|"),
        (2.84, " -fj"),
        (3.4, "rst()I_"),
        (3.8, "cez"),
        (4.26, "0123456789agoJ?$*/^~\\{}"),
        (4.75, "bdhnpukqvxyS"),
        (5.8, "EFLPZ"),
        (6.3, "BCRTw"),
        (6.67, "ADGHKNOQUVXY&+<=>@Δ±−×→"),
        (7.8, "mM#%"),
        (8.8, "W"),
    )
    for character in characters
}
r"""Widths in Computer Modern at \footnotesize (8 pt), rounded up; what is not here counts as a wide one."""


def _commands(characters: str, names: str) -> dict[str, str]:
    return {one: rf"\{name}" for one, name in zip(characters, names.split(), strict=True)}


_MATH = _commands(
    "≥≤≈≠≪≫«»×·±∓→←↔⇒∞∈∼∝∑∏√", "geq leq approx neq ll gg ll gg times cdot pm mp to gets leftrightarrow Rightarrow"
    " infty in sim propto Sigma Pi surd",
) | _commands(
    "ΓΔΘΛΞΠΣΥΦΨΩαβγδεζηθικλμνξπρστυφχψωµ", "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega alpha beta gamma"
    " delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi psi omega mu",
)  # fmt: skip

_SPECIAL = {
    **{character: f"${command}$" for character, command in _MATH.items()},
    **{character: f"${character}$" for character in "<>|"},
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{
        character: f"{command}{{}}"
        for character, command in _commands("ßøØæÆœŒłŁı§", "ss o O ae AE oe OE l L i S").items()
    },
    # A superscript would have letters of 6 points.
    **{digit: rf"\raisebox{{.6ex}}{{\scriptsize {n}}}" for n, digit in ((1, "¹"), (2, "²"), (3, "³"))},
    **{"−": "$-$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "…": r"\ldots{}"},
    **{"–": r"\textendash{}", "—": r"\textemdash{}", "‐": "-", "‑": "-", "°": r"\r{}"},
    **{"`": "{`}", '"': "''", "“": "``", "”": "''", "„": ",,", "‘": "`", "’": "'"},
}

_ACCENTS = {
    **dict(zip("\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c", "`'^~\"=u.rHv", strict=True)),
    **{"\u0327": "c", "\u0323": "d", "\u0331": "b"},
}
_BELOW = "cdb"


def escape(text: str) -> str:
    """ASCII, but for the characters inside `GLYPHS`."""
    parts = []
    for known, characters in groupby(_typeset(text), key=lambda character: _character(character) is not None):
        run = "".join(characters)
        parts += map(_character, run) if known else [_glyphs(run)]
    # Two hyphens would be a dash; a bracket or star that begins a cell or an item would be an option of what precedes.
    return re.sub(r"^([\[*])", r"{\1}", re.sub("-(?=-)", "-{}", "".join(parts)))


def points(text: str) -> float:
    r"""About the width at \footnotesize, rather too wide than too narrow."""
    return sum(_POINTS.get(unicodedata.normalize("NFD", character)[0], 8.8) for character in _typeset(text))


def _typeset(text: str) -> str:
    """With composed letters, and a minus where a hyphen is one."""
    return re.sub(r"(?<![\w)\]-])-(?=\d)", "−", unicodedata.normalize("NFC", plain(text)))


def _character(character: str) -> str | None:
    if character.isascii() or character in _SPECIAL:
        return _SPECIAL.get(character, character)
    base, *marks = unicodedata.normalize("NFD", character)
    if not marks or not base.isascii() or not all(mark in _ACCENTS for mark in marks):
        return None
    latex = base
    for accent in (_ACCENTS[mark] for mark in marks):
        dotless = latex in "ij" and accent not in _BELOW
        latex = rf"\{accent}{{\{latex}}}" if dotless else rf"\{accent}{{{latex}}}"
    return latex


def _glyphs(run: str) -> str:
    """One font for the run, or one for each character: a line of mixed fonts is better than a hole."""
    for font, charset, covered in _CJK_FONTS:
        if re.fullmatch(covered, run) and run == run.encode(charset, "ignore").decode(charset):
            return rf"{GLYPHS}{{{font}}}{{{run}}}"
    return rf"{GLYPHS}{{}}{{{run}}}" if len(run) == 1 else "".join(map(_glyphs, run))
