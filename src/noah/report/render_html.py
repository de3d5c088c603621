"""The table as one page that needs nothing else: on a phone a grid scrolls, on paper its header repeats."""

from jinja2 import Environment, StrictUndefined

from noah.report.render_structure import Table, plain


def html(table: Table) -> str:
    """One self-contained page."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["plain"] = plain
    return environment.from_string(_PAGE).render(table=table) + "\n"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ table.title | plain }}</title>
<style>
body { font: 15px/1.45 system-ui, "Noto Sans CJK SC", sans-serif; margin: 2rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .25rem .7rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { font-weight: normal; }
.l { text-align: left; }
.r { text-align: right; }
thead th { border-top: 2px solid; border-bottom: 1px solid; font-weight: 600; vertical-align: bottom; }
tbody:last-child tr:last-child > * { border-bottom: 2px solid; }
[scope=rowgroup] { text-align: left; font-weight: 600; padding-top: .8rem; }
[scope=rowgroup] span { position: sticky; left: 0; }
[scope=row] { position: sticky; left: 0; background: #fff; }
li { max-width: 60rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  body { margin: 1rem; }
  th, td { padding: .25rem .45rem; }
  .name { white-space: normal; overflow-wrap: anywhere; max-width: 9rem; }
}
@media print {
  body { margin: 0; font-size: 8.5pt; }
  th, td { padding: .1rem .35rem; }
  thead th { white-space: normal; }
  .scroll { overflow: visible; }
  [scope=row] { position: static; }
  tr, li { break-inside: avoid; }
  tr:has([scope=rowgroup]) { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
</style>
</head>
<body>
<h1>{{ table.title | plain }}</h1>
{% for grid in table.grids %}
<div class="scroll" role="region" tabindex="0" aria-label="{{ grid.caption | plain }}">
<table>
<caption>{{ grid.caption | plain }}</caption>
<thead><tr>
{% for cell in grid.header %}
<th scope="col" class="{{ grid.align[loop.index0] }}">{{ cell | plain }}</th>
{% endfor %}
</tr></thead>
{% for group in grid.groups %}
<tbody>
{% if group.heading %}
<tr><th scope="rowgroup" colspan="{{ grid.header | length }}"><span>{{ group.heading | plain }}</span></th></tr>
{% endif %}
{% for row in group.rows %}
<tr>
{%- for cell in row %}
{% if loop.first %}<th scope="row" class="name {{ grid.align[0] }}">{{ cell | plain }}</th>
{%- else %}<td class="{{ grid.align[loop.index0] }}">{{ cell | plain }}</td>
{%- endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{% endfor %}
{% if table.notes %}
<ul>
{% for note in table.notes %}
<li>{{ note | plain }}</li>
{% endfor %}
</ul>
{% endif %}
{% if table.folded %}
<details>
<summary>What the numbers rest on</summary>
<ul>
{% for note in table.folded %}
<li>{{ note | plain }}</li>
{% endfor %}
</ul>
</details>
{% endif %}
</body>
</html>
"""
