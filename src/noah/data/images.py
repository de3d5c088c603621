"""Decoding, the same way when shards are written and when they are read."""

import io

from PIL import Image


def decode(data: bytes, where: str) -> Image.Image:
    """Encoded bytes -> PIL image in RGB.

    Args:
        where: Names the image in the error: file, offset, key.

    Raises:
        ValueError: The bytes are no image, or a broken one.
    """
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow's readers raise
        raise ValueError(f"{where}: does not decode as an image: {error}") from None
