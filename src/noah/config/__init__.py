"""Studies, datasets, recipes and runs: validated before anything is spent. Loads no torch."""

from noah.config.dataset import Dataset, Scenes, Split, load_dataset
from noah.config.head import Head
from noah.config.recipe import Recipe, load_recipe
from noah.config.resources import train_resources
from noah.config.run import RESULTS_VERSION, BackboneSpec, Run, load_run
from noah.config.study import Arm, Resources, Study, StudySpec, load_study

__all__ = [
    "RESULTS_VERSION",
    "Arm",
    "BackboneSpec",
    "Dataset",
    "Head",
    "Recipe",
    "Resources",
    "Run",
    "Scenes",
    "Split",
    "Study",
    "StudySpec",
    "load_dataset",
    "load_recipe",
    "load_run",
    "load_study",
    "train_resources",
]
