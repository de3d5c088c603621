"""Verbs of a whole study: planned, gathered, shown."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from noah.commands.options import Scale, StudyName
from noah.config import load_study

app = typer.Typer()


@app.command()
def plan(
    study: StudyName,
    scale: Scale = "full",
    save: Annotated[bool, typer.Option(help="Also write results/STUDY/plan.csv.")] = False,
    on: Annotated[
        str | None, typer.Option(help="Instead: what it takes on a node of GPUs, such as h100x8 (a100, h200).")
    ] = None,
) -> None:
    """Build every model of a study without training it: size beside the published one, images/s, hours, warnings.

    Also says what difference the study could find. Exits with 2 when a run cannot work. Example: noah plan digits
    """
    from noah.plan import add_resolution, make_plan, save_plan, show_plan
    from noah.plan.machines import parse_node
    from noah.plan.scale import scale_lines
    from noah.report.resolution import foresee, remarks

    node = parse_node(on) if on else None
    loaded = load_study(study, scale)
    if node:
        print("\n".join(scale_lines(loaded, make_plan(loaded), node)))
        return
    differences = foresee(loaded)
    table = add_resolution(make_plan(loaded), differences)
    show_plan(loaded, table, differences, remarks(loaded, differences))
    if save:
        print(save_plan(loaded, table))


@app.command()
def collect(study: StudyName, scale: Scale = "full") -> None:
    """Gather metrics and costs of all runs in long.parquet, and what differs between arms in fairness.json.

    \b
    Example: noah collect digits
    """
    from noah.report.collect import collect as collect_study

    loaded = load_study(study, scale)
    collect_study(loaded)
    print(loaded.results / "long.parquet")


@app.command()
def compare(study: StudyName, scale: Scale = "full") -> None:
    """Compute every difference with its interval, p and verdict once: comparison.parquet, from the prediction records.

    \b
    Example: noah compare digits
    """
    from noah.report.comparison import compare as compare_study

    print(compare_study(load_study(study, scale)))


@app.command()
def table(
    study: StudyName,
    scale: Scale = "full",
    show: Annotated[bool, typer.Option("--show", help="Print the table that is there; write nothing.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="With --show: also what the numbers rest on.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="Compare with an earlier copy: its CSV, or a folder of dated ones.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Copy tables and figures, dated, to docs/results.")
    ] = False,
) -> None:
    """Write the comparison tables: Markdown, LaTeX, HTML, CSV. A missing cell shows as missing.

    \b
    Example: noah table digits --show
    """
    from noah.report.against import agreement
    from noah.report.tables import publish as publish_tables
    from noah.report.tables import table_for_terminal, write_tables

    if (publish and (show or against)) or (notes and not show):
        raise ValueError("noah table: --publish stands alone, and --notes goes with --show")
    loaded = load_study(study, scale)
    if show or against:
        if show:
            print(table_for_terminal(loaded, shutil.get_terminal_size((100, 24)).columns, with_notes=notes))
            print("" if notes else f"What the numbers rest on: noah table {study} --scale {scale} --show --notes")
        for line in agreement(loaded, against) if against else ():
            print(line)
        return
    for path in publish_tables(loaded) if publish else write_tables(loaded):
        print(path)


@app.command()
def figures(study: StudyName, scale: Scale = "full") -> None:
    """Draw training curves, differences over the epochs, and differences with their intervals.

    \b
    Example: noah figures digits
    """
    from noah.report.figures import write_figures

    for path in write_figures(load_study(study, scale)):
        print(path)


@app.command()
def track(
    study: Annotated[str | None, typer.Argument(help="A file of config/studies, without .yaml.")] = None,
    scale: Scale = "full",
    init: Annotated[bool, typer.Option("--init", help="Only make the local store, if there is none.")] = False,
) -> None:
    """Publish a study's files to MLflow; again is the same as once. Address: MLFLOW_TRACKING_URI, else a local file.

    \b
    Example: noah track digits
    """
    from noah.tracking import init_local_store, publish

    if init:
        print(init_local_store())
        return
    if study is None:
        raise ValueError("STUDY is missing, expected a file of config/studies, or --init")
    tracked = publish(load_study(study, scale))
    print(f"{tracked['status']}: {len(tracked['runs'])} runs at {tracked['uri']}")


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 5000,
) -> None:
    """Serve the MLflow pages of the tracked studies.

    \b
    Example: noah ui --port 5000
    """
    from noah.tracking import serve

    serve(host, port)
