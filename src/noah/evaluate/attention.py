"""Where trained models look: for some test images, maps of each model's three best categories.

For a head with `attention_maps` (NOAH): its N maps, and their sum. For any other the class activation map: what the
head says of each position when it sees that one alone. With a linear layer on the mean over positions this is the
map of Zhou et al. 2016 (arXiv 1512.04150) plus the bias. A class token is replaced by the position's own token.
Where such a head has `position_weights` (the rivals), its own attention stands beside that map.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from torch import Tensor

from noah.config import Run
from noah.data.loader import eval_loader
from noah.data.reader import Shards
from noah.data.transforms import normalize
from noah.evaluate.trained import load_trained
from noah.files import write_atomic
from noah.models import Classifier

CATEGORIES = 3
"""Best categories that are drawn per image and model."""

FORMATS = {".png": {"Software": None}, ".svg": {"Date": None}}
"""Suffix to the metadata that would make two equal drawings differ."""

_STYLE = {
    "svg.hashsalt": "noah",
    "svg.fonttype": "none",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "axes.titlepad": 2,
    "figure.titlesize": 7,
    "text.parse_math": False,
}
_CELL, _GAP = 0.62, 0.2
"""Side of a panel in inches, and the gap between groups in panels."""


@dataclass(frozen=True)
class Look:
    """One run's view of B images: K categories each, P maps per category; see `best_categories`."""

    run: Run
    pixels: Tensor
    """uint8 (B, 3, S, S), before normalisation."""
    labels: Tensor
    """(B,)."""
    categories: Tensor
    """(B, K)."""
    probabilities: Tensor
    """(B, K)."""
    maps: Tensor
    """(B, K, P, H, W)."""
    panels: list[str]
    """What each of the P maps is."""


def draw_attention(folders: list[Path], shards_root: Path, images: int, out: Path | None = None) -> Path:
    """Draw the first images of the test split, a row each; per run and category a group of maps. Always the same bytes.

    Args:
        folders: Of trained runs on one dataset, drawn side by side.
        shards_root: Holds {dataset}/test/manifest.json.
        images: How many, in index order.
        out: A .png or .svg; default: attention-{runs}.png in the study's figures.

    Raises:
        ValueError: A run that is not trained, runs of several datasets, more images than the split has, another suffix.
    """
    out = out or _default_path(folders)
    if out.suffix not in FORMATS:
        raise ValueError(f"out is '{out}', expected a file that ends in {' or '.join(FORMATS)}")
    trained = [load_trained(folder) for folder in folders]
    datasets = {run.dataset.name for run, _ in trained}
    if len(datasets) != 1:
        raise ValueError(f"runs of {', '.join(sorted(datasets))}, expected runs of one dataset")
    shards = Shards(shards_root / datasets.pop() / "test")
    if not 1 <= images <= len(shards):
        raise ValueError(f"images is {images}, expected 1 to {len(shards)}, the images of {shards.folder}")
    with matplotlib.rc_context(_STYLE):
        figure = _draw([_look(run, model, shards, images) for run, model in trained])
        with write_atomic(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:], dpi=150, metadata=FORMATS[out.suffix])
    return out


@torch.inference_mode()
def best_categories(model: Classifier, images: Tensor, multi_label: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The best categories of each image, and where the model looks for them.

    Args:
        images: (B, 3, S, S), normalised.
        multi_label: Each category has a probability of its own; they do not sum to 1.

    Returns:
        Categories (B, K), int64, best first, K the smaller of 3 and M; their probabilities (B, K); their maps
        (B, K, P, H, W), which `panel_names` names.
    """
    features = model.forward_features(images)
    logits = model.forward_head(features)
    likely = logits.sigmoid() if multi_label else logits.softmax(1)
    # torch.topk promises no order of equals; here the lower class comes first, as in the prediction records.
    probabilities, categories = (ranked[:, :CATEGORIES] for ranked in likely.sort(descending=True, stable=True))
    if hasattr(model.head, "attention_maps"):
        heads = _as_grid(model.head.attention_maps(features), first=3)
        maps = torch.cat([heads, heads.sum(1, keepdim=True)], 1).transpose(1, 2)
    else:
        maps = class_activations(model, features).unsqueeze(2)
        if hasattr(model.head, "position_weights"):
            weights = model.head.position_weights(features).unflatten(2, maps.shape[3:])
            maps = torch.cat([maps, weights.unsqueeze(2).expand_as(maps)], 2)
    return categories, probabilities, torch.stack([maps[i, chosen] for i, chosen in enumerate(categories)])


def panel_names(model: Classifier, panels: int) -> list[str]:
    """The names of the P maps of `best_categories`: N heads and their sum, or `activation` and maybe `attention`."""
    if hasattr(model.head, "attention_maps"):
        return [*(f"head {number}" for number in range(1, panels)), "sum"]
    return ["activation", "attention"][:panels]


def class_activations(model: Classifier, features: Tensor) -> Tensor:
    """(B, M, H, W): the class scores of each position of `model.forward_features(images)` seen alone."""
    if features.ndim == 3:
        in_front = model.prefix_tokens if model.takes_class_token or model.keeps_layers else 0
        tokens = features[:, in_front:]
        alone, grid = tokens.flatten(0, 1).unsqueeze(1), tokens.shape[1:2]
    elif model.keeps_layers and model.layout == "NHWC":
        alone, grid = features.flatten(0, 2)[:, None, None], features.shape[1:3]
    else:
        alone, grid = features.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None], features.shape[2:]
    scores = model.forward_head(alone).unflatten(0, (len(features), -1)).transpose(1, 2)
    return _as_grid(scores.unflatten(2, grid), first=2)


def _as_grid(maps: Tensor, first: int) -> Tensor:
    """The positions behind the `first` dimensions as (H, W): tokens of square images are squares of patches."""
    if maps.ndim > first + 1:
        return maps
    side = math.isqrt(maps.shape[-1])
    if side * side != maps.shape[-1]:
        raise ValueError(f"{maps.shape[-1]} positions, expected a square number of them")
    return maps.unflatten(-1, (side, side))


def _look(run: Run, model: Classifier, shards: Shards, images: int) -> Look:
    pixels, labels, _ = next(iter(eval_loader(shards, run.recipe, run.dataset, batch=images)))
    categories, probabilities, maps = best_categories(
        model, normalize(pixels, run.recipe, run.dataset), run.dataset.multi_label
    )
    return Look(run, pixels, labels, categories, probabilities, maps, panel_names(model, maps.shape[2]))


def _draw(looks: list[Look]) -> Figure:
    """A column of images, then a group of columns per run and category, set apart by thin gaps."""
    rows, names = len(looks[0].pixels), looks[0].run.dataset.classes
    widths = [1.0]
    for look in looks:
        widths += [_GAP, *[1.0] * look.maps.shape[2]] * look.maps.shape[1]
    width, height = _CELL * sum(widths) + 0.3, _CELL * 1.3 * rows + 0.8
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths, wspace=0.06, hspace=0.35)
    figure.subplots_adjust(left=0.1 / width, right=1 - 0.1 / width, top=1 - 0.55 / height, bottom=0.25 / height)
    figure.suptitle("   ".join(look.run.key for look in looks), x=0.1 / width, ha="left", y=1 - 0.05 / height, va="top")
    for row in range(rows):
        label = looks[0].labels[row]
        labels = label.nonzero()[:, 0].tolist() if label.ndim else [int(label)]
        said = ", ".join(_short(names[number], len(labels)) for number in labels) or "none of the classes"
        _panel(figure, grid[row, 0], looks[0].pixels[row].permute(1, 2, 0)).set_title(f"is {said}")
        column = 2
        for look in looks:
            first = column
            for category, probability, maps in zip(
                look.categories[row], look.probabilities[row], look.maps[row], strict=True
            ):
                title = f"{_short(names[category], len(maps))}, {100 * probability:.0f}%"
                for place, values in enumerate(maps):
                    ax = _panel(figure, grid[row, column + place], values, **_scale(maps, look.panels, place))
                    if place == 0:
                        ax.set_title(title, fontweight="bold" if category in labels else "normal")
                    if (row, column + place) == (0, first):
                        ax.annotate(look.run.arm, (0, 1), (0, 12), "axes fraction", "offset points")
                    if row == rows - 1:
                        ax.set_xlabel(look.panels[place], labelpad=2)
                column += len(maps) + 1
    return figure


def _panel(figure: Figure, place: SubplotSpec, image: Tensor, **scale: float) -> Axes:
    ax = figure.add_subplot(place)
    ax.imshow(image.numpy(), interpolation="nearest", **scale)
    ax.set(xticks=[], yticks=[])
    return ax


def _short(name: str, panels: int) -> str:
    """Cut to what stands above so many panels without touching the next group."""
    limit = 8 * panels
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _scale(maps: Tensor, panels: list[str], place: int) -> dict[str, float]:
    """The N maps of a group share a scale from 0, so that an even map looks even, as does an even attention; an
    activation has its own.
    """
    if panels[place] == "activation":
        return {"vmin": float(maps[place].min()), "vmax": float(maps[place].max())}
    shown = maps[:-1] if panels[place].startswith("head") else maps[place]
    return {"vmin": min(0.0, float(shown.min())), "vmax": float(shown.max())}


def _default_path(folders: list[Path]) -> Path:
    """`results/{study}/figures/attention-{runs}.png` for folders below `results/{study}/runs`."""
    folder = folders[0].resolve()
    runs = next((parent for parent in folder.parents if parent.name == "runs"), None)
    if runs is None:
        raise ValueError(f"{folders[0]}: is not in a study's runs, so expected --out FILE")
    names = ["-".join(each.resolve().parts[len(runs.parts) :]) for each in folders]
    return runs.parent / "figures" / f"attention-{'+'.join(names)}.png"
