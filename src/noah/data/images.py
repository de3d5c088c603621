"""Decoding and encoding images, the same way when shards are written and when they are read.

Pixels are taken as they are stored, as torchvision and timm do: an EXIF orientation turns nothing, transparency is
dropped, and of an animation the first frame counts.
"""

import io
from contextlib import suppress

from PIL import Image

from noah.config.dataset import Reencode

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read at all, as Pillow calls it: it knows dozens more, seldom used and seldom looked after."""
FIELDS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""The formats that a shard holds, and the names of their tar fields. MPO is a JPEG with more images behind it."""
MAX_PIXELS = 80_000_000
"""More is taken for a decompression bomb: this many take 240 MB in RGB."""
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


class BadImage(ValueError):
    """One image cannot be used. Sharding lists it and goes on; everywhere else it is an error like any other."""

    def __init__(self, where: str, reason: str):
        """`where` names the image: file, offset, key."""
        super().__init__(f"{where}: {reason}")
        self.reason = reason


def decode(data: bytes, where: str) -> Image.Image:
    """Encoded bytes -> PIL image in RGB.

    Args:
        data: JPEG, PNG, WebP, BMP, GIF or TIFF, whatever the file was called.
        where: Names the image in the error: file, offset, key.

    Raises:
        BadImage: The bytes are empty, no image, a broken one, or one of more than MAX_PIXELS.
    """
    return _rgb(_open(data, where), where)


def decode_tensor(data: bytes, where: str):
    """Encoded bytes -> uint8 tensor (3, height, width) in RGB: the pixels of `decode`, without a copy through Pillow.

    torchvision decodes JPEGs in grey or RGB; Pillow has the last word on everything else, and on what torchvision
    refuses. PNGs are Pillow's too, for torchvision 0.29 dies (SIGSEGV) of one whose pixels have a wrong checksum. Sizes
    are not limited here: `prepare` saw every image of a shard before.

    Raises:
        BadImage: As `decode`.
    """
    import torch  # seconds to import, and not needed to write shards
    from torchvision.io import decode_jpeg
    from torchvision.transforms.v2.functional import pil_to_tensor

    if data[:2] == b"\xff\xd8":
        with suppress(RuntimeError):
            pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            if len(pixels) != 4:  # CMYK
                return pixels.expand(3, -1, -1)
    return pil_to_tensor(decode(data, where))


def image_format(data: bytes, where: str) -> str:
    """What the content says: jpg, png, webp, bmp, gif or tiff.

    Raises:
        BadImage: It is none of them.
    """
    found = _open(data, where).format
    return FIELDS.get(found, found.lower())


def prepare(data: bytes, where: str, reencode: Reencode | None = None) -> tuple[str, bytes]:
    """Decode an image once, to be sure that it can be, and make it what a shard holds.

    JPEG, PNG and WebP stay as they are, byte by byte; other formats become a lossless PNG. With `reencode` everything
    becomes a JPEG whose short side is at most `short_side`; a JPEG that is small enough already stays as it is.

    Returns:
        (jpg, png or webp; encoded bytes).

    Raises:
        BadImage: As `decode`.
    """
    image = _open(data, where)
    field = FIELDS.get(image.format)
    if reencode and (field != "jpg" or min(image.size) > reencode.short_side):
        return "jpg", _shrunk(image, data, where, reencode)
    if field == "jpg":
        image.draft(image.mode, (1, 1))  # an eighth of the size: everything is read, little is computed
        _load(image, where)
        return field, data
    if field:
        _rgb(image, where)
        return field, data
    buffer = io.BytesIO()
    _rgb(image, where).save(buffer, "PNG")
    return "png", buffer.getvalue()


def _shrunk(image: Image.Image, data: bytes, where: str, reencode: Reencode) -> bytes:
    """Decoded, resized with antialiasing and encoded by torchvision, which takes half the time that Pillow does."""
    from torchvision.io import encode_jpeg  # seconds to import, and only needed here
    from torchvision.transforms.v2.functional import resize

    width, height = image.size
    scale = min(1.0, reencode.short_side / min(width, height))
    pixels = decode_tensor(data, where)
    if scale < 1:
        pixels = resize(pixels, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)
    return encode_jpeg(pixels, quality=reencode.quality).numpy().tobytes()


def _open(data: bytes, where: str) -> Image.Image:
    """The header only."""
    if not data:
        raise BadImage(where, "does not decode as an image: it has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage(where, f"does not decode as an image: none of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow's readers raise
        raise BadImage(where, f"does not decode as an image: {error}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(where, f"has {width} x {height} pixels, expected at most {MAX_PIXELS:,}: a decompression bomb?")
    return image


def _load(image: Image.Image, where: str) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage(where, f"does not decode as an image: {error}") from None


def _rgb(image: Image.Image, where: str) -> Image.Image:
    _load(image, where)
    if image.mode in _SIXTEEN_BIT:  # Pillow itself would cut every value above 255 to white
        image = image.point(lambda value: value / 256, "L")
    if image.mode in ("I", "F"):
        raise BadImage(where, f"has pixels of mode {image.mode}, expected 8 or 16 bits per channel")
    return image.convert("RGB")
