# ruff: noqa: RUF001
import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from noah.report.render import RENDERERS, Grid, Group, Table, terminal

NASTY = 'a|b <script>alert("x")</script> & 5% $x$ #1 {y} z_1 ~ ^ \\ Δ ± → *'
HEADER = ("arm", "top-1", "Δ to baseline", "verdict", "params M", "MACs M", "speed", "Δ paper")
NUMBERS = ("95.41 ± 0.45", "+12.0 [-1.4, +13.8]", "behind", "0.692", "11.2", "1.00x", "+5.3")
WIDE = ("95.41 ± 10.45", "+12.0 [-10.4, +13.8]", "behind", "120.692", "12,011.2", "1.00x", "+5.3")
CJK = ("漢字", "数字识别头", "検図の頭", "臺灣")


def table(*groups: Group, header=("name", "width", "Δ"), align="lrr", title="T", notes=(), folded=(), caption="G"):
    return Table(title, (Grid(caption, header, groups, align),), tuple(notes), tuple(folded), ({"kind": "arm"},))


def typical(arms, backbones=("deit_tiny-d6-p8-w0.5",), numbers=NUMBERS, **more):
    groups = [Group(backbone, tuple((arm, *numbers) for arm in arms)) for backbone in backbones]
    return table(*groups, header=HEADER, align="lrrlrrrr", **more)


TABLE = Table(
    title=f"T {NASTY}",
    grids=(
        Grid(
            "G",
            ("name", "width", "Δ"),
            (Group(f"B {NASTY}", ((NASTY, "1", "-0.5 ± 0.25"), ("deit_tiny", "0.5", "<0.001"))),),
            "llr",
        ),
    ),
    notes=(f"Note {NASTY}",),
    folded=(f"Folded {NASTY}",),
    records=(
        {"kind": "arm", "name": 'a,"b"\nc', "value": 1 / 3, "count": 7},
        {"kind": "pair", "value": None, "count": None},
    ),
)


class Text(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def bars(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("row", "align"), [(("a", "1"), "lrr"), (("a", "1", "2"), "lr"), (("a", "1", "2"), "lcr")], ids=str
)
def test_a_grid_refuses_rows_and_alignments_that_do_not_fit_its_header(row, align):
    with pytest.raises(AssertionError):
        table(Group("", (row,)), align=align)


def test_html_shows_the_text_as_it_is_and_needs_nothing_else():
    page = Text(RENDERERS["html"](TABLE))
    for text in (NASTY, f"T {NASTY}", f"B {NASTY}", f"Note {NASTY}", f"Folded {NASTY}"):
        assert text in page.texts
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)


def test_html_groups_rows_under_a_heading_and_folds_long_notes():
    page = RENDERERS["html"](TABLE)
    rowgroups = [attributes for tag, attributes in Text(page).tags if attributes.get("scope") == "rowgroup"]
    assert rowgroups == [{"scope": "rowgroup", "colspan": "3"}]
    assert page.index("</ul>") < page.index("<details>") < page.index("Folded") < page.index("</details>")
    assert "rowgroup" not in [a.get("scope") for _, a in Text(RENDERERS["html"](table(Group("", ())))).tags]


def test_html_aligns_each_column_as_the_grid_says():
    cells = [(tag, a["class"]) for tag, a in Text(RENDERERS["html"](TABLE)).tags if "class" in a and tag != "div"]
    body = [("th", "name l"), ("td", "l"), ("td", "r")]
    assert cells == [("th", "l"), ("th", "l"), ("th", "r"), *body, *body]


def test_markdown_cells_cannot_break_out():
    text = RENDERERS["md"](TABLE)
    rows = bars(text)
    assert [row.replace("\\|", "").count("|") for row in rows] == [4] * 5
    assert "<script" not in text
    assert "deit_tiny" in rows[4]
    assert "<0.001" in rows[4]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("_x_ __init__ a_b", r"\_x\_ \_\_init\_\_ a_b"),
        ("+2.0 [+0.4, +3.8]", "+2.0 [+0.4, +3.8]"),
        ("[a](b) [a][b] [^1]", r"[a\](b) [a\][b] \[^1]"),
        ("~x~ $x$ **b** `c`", r"\~x\~ \$x\$ \*\*b\*\* \`c\`"),
        ("<b> &lt; <0.001 A & B", "&lt;b> &amp;lt; <0.001 A & B"),
    ],
)
def test_markdown_escapes_only_what_would_become_markup(text, shown):
    assert shown in bars(RENDERERS["md"](table(Group("", ((text, "1", "2"),)))))[2]


@pytest.mark.parametrize("note", ["# x", "- x", "+ x", "> x", ">x", "1. x", "2) x", "---", "[ ] x"])
def test_a_markdown_note_opens_no_block(note):
    line = RENDERERS["md"](table(notes=(note,))).splitlines()[-1]
    assert line.replace("\\", "", 1) == f"- {note}"
    assert re.match(r"- \d*\\", line)


def test_a_markdown_heading_overhangs_and_widens_no_column():
    header, rule, heading, *rows = bars(RENDERERS["md"](typical(["gap", "noah"], ["a-very-long-backbone" * 5])))
    assert heading == f"| **{'a-very-long-backbone' * 5}** |" + " |" * 7
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    assert rule.count("-:|") == 6


def test_raw_markdown_of_a_typical_grid_stays_within_100_characters():
    lines = bars(RENDERERS["md"](typical([f"arm-{i:010}" for i in range(40)])))
    assert len(lines) == 43
    assert max(len(line) for line in lines) <= 100


def test_markdown_folds_long_notes_and_renders_what_is_inside():
    text = RENDERERS["md"](table(notes=("short",), folded=("long", "longer")))
    assert text.endswith(
        "- short\n\n<details><summary>What the numbers rest on</summary>\n\n- long\n- longer\n\n</details>\n"
    )
    assert "details" not in RENDERERS["md"](table(notes=("short",)))


def test_wide_characters_are_padded_as_the_two_columns_they_take():
    rows = [(name, "1", "2") for name in (*CJK, "ascii")]
    for text in (RENDERERS["md"](table(Group("", tuple(rows)))), terminal(table(Group("", tuple(rows))), 80)):
        lines = [line for line in text.splitlines() if line.rstrip("|").rstrip().endswith("2")]
        assert len(lines) == 5
        assert len({cell_len(line) for line in lines}) == 1


def test_a_typical_grid_fits_80_columns_with_all_its_columns():
    lines = terminal(typical(["gap-parameters", "noah"]), 80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert ["gap-parameters", *" ".join(NUMBERS).split()] in [line.split() for line in lines]
    assert "Left out" not in "".join(lines)


def test_forty_arms_on_many_backbones_keep_one_line_each():
    arms, backbones = [f"arm-{i}" for i in range(40)], [f"backbone-{i}" for i in range(26)]
    lines = terminal(typical(arms, backbones), 80).splitlines()
    headings = [i for i, line in enumerate(lines) if line in backbones]
    assert len(headings) == 26
    assert all([line.split()[0] for line in lines[i + 1 : i + 41]] == arms for i in headings)


@pytest.mark.parametrize("width", range(40, 121, 5))
@pytest.mark.parametrize("arm", ["noah", "gap-parameters", "a_very_long_name_of_an_arm", "漢字の頭漢字の頭漢字の頭"])
def test_a_terminal_of_any_width_keeps_numbers_whole_and_names_what_it_leaves_out(arm, width):
    shown = typical(
        ["gap", arm], numbers=WIDE, title="A title of many words " * 5, notes=("a note " * 30,), caption=NASTY
    )
    text = terminal(shown, width)
    assert max(map(cell_len, text.splitlines())) <= width
    words = text.split()
    left_out = re.search(r"comparison\.csv: (.*)", " ".join(words[: words.index("-")]))
    columns = left_out[1].split(", ") if left_out else []
    assert columns == list(HEADER[len(HEADER) - len(columns) :])
    assert len(columns) <= 4
    for number in " ".join(WIDE[: len(WIDE) - len(columns)]).split():
        assert words.count(number) >= 2, number
    assert re.sub(r"\s", "", arm) in re.sub(r"\s", "", "".join(first_column(text)))


def first_column(text: str) -> list[str]:
    """What stands left of the first space of each line: names that were wrapped, one piece under the other."""
    return [line.split(" ")[0] for line in text.splitlines()]


def test_the_terminal_shows_folded_notes_only_on_request():
    shown = table(notes=("short",), folded=("long",))
    assert terminal(shown, 80).endswith("\n\n- short\n")
    assert terminal(shown, 80, notes=True).endswith("\n\n- short\n- long\n")


def test_no_text_can_steer_a_terminal():
    evil = "a\x1b[31mb\u202ec\rd"
    text = terminal(table(Group(evil, ((evil, evil, evil),)), title=evil, notes=(evil,), caption=evil), 80)
    assert all(character.isprintable() for line in text.split("\n") for character in line)


def test_latex_escapes_every_special_character():
    text = RENDERERS["tex"](TABLE)
    assert (
        r"5\% \$x\$ \#1 \{y\} z\_1 \textasciitilde{} \textasciicircum{} \textbackslash{} $\Delta$ $\pm$ $\to$" in text
    )
    assert r"a$|$b $<$script$>$" in text
    assert r"$-$0.5 $\pm$ 0.25" in text
    fragment = text[: text.index("% What the numbers rest on:")]
    assert fragment.isascii()
    assert [fragment.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert fragment.count("{") == fragment.count("}")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("≥ ≤ ≈ × · – — …", r"$\geq$ $\leq$ $\approx$ $\times$ $\cdot$ \textendash{} \textemdash{} \ldots{}"),
        ("Δ ± → µ μ λ −1", r"$\Delta$ $\pm$ $\to$ $\mu$ $\mu$ $\lambda$ $-$1"),
        ("é e\u0301 Å ł ß î ş ǰ", r"\'{e} \'{e} \r{A} \l{} \ss{} \^{\i} \c{s} \v{\j}"),
        ("[-0.4, +3.8]", r"{[}$-$0.4, +3.8]"),
        ("a--b 2026-11-22 *", r"a-{}-b 2026-11-22 *"),
        ("m²", r"m\raisebox{.6ex}{\scriptsize 2}"),
        ("a\x00b\u200b", "a?b?"),
        ("数字识别", r"\noahglyphs{gbsn}{数字识别}"),
        ("検図 臺灣", r"\noahglyphs{min}{検図} \noahglyphs{min}{臺灣}"),
        ("ж한😀", r"\noahglyphs{}{ж}\noahglyphs{}{한}\noahglyphs{}{😀}"),
    ],
)
def test_latex_writes_every_character_as_something_that_compiles(text, latex):
    assert rf"\item {latex}" + "\n" in RENDERERS["tex"](table(notes=(text,)))


def test_latex_asks_for_the_packages_that_it_needs_and_no_more():
    first = RENDERERS["tex"](table()).splitlines()[0]
    assert first == r"% Needs \usepackage{booktabs}."
    first = RENDERERS["tex"](table(notes=("漢字",))).splitlines()[0]
    assert first.startswith(r"% Needs \usepackage{booktabs}, and for Chinese and Japanese \usepackage{CJKutf8}")


@pytest.mark.parametrize(
    ("arm", "numbers", "size", "lines"),
    [
        ("gap-parameters", NUMBERS, "footnotesize", ["gap-parameters"]),
        ("gap-parameters", WIDE, "scriptsize", ["gap-parameters"]),
        ("a-name-of-some_length", NUMBERS, "footnotesize", ["a-name-of-", r"some\_length"]),
        ("a" * 40, NUMBERS, "footnotesize", ["a" * 14, "a" * 14, "a" * 12]),
    ],
)
def test_latex_scales_nothing_and_shrinks_letters_only_when_it_must(arm, numbers, size, lines):
    text = RENDERERS["tex"](typical([arm], numbers=numbers))
    assert not re.search(r"\\(resizebox|scalebox|tiny)", text)
    assert rf"\{size}\setlength" in text
    row = next(line for line in text.splitlines() if "95.41" in line)
    assert all(word in text for word in ("verdict", "params", "MACs", "speed", "paper"))
    name = row.split(" & ")[0].removeprefix(r"\begin{tabular}[t]{@{}l@{}}").removesuffix(r"\end{tabular}")
    assert name.split(r" \\ ") == lines


def floats(text: str) -> list[str]:
    return re.findall(r"\\begin\{table\*\}.*?\\end\{table\*\}", text, re.DOTALL)


def test_latex_cuts_a_long_grid_between_its_groups():
    parts = floats(RENDERERS["tex"](typical(["gap", "noah"], [f"b{i}" for i in range(26)])))
    assert [part.count(r"\multicolumn") for part in parts] == [13, 13]
    assert [part.count(r"\caption{") for part in parts] == [1, 0]
    assert "(continued)" in parts[1]


def test_latex_cuts_a_group_that_is_longer_than_a_float():
    parts = floats(RENDERERS["tex"](typical([f"arm{i}" for i in range(100)], ["b"])))
    assert [part.count("95.41") for part in parts] == [39, 39, 22]
    assert [re.findall(r"\\textbf\{(.*?)\}", part) for part in parts] == [["b"], ["b (continued)"], ["b (continued)"]]


def test_latex_folds_notes_into_comments():
    lines = RENDERERS["tex"](table(folded=("word " * 60, "漢字 \n\\input{x}"))).splitlines()
    start = lines.index("% What the numbers rest on:")
    assert len(lines[start:]) > 4
    assert all(line.startswith("% ") for line in lines[start:])


def test_csv_reads_back_unrounded():
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](TABLE), newline="")))
    assert rows[0] == {"kind": "arm", "name": 'a,"b"\nc', "value": repr(1 / 3), "count": "7"}
    assert rows[1] == {"kind": "pair", "name": "", "value": "", "count": ""}
