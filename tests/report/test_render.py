import csv
import io
from html.parser import HTMLParser

from noah.report.render import RENDERERS, Grid, Table

NASTY = 'a|b <script>alert("x")</script> & 5% $x$ #1 {y} z_1 ~ ^ \\ Δ ± → *'
TABLE = Table(
    title=f"T {NASTY}",
    grids=(Grid("G", ("name", "width", "Δ"), ((NASTY, "1", "-0.5 ± 0.25"), ("deit_tiny", "0.5", "<0.001"))),),
    notes=(f"Note {NASTY}",),
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


def test_html_shows_the_text_as_it_is_and_needs_nothing_else():
    page = Text(RENDERERS["html"](TABLE))
    assert NASTY in page.texts
    assert f"Note {NASTY}" in page.texts
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)


def test_markdown_cells_cannot_break_out():
    lines = RENDERERS["md"](TABLE).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [4, 4, 4, 4]
    assert len({len(row) for row in rows}) == 1
    assert "<script" not in "".join(lines)
    assert "deit_tiny" in rows[3]
    assert "<0.001" in rows[3]


def test_latex_escapes_every_special_character():
    text = RENDERERS["tex"](TABLE)
    assert (
        r"5\% \$x\$ \#1 \{y\} z\_1 \textasciitilde{} \textasciicircum{} \textbackslash{} $\Delta$ $\pm$ $\to$" in text
    )
    assert r"a|b $<$script$>$" in text
    assert r"$-$0.5 $\pm$ 0.25" in text
    assert text.isascii()
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert text.count("{") == text.count("}")


def test_csv_reads_back_unrounded():
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](TABLE), newline="")))
    assert rows[0] == {"kind": "arm", "name": 'a,"b"\nc', "value": repr(1 / 3), "count": "7"}
    assert rows[1] == {"kind": "pair", "name": "", "value": "", "count": ""}
