"""What one training job asks of a cluster: from the plan that `noah plan --save` wrote, else from the study."""

import csv
import os

from noah.config.run import Run
from noah.config.study import Study

SHORTEST_MIN = 15
"""Start-up takes minutes, and Slurm may send the signal before the time limit a minute early."""
LIMIT = "NOAH_MAX_RUNTIME_MIN"
"""Environment variable: the longest time that the partition allows, in minutes. What takes longer is resumed."""


def train_resources(study: Study, run: Run) -> dict[str, int]:
    """`mem_mb` and `runtime` (minutes) of the job that trains a run.

    Raises:
        ValueError: NOAH_MAX_RUNTIME_MIN is no number of minutes.
    """
    planned = _planned(study, run)
    runtime = int(planned["runtime_min"]) if planned.get("runtime_min") else study.spec.resources.runtime_min
    limit = os.environ.get(LIMIT) or "1000000"
    if not limit.isdigit() or int(limit) < SHORTEST_MIN:
        raise ValueError(f"environment: {LIMIT} is '{limit}', expected a number of minutes from {SHORTEST_MIN}")
    return {
        "mem_mb": int(planned.get("mem_mb") or study.spec.resources.mem_mb),
        "runtime": min(max(SHORTEST_MIN, runtime), int(limit)),
    }


def _planned(study: Study, run: Run) -> dict[str, str]:
    """The row of the run in plan.csv; empty where there is none."""
    path = study.results / "plan.csv"
    wanted = (run.dataset.name, run.recipe_name, run.backbone.slug, run.arm)
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if (row["dataset"], row["recipe"], row["backbone"], row["arm"]) == wanted:
                    return row
    return {}
