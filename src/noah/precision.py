"""One rule for the products of float32 numbers, whichever kernel computes them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cudnn_search(on: bool) -> Iterator[None]:
    """Inside, cuDNN tries its algorithms on every new shape and keeps the fastest, or takes the one it always takes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Inside, convolutions and matrix products of float32 numbers are computed alike.

    By itself torch computes convolutions on a GPU in TF32 and matrix products in float32, and has a switch for each.
    NOAH's 1x1 convolutions would then be rounded otherwise than the linear layer of its baseline, and one kernel
    otherwise than another.

    Args:
        precision: A recipe's: `tf32` rounds the factors of both to 10 bits of mantissa, where the GPU has that; every
            other value rounds nothing.
    """
    # torch 2.9 says that there are newer switches; who reads the older ones after those were set gets an error.
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    on_cpu = torch.backends.mkldnn.conv.fp32_precision
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.mkldnn.conv.fp32_precision = "ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        torch.backends.mkldnn.conv.fp32_precision = on_cpu
