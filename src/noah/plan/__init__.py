"""What a study is going to train and what that will take (`rows`), what it cannot do (`warnings`), printed (`show`)."""

from noah.plan.rows import add_resolution, make_plan, missing_weights, save_plan
from noah.plan.show import show_plan

__all__ = ["add_resolution", "make_plan", "missing_weights", "save_plan", "show_plan"]
