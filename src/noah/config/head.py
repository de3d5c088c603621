"""What a study may say of a head, known here so that it is checked without torch; a test compares with `noah.heads`."""

from typing import Literal

from pydantic import Field, model_validator

from noah.backbones import check_divides, split_channels
from noah.config.files import Strict, one_of

_LINEAR_INITS = ("default", "zero", "trunc_normal", "normal")
INITS: dict[str, tuple[str, ...]] = {
    "gap": _LINEAR_INITS,
    "token": _LINEAR_INITS,
    "noah": ("official", "official_mlp", "small_m"),
    "gap_hidden": _LINEAR_INITS,
    "hidden_gap": _LINEAR_INITS,
    "moved_gap": _LINEAR_INITS,
    "csra": ("default",),
    "attention_pool": _LINEAR_INITS,
    "ml_decoder": ("default",),
    "simpool": _LINEAR_INITS,
    "class_attention": _LINEAR_INITS,
}
"""Names of `noah.heads` and the inits each takes."""
HEADS = tuple(INITS)

_SIZE_OF_NOAH = ("num_heads", "key_ratio", "split_groups", "split_key_value", "kernel_size", "merge")
FIELDS: dict[str, tuple[str, ...]] = {
    "noah": (*_SIZE_OF_NOAH, "score"),
    "gap_hidden": (*_SIZE_OF_NOAH, "match"),
    "hidden_gap": (*_SIZE_OF_NOAH, "match"),
    "csra": ("num_heads", "lam"),
    "attention_pool": ("num_heads", "mlp_ratio"),
    "ml_decoder": ("num_heads", "num_groups", "embed_dim", "hidden_dim"),
    "simpool": ("gamma",),
    "class_attention": ("num_heads", "num_blocks", "mlp_ratio", "layer_scale"),
}
"""What each head takes besides `drop_rate` and `init`. Explained at its class."""


class Head(Strict):
    """The arguments of `noah.build_head`, resolved. What is None is left to the head's own default."""

    name: Literal[HEADS]
    drop_rate: float = Field(0.0, ge=0, lt=1)
    init: str = "default"
    num_heads: int | None = Field(None, ge=1)
    key_ratio: float | None = None
    score: Literal["softmax", "softmax_categories", "sigmoid", "none"] | None = None
    split_groups: bool | None = None
    split_key_value: bool | None = None
    kernel_size: Literal[1, 3] | None = None
    merge: Literal["sum", "mean", "max", "concat+linear"] | None = None
    match: Literal["parameters", "macs"] | None = None
    lam: float | None = Field(None, ge=0)
    mlp_ratio: float | None = Field(None, gt=0)
    num_groups: int | None = Field(None, ge=1)
    embed_dim: int | None = Field(None, ge=1)
    hidden_dim: int | None = Field(None, ge=1)
    gamma: float | None = Field(None, gt=0)
    num_blocks: int | None = Field(None, ge=1)
    layer_scale: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _own_fields(self):
        if self.init not in INITS[self.name]:
            raise ValueError(f"init is '{self.init}'{one_of(self.init, INITS[self.name])}")
        for field in self.model_dump(exclude={"name", "drop_rate", "init"}, exclude_none=True):
            if field not in FIELDS.get(self.name, ()):
                others = ", ".join(f"'{name}'" for name, fields in FIELDS.items() if field in fields)
                raise ValueError(f"head '{self.name}': unknown key '{field}', which only {others} can have")
        return self

    @property
    def kwargs(self) -> dict:
        return self.model_dump(exclude={"name"}, exclude_none=True)

    def check_channels(self, channels: int) -> None:
        """ValueError where the heads cannot share the channels of a backbone evenly."""
        if self.name in ("noah", "gap_hidden", "hidden_gap"):
            splits = ("num_heads", "key_ratio", "split_groups", "split_key_value")
            given = {field: value for field, value in self.kwargs.items() if field in splits}
            split_channels(channels, **{"num_heads": 4, "key_ratio": 0.5, **given})
        elif self.name in ("attention_pool", "class_attention"):
            check_divides(channels, self.num_heads or 8)
