import numpy as np
import pytest
import torch
from photos import encoded, opened, photo
from PIL import Image

from noah.config.dataset import Reencode
from noah.data import images
from noah.data.images import BadImage, decode, decode_tensor, image_format, prepare

PHOTO = photo()
MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "LA", "1"), "WEBP": ("RGB", "RGBA")}
SMALL = Reencode(short_side=60, quality=90)
SIXTEEN_BITS = np.linspace(0, 65535, 300 * 256).astype(np.uint16).reshape(256, 300)


def mean_error(data, image):
    return np.abs(np.asarray(decode(data, "x"), float) - np.asarray(image, float)).mean()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO"])
def test_what_cameras_and_the_web_have_decodes_and_is_named_by_its_content(kind):
    data = encoded(PHOTO, kind)
    assert mean_error(data, PHOTO) < 12
    assert image_format(data, "x") == {"JPEG": "jpg", "MPO": "jpg"}.get(kind, kind.lower())


def test_cmyk_gray_palette_alpha_and_bilevel_become_rgb():
    for mode, kind in (("CMYK", "JPEG"), ("L", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "TIFF")):
        image = decode(encoded(PHOTO.convert(mode), kind), "x")
        assert (image.mode, image.size) == ("RGB", (160, 120)), mode
    assert mean_error(encoded(PHOTO.convert("CMYK"), "JPEG"), PHOTO) < 5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1"])
def test_the_tensor_has_pillows_pixels_whatever_the_mode_and_format(mode):
    photo = PHOTO.convert(mode)
    kinds = [kind for kind in ("JPEG", "PNG", "WEBP", "TIFF") if mode in MODES.get(kind, (mode,))]
    for data in (encoded(photo, kind) for kind in kinds):
        expected = torch.from_numpy(np.array(decode(data, "x"))).permute(2, 0, 1)
        assert torch.equal(decode_tensor(data, "x"), expected)


def test_the_tensor_of_a_png_with_a_transparent_colour_or_sixteen_bits_has_pillows_pixels():
    gray = PHOTO.convert("L")
    for data in (
        encoded(PHOTO, "PNG", transparency=(1, 2, 3)),
        encoded(gray, "PNG", transparency=7),
        encoded(Image.fromarray(SIXTEEN_BITS), "PNG"),
    ):
        expected = torch.from_numpy(np.array(decode(data, "x"))).permute(2, 0, 1)
        assert torch.equal(decode_tensor(data, "x"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_tensor_of_a_truncated_image_is_refused_as_pillow_says(kind):
    with pytest.raises(BadImage, match="somewhere: does not decode as an image"):
        decode_tensor(encoded(PHOTO, kind)[:-1000], "somewhere")


def test_sixteen_bits_are_scaled_not_cut_to_white():
    gray = np.asarray(decode(encoded(Image.fromarray(SIXTEEN_BITS), "PNG"), "x"))[..., 0]
    assert np.abs(gray.astype(int) - (SIXTEEN_BITS >> 8)).max() <= 1


def test_an_orientation_of_exif_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(PHOTO, exif=exif), "x").size == PHOTO.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_these_formats_are_stored_byte_by_byte(kind):
    data = encoded(PHOTO, kind)
    assert prepare(data, "x") == (image_format(data, "x"), data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_other_formats_are_stored_as_png_without_loss(kind):
    data = encoded(PHOTO, kind)
    field, stored = prepare(data, "x")
    assert (field, image_format(stored, "x")) == ("png", "png")
    assert np.array_equal(np.asarray(decode(stored, "x")), np.asarray(decode(data, "x")))


@pytest.mark.parametrize("reencode", [None, SMALL])
@pytest.mark.parametrize("options", [{"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}, {"kind": "PNG"}])
def test_a_truncated_image_is_bad_wherever_it_ends(options, reencode):
    data = encoded(PHOTO, **options)
    for end in (0, 1, 2, 30, len(data) // 3, len(data) - 60):
        with pytest.raises(BadImage, match=r"^a\.tar: key 7: does not decode as an image: ") as error:
            prepare(data[:end], "a.tar: key 7", reencode)
        assert error.value.reason.startswith("does not decode")
        with pytest.raises(BadImage):
            decode(data[:end], "x")


def test_what_is_no_image_or_of_a_rare_format_is_bad():
    for data in (b"", b"<html>404</html>" * 9, encoded(PHOTO, "PPM"), encoded(PHOTO, "PDF")):
        with pytest.raises(BadImage, match=r"does not decode as an image: (none of JPEG, PNG|it has zero bytes)"):
            prepare(data, "x")


def test_a_decompression_bomb_is_refused_by_its_header_with_size_and_limit(monkeypatch):
    bomb = encoded(Image.new("L", (10_000, 9_000)), "PNG")
    assert len(bomb) < 200_000
    monkeypatch.setattr(Image.Image, "load", None)
    for function in (decode, prepare, image_format):
        with pytest.raises(BadImage, match="has 10000 x 9000 pixels, expected at most 80,000,000"):
            function(bomb, "x")


def test_reencoding_shrinks_to_the_short_side_and_never_enlarges():
    for size, expected in (((160, 120), (80, 60)), ((120, 300), (60, 150)), ((61, 1000), (60, 984))):
        field, data = prepare(encoded(PHOTO.resize(size)), "x", SMALL)
        assert (field, opened(data).format, opened(data).size) == ("jpg", "JPEG", expected)
    small = encoded(PHOTO.resize((50, 70)), quality=35)
    assert prepare(small, "x", SMALL) == ("jpg", small)
    field, data = prepare(encoded(PHOTO.resize((50, 70)), "PNG"), "x", SMALL)
    assert (field, opened(data).format, opened(data).size) == ("jpg", "JPEG", (50, 70))


def test_reencoding_is_close_to_pillows_and_the_same_every_time():
    data = encoded(PHOTO, quality=95)
    stored = prepare(data, "x", SMALL)[1]
    assert stored == prepare(data, "x", SMALL)[1]
    assert mean_error(stored, decode(data, "x").resize((80, 60), Image.Resampling.BILINEAR)) < 4
    for other in (PHOTO.convert("CMYK"), PHOTO.convert("L")):
        assert opened(prepare(encoded(other), "x", SMALL)[1]).size == (80, 60)


def test_quality_is_that_of_the_dataset():
    sizes = [len(prepare(encoded(PHOTO), "x", Reencode(short_side=60, quality=q))[1]) for q in (30, 60, 90)]
    assert sizes == sorted(sizes)
    assert sizes[2] > 2 * sizes[0]


def test_an_image_is_decoded_once(monkeypatch):
    loads = []
    rgb = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda image, where: loads.append(where) or rgb(image, where))
    prepare(encoded(PHOTO, "PNG"), "checked")
    prepare(encoded(PHOTO, "BMP"), "stored as PNG")
    prepare(encoded(PHOTO, "BMP"), "encoded again", SMALL)
    assert loads == ["checked", "stored as PNG", "encoded again"]
