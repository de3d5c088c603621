"""Backbone + head. Importing it makes the paper's models known to timm: `timm.create_model("noah_mobilenetv2_050")`."""

from noah.models import published as published
from noah.models.build import build_model, describe
from noah.models.classifier import Classifier

__all__ = ["Classifier", "build_model", "describe"]
