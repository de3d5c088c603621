"""From a decoded image to what the network sees.

Images are uint8 tensors from decoding to the device, which normalises them. torchvision crops first and resizes bytes
with antialiasing: three times as fast as Pillow, with pixels that differ by one level at most. Training and evaluation
share all of it. Only RandAugment works on Pillow images, for it is timm's.

Augmentation draws from torch's global generator, which `loader` seeds for every sample.
"""

import functools
import math
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from noah.config import Dataset, Recipe

INTERPOLATIONS = {
    "bilinear": (InterpolationMode.BILINEAR,),
    "bicubic": (InterpolationMode.BICUBIC,),
    "random": (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC),
}
"""A recipe's `interpolation` to what training draws from; evaluation takes the last."""
Transform = Callable[[torch.Tensor], torch.Tensor]


def train_transform(recipe: Recipe, dataset: Dataset, epoch: int | None = None) -> Transform:
    """Crop, flip, RandAugment, colour jitter, each where the recipe asks for it.

    Args:
        epoch: 0-based; matters to recipes with a `first_size`. Default: after the last one.

    Returns:
        A function from uint8 (3, height, width), RGB, to uint8 (3, S, S), S being `recipe.train_size`.
    """
    size = recipe.train_size(recipe.epochs if epoch is None else epoch, dataset.image_size)
    crops = {
        "random_resized": lambda mode: [_random_resized_crop(size, recipe, mode)],
        "pad": lambda mode: [*_fit(size, size, mode), _pad_crop(size, recipe.pad_px)],
        "none": lambda mode: _fit(size, size, mode),
    }
    choices = [crops[recipe.crop](mode) for mode in INTERPOLATIONS[recipe.interpolation]]
    steps = choices[0] if len(choices) == 1 else [v2.RandomChoice([v2.Compose(steps) for steps in choices])]
    if recipe.flip:
        steps.append(_flip)
    if recipe.rand_augment:
        steps += [_for_timm, _rand_augment(recipe, dataset, size), v2.PILToTensor()]
    if recipe.color_jitter:
        steps.append(v2.ColorJitter(*[recipe.color_jitter] * 3))
    return v2.Compose(steps)


def eval_transform(recipe: Recipe, dataset: Dataset) -> Transform:
    """The centre `recipe.eval_crop` of the image: short side to floor(S / eval_crop), as timm and the
    official code have it, then a centre crop of S.

    Returns:
        A function from uint8 (3, height, width), RGB, to uint8 (3, S, S); an image that fits already is not resampled.
    """
    size, mode = dataset.image_size, INTERPOLATIONS[recipe.interpolation][-1]
    return v2.Compose(_fit(math.floor(size / recipe.eval_crop + 1e-9), size, mode))


def mean_and_std(recipe: Recipe, dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What images are normalised with: the recipe's, else the dataset's."""
    return recipe.mean or dataset.mean, recipe.std or dataset.std


def normalize(images: torch.Tensor, recipe: Recipe, dataset: Dataset) -> torch.Tensor:
    """uint8 (B, 3, S, S) -> float32 of the same shape on the same device: pixel values in 0..1, less mean, over std."""
    mean, std = (_constant(values, images.device) for values in mean_and_std(recipe, dataset))
    return images.float().div_(255).sub_(mean).div_(std)


@functools.cache
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(3, 1, 1), once per device: a copy to a GPU would hold up every pass."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).to(device)


def _fit(short_side: int, size: int, mode: InterpolationMode) -> list[Transform]:
    """To a square of `size` pixels; an image that is one already is left alone."""
    fit = v2.Compose([v2.Resize(short_side, mode), v2.CenterCrop(size)])
    fits = (size, size) if short_side == size else None
    return [lambda image: image if tuple(image.shape[-2:]) == fits else fit(image)]


def _pad_crop(size: int, pad_px: int) -> Transform:
    """As torchvision's RandomCrop with padding, pixels and draws, on an image of `size`. Called as a module, that takes
    longer on small images to ask what they are than to move them; so would making the border."""

    def cropped(image: torch.Tensor) -> torch.Tensor:
        if not pad_px:
            return image
        down, right = (int(torch.randint(0, 2 * pad_px + 1, ())) - pad_px for _ in range(2))
        pixels, moved = image.numpy(), np.zeros((len(image), size, size), np.uint8)
        rows, columns = (slice(max(by, 0), max(size + min(by, 0), 0)) for by in (down, right))
        places = (slice(max(-by, 0), max(size - max(by, 0), 0)) for by in (down, right))
        moved[:, *places] = pixels[:, rows, columns]
        return torch.from_numpy(moved)

    return cropped


def _random_resized_crop(size: int, recipe: Recipe, mode: InterpolationMode) -> Transform:
    # Its parameters only: called as a module, torchvision's takes a fifth longer on small images to ask what they are.
    crop = v2.RandomResizedCrop(size, recipe.crop_scale, recipe.crop_ratio, mode)

    def cropped(image: torch.Tensor) -> torch.Tensor:
        place = crop.make_params([image])
        top, left = place["top"], place["left"]
        part = image[None, :, top : top + place["height"], left : left + place["width"]]
        return F.interpolate(part, (size, size), mode=mode.value, antialias=True)[0]

    return cropped


def _flip(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1) if torch.rand(1) < 0.5 else image


def _for_timm(image: torch.Tensor) -> Image.Image:
    """As Pillow has it, with the generators of Python and NumPy, from which timm draws, seeded by torch's."""
    drawn = int(torch.randint(2**32, ()))
    random.seed(drawn)
    np.random.seed(drawn)
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _rand_augment(recipe: Recipe, dataset: Dataset, size: int):
    from timm.data.auto_augment import rand_augment_transform  # timm takes seconds to import, and few recipes need it

    fill = tuple(min(255, round(255 * value)) for value in mean_and_std(recipe, dataset)[0])
    options = {"translate_const": int(size * 0.45), "img_mean": fill}
    if recipe.interpolation != "random":  # timm's own choice, where it is told none
        options["interpolation"] = Image.Resampling[recipe.interpolation.upper()]
    try:
        augment = rand_augment_transform(recipe.rand_augment, options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"rand_augment is '{recipe.rand_augment}', expected timm's form such as rand-m9-mstd0.5: {error}"
        ) from None
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """timm draws 0 bits at times, which Pillow 13 refuses; the published recipes then saw a black image."""
    mask = ~((1 << max(0, 8 - bits)) - 1)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))
