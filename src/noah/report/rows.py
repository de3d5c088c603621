"""The rows of a study's tables and figures: a backbone on a dataset with a recipe, and the pairs that are compared."""

from dataclasses import dataclass

from noah.backbones import BACKBONES
from noah.config import BackboneSpec, Run, Study

SCORES = {"top1": "top-1", "map": "mAP"}
"""What `Dataset.score` is called."""
Pair = tuple[str, str]
"""Arms [from, to]; Δ is `to` minus `from`."""


@dataclass(frozen=True)
class Row:
    """A backbone on a dataset with a recipe."""

    dataset: str
    score: str
    """Of the dataset: `top1` or `map`."""
    recipe: str
    backbone: BackboneSpec
    arms: dict[str, dict[int, Run]]
    """Arm -> seed -> run; an arm that does not exist for the family is left out."""

    @property
    def name(self) -> tuple[str, str, str]:
        """Dataset, recipe, backbone: the columns by which its numbers are found."""
        return self.dataset, self.recipe, self.backbone.slug

    def pairs(self, study: Study) -> dict[Pair, bool]:
        """The pairs that are compared, to whether the study declares them; the others are arms and the reference.

        A pair that the study declares and an arm of which does not exist here is left out.
        """
        reference = reference_arm(study)
        declared = dict.fromkeys(pair for pair in study.spec.compare if pair[0] in self.arms and pair[1] in self.arms)
        others = [(reference, arm) for arm in self.arms if arm != reference and reference in self.arms]
        return {pair: pair in declared for pair in [*declared, *others]}


def rows_of(study: Study) -> list[Row]:
    """In the order of the study's datasets and of the paper's backbones, then what the paper does not have."""
    arms: dict[tuple, dict[str, dict[int, Run]]] = {}
    for run in study.runs:
        name = (run.dataset.name, run.recipe_name, run.backbone)
        arms.setdefault(name, {}).setdefault(run.arm, {})[run.seed] = run
    names, recipes = list(BACKBONES), list(dict.fromkeys(run.recipe_name for run in study.runs))
    repeat = {dataset: _recipes_repeat(study, dataset) for dataset in study.spec.datasets}

    def order(name: tuple[str, str, BackboneSpec]) -> tuple:
        dataset, recipe, backbone = name
        place = (names.index(backbone.name), -backbone.width) if backbone.name in names else (len(names), 0)
        return (study.spec.datasets.index(dataset), recipes.index(recipe) if repeat[dataset] else 0, *place)

    return [
        Row(dataset, study.datasets[dataset].score, recipe, backbone, arms[dataset, recipe, backbone])
        for dataset, recipe, backbone in sorted(arms, key=order)
    ]


def reference_arm(study: Study) -> str:
    """What every arm is compared with: where the first pair starts, else the first arm."""
    return study.spec.compare[0][0] if study.spec.compare else next(iter(study.spec.arms))


def section(study: Study, row: Row) -> tuple[str, ...]:
    """What rows of one grid share: the dataset, and the recipe where a backbone was trained with several."""
    return (row.dataset, row.recipe) if _recipes_repeat(study, row.dataset) else (row.dataset,)


def _recipes_repeat(study: Study, dataset: str) -> bool:
    runs = {(run.backbone.slug, run.recipe_name) for run in study.runs if run.dataset.name == dataset}
    return len(runs) > len({backbone for backbone, _ in runs})
