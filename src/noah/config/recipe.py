"""config/recipes/*.yaml: one training setting each."""

import warnings
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from noah.config.files import Strict, later, parse, read_yaml

GROWN = 7 / 8
"""With `first_size`: the share of the epochs after which training images have their full size."""


class Recipe(Strict):
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    """Images per optimizer step, whatever the number of processes."""
    micro_batch: int | None = Field(None, ge=1)
    """Images per forward pass, which is what BatchNorm sees; default: `batch`. Each process does batch / (micro_batch x
    world size) passes per optimizer step."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    """Peak learning rate, for the whole batch; nothing rescales it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only; never Nesterov, as in the official code."""
    eps: float = Field(1e-8, gt=0)
    """AdamW only."""
    weight_decay: float = Field(0.0, ge=0)
    decay_1d: bool = False
    """Whether biases and norms are decayed too."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""

    schedule: Literal["cosine", "step", "linear", "constant"] = "cosine"
    schedule_per_epoch: bool = False
    """Change the rate once per epoch (as torchvision-style scripts do), not at every step."""
    warmup_epochs: float = Field(0, ge=0)
    warmup_lr: float = Field(1e-6, ge=0)
    min_lr: float = Field(0.0, ge=0)
    milestones: tuple[int, ...] = ()
    """Schedule `step`: the epochs after which the rate is multiplied by `gamma`."""
    gamma: float = Field(0.1, gt=0)

    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic", "random"] = later("bicubic")
    """Of every resampling; `random` draws one of the two for each training image and evaluates with bicubic."""
    mean: tuple[float, float, float] | None = later(None)
    """Of pixel values in 0..1, per channel, with `std`; default: the dataset's."""
    std: tuple[float, float, float] | None = later(None)
    first_size: int | None = Field(None, ge=8)
    """CNNs only: side of the training images in the first epoch, in pixels. It grows in a straight line, in multiples
    of 8, to the dataset's `image_size`, which it has from 7/8 of the epochs on. Evaluation always sees `image_size`."""
    repeats: int = later(1, ge=1)
    """Repeated augmentation (arXiv 1902.05509): copies of each image in an epoch, each augmented in its own way. The
    epoch stays as long as without, so it sees this many times fewer images."""
    pad_px: int = Field(2, ge=0)
    """Crop `pad`: zero border from which a random window is cut."""
    flip: bool = True
    rand_augment: str | None = None
    """timm's RandAugment string, for example rand-m9-mstd0.5-inc1."""
    color_jitter: float = Field(0.0, ge=0)
    random_erasing: float = Field(0.0, ge=0, le=1)
    eval_crop: float = Field(1.0, gt=0, le=1)
    """Share of the resized image that evaluation sees (its centre)."""

    multi_label_loss: Literal["bce", "asymmetric"] = later("bce")
    """Of multi-label datasets: binary cross-entropy, or ASL (arXiv 2009.14119) with gamma 4 and 1 and clip 0.05; both
    the mean over images and classes. Others are trained with cross-entropy."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    proj_drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout inside the blocks of the backbone; a head's own dropout belongs to the arm."""
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    evaluate: Literal["last", "ema"] = "last"
    """Which weights are compared: fixed beforehand, so no choice ever sees the test set. With `ema_decay` the others
    are evaluated and kept too, under names of their own."""
    eval_precision: Literal["fp32", "bf16", "fp16"] = later("fp32")
    """Of evaluation, whatever trained."""
    eval_every_epochs: int = Field(1, ge=1)
    """How often the minival (or nothing, where a dataset has none) is looked at; always after the last epoch."""

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the products in training, of convolutions and matrices alike (noah.precision); tf32: on GPUs that have it;
    fp16: with a scaled loss, so that small gradients are not lost, and a step left out where they overflow."""
    channels_last: bool = False
    cudnn_benchmark: bool = later(False)
    """On a GPU: try cuDNN's algorithms on the first batch and keep the fastest. Bits may differ from start to start."""
    grad_checkpointing: bool = later(False)
    """Keep few activations of the backbone and compute the others again in the backward pass: less memory, more time.
    BatchNorm then counts every batch twice in its running statistics, in all arms alike."""
    fused: bool = later(False)
    """One kernel for the whole update of the optimizer."""
    compile: bool = later(False)
    """torch.compile of the backbone's training steps, for speed (noah.engine.compiled)."""
    cuda_graphs: bool = later(False)
    """With `compile`: CUDA graphs, which spare a GPU the wait between small kernels; without effect on a CPU."""

    @model_validator(mode="before")
    @classmethod
    def _without_accumulate(cls, data):
        """Until version 0.2 the passes stood in the file. They say how large one is where `micro_batch` does not."""
        if not isinstance(data, dict) or "accumulate" not in data:
            return data
        data = dict(data)
        passes, batch = data.pop("accumulate"), data.get("batch")
        if not isinstance(passes, int) or passes < 1:
            raise ValueError(f"accumulate is {passes!r}, expected none: it follows from batch and micro_batch")
        if data.get("micro_batch") is None and isinstance(batch, int) and passes > 1:
            if batch % passes:
                raise ValueError(f"batch is {batch}, expected a multiple of accumulate ({passes})")
            data["micro_batch"] = batch // passes
        return data

    @model_validator(mode="after")
    def _consistent(self):
        if self.batch % self.forward_batch:
            raise ValueError(f"batch is {self.batch}, expected a multiple of micro_batch ({self.forward_batch})")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("missing key 'milestones', which schedule step needs")
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs is true, which needs compile: true with it")
        if self.cuda_graphs and self.forward_batch < self.batch:
            # More processes were never tried, and of several passes a later one writes over the gradients of the first:
            # https://github.com/pytorch/pytorch/issues/96693.
            raise ValueError(f"cuda_graphs is true with micro_batch {self.micro_batch}, expected batch ({self.batch})")
        if self.evaluate == "ema" and self.ema_decay is None:
            raise ValueError("evaluate is 'ema', expected an ema_decay with it")
        for field, largest in (("crop_scale", 1.0), ("crop_ratio", float("inf"))):
            low, high = getattr(self, field)
            if not 0 < low <= high <= largest:
                raise ValueError(f"{field} is [{low}, {high}], expected 0 < low <= high <= {largest:g}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean} and std is {self.std}, expected both or none")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}, expected numbers above 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, expected less than epochs ({self.epochs})")
        if (self.mixup or self.cutmix) and self.forward_batch % 2:
            raise ValueError(f"micro_batch is {self.forward_batch}, expected an even number with mixup or cutmix")
        return self

    @property
    def forward_batch(self) -> int:
        """Images per forward pass of one process."""
        return self.micro_batch or self.batch

    def passes(self, world_size: int) -> int:
        """Forward passes of each process per optimizer step.

        Raises:
            ValueError: The forward batches of a step cannot be dealt out evenly.
        """
        if self.batch % (self.forward_batch * world_size):
            raise ValueError(
                f"batch is {self.batch}, expected a multiple of micro_batch x world size = "
                f"{self.forward_batch} x {world_size} = {self.forward_batch * world_size}"
            )
        return self.batch // (self.forward_batch * world_size)

    def step_bytes(self, parameters: int, kept: int) -> int:
        """Memory of a training step, at least: what a forward batch keeps for the backward pass; weights, gradients,
        optimizer and average in float32.

        Args:
            parameters: Of the model.
            kept: Numbers that the backward pass of one image needs (noah.models.memory).
        """
        copies = {"sgd": 3, "adamw": 4}[self.optimizer] + (self.ema_decay is not None)
        return self.forward_batch * self.number_bytes * kept + copies * 4 * parameters

    @property
    def number_bytes(self) -> int:
        """Of a number that is kept for the backward pass."""
        return 2 if self.precision in ("bf16", "fp16") else 4

    def train_size(self, epoch: int, image_size: int) -> int:
        """Side of the training images in an epoch (0-based), in pixels; see `first_size`."""
        if self.first_size is None or epoch >= GROWN * self.epochs:
            return image_size
        grown = self.first_size + (image_size - self.first_size) * epoch / (GROWN * self.epochs)
        return int(grown) // 8 * 8


def load_recipe(
    name: str, config_dir: Path = Path("config"), overrides: dict | None = None, origin: str = "overrides"
) -> Recipe:
    """config/recipes/{name}.yaml, checked, with some fields replaced.

    Args:
        origin: Where the overrides are written, for messages.
    """
    path = config_dir / "recipes" / f"{name}.yaml"
    fields = read_yaml(path)
    recipe = parse(Recipe, fields, path)
    for source, given in ((path, fields), (origin, overrides or {})):
        if "accumulate" in given:
            warnings.warn(
                f"{source}: accumulate is {given['accumulate']}, which is ignored: it follows from batch, micro_batch "
                "and the number of processes",
                stacklevel=2,
            )
    return parse(Recipe, {**fields, **overrides}, f"{origin} on {path}") if overrides else recipe
