"""The README shows what was measured and names what exists."""

import re

from tests_support import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_line_of_the_readme_s_table_stands_in_a_measured_table():
    measured = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs/results").glob("*.md"))
    rows = [line for line in README.splitlines() if line.startswith("|")]
    assert len(rows) >= 5
    for row in rows:
        assert row in measured


def test_links_and_pictures_of_the_readme_and_docs_exist():
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_python_example_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("noah_resnet50", "noah_resnet18")
    names: dict = {}
    exec(code, names)
    assert names["scores"].shape == (8, 10)
    assert names["maps"].shape == (8, 4, 10, 7, 7)


def test_the_example_study_of_the_readme_is_valid(project):
    from noah.config import load_study

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (project / "config/studies/example.yaml").write_text(text)
    assert len(load_study("example").runs) == 9
