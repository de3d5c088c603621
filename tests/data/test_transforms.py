import numpy as np
import pytest
import torch
from digits_builder import changed
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from noah.data.transforms import eval_transform, normalize, train_transform


@pytest.fixture
def recipe(run):
    return run.recipe


@pytest.fixture
def gradient():
    """40 wide, 30 high: every pixel differs from its neighbours."""
    rows, columns = np.mgrid[:30, :40]
    return torch.from_numpy(np.stack([rows * 8, columns * 6, rows + columns]).astype(np.uint8))


@pytest.fixture
def photo():
    """75 high, 100 wide, channels last as decoding gives it: noise, the hardest thing to resample."""
    return torch.randint(0, 256, (75, 100, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).permute(
        2, 0, 1
    )


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
def test_training_images_have_the_networks_size_and_stay_bytes(recipe, tiny, gradient, crop):
    image = train_transform(recipe.model_copy(update={"crop": crop}), tiny)(gradient)
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.uint8)


def test_an_image_that_fits_is_not_resampled(recipe, tiny, gradient):
    scene = gradient[:, :16, :16]
    plain = recipe.model_copy(update={"crop": "none", "flip": False, "color_jitter": 0.0})
    assert torch.equal(eval_transform(recipe, tiny)(scene), scene)
    assert torch.equal(train_transform(plain, tiny)(scene), scene)


def levels_apart(image, other):
    return int((image.int() - other.int()).abs().max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_the_official_one_on_pillow_within_one_level(recipe, tiny, photo, interpolation):
    fields = {"interpolation": interpolation, "eval_crop": 0.875}
    ours = eval_transform(recipe.model_copy(update=fields), changed(tiny, image_size=28))(photo)
    mode = v2.InterpolationMode(interpolation)
    official = v2.Compose([v2.Resize(32, mode), v2.CenterCrop(28), v2.PILToTensor()])
    assert levels_apart(ours, official(to_pil_image(photo))) <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_draws_and_crops_as_torchvision_does_on_pillow_within_one_level(recipe, tiny, photo, interpolation):
    fields = {"crop": "random_resized", "interpolation": interpolation, "flip": True, "color_jitter": 0.0}
    ours = train_transform(recipe.model_copy(update=fields), tiny)
    crop = v2.RandomResizedCrop(16, recipe.crop_scale, recipe.crop_ratio, v2.InterpolationMode(interpolation))
    official = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    for seed in range(20):
        torch.manual_seed(seed)
        image = ours(photo)
        torch.manual_seed(seed)
        assert levels_apart(image, official(to_pil_image(photo))) <= 1


def test_training_leaves_the_decoded_image_as_it_is(recipe, tiny, photo):
    before = photo.clone()
    for crop in ("random_resized", "pad", "none"):
        fields = {"crop": crop, "rand_augment": "rand-m9", "color_jitter": 0.4}
        train_transform(recipe.model_copy(update=fields), tiny)(photo)
    assert torch.equal(photo, before)


def test_pad_moves_the_image_by_at_most_pad_px_over_zeros(recipe, tiny):
    torch.manual_seed(0)
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    transform = train_transform(recipe.model_copy(update={"flip": False, "color_jitter": 0.0}), tiny)
    lit = {int((transform(white)[0] > 0).sum()) for _ in range(100)}
    assert min(lit) == 14 * 14
    assert max(lit) == 16 * 16


def test_evaluation_sees_the_centre_share_of_the_image(recipe, tiny):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, 8:24, 8:24] = 255
    half = eval_transform(recipe.model_copy(update={"eval_crop": 0.5}), tiny)(image)
    assert (half == 255).all()
    assert not (eval_transform(recipe, tiny)(image) == 255).all()


@pytest.mark.parametrize(("size", "share", "short"), [(224, 0.875, 256), (224, 0.9, 248), (32, 0.95, 33)])
def test_the_size_before_the_crop_is_rounded_down_as_timm_and_the_official_code_do(recipe, tiny, size, share, short):
    dataset = tiny.model_copy(update={"image_size": size})
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = recipe.model_copy(update={"eval_crop": share})
    expected = v2.Compose([v2.Resize(short, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])(image)
    assert torch.equal(eval_transform(recipe, dataset)(image), expected)


def test_flip_and_colour_jitter_happen_only_where_asked(recipe, tiny, gradient):
    scene = gradient[:, :16, :16]

    def variants(**fields):
        base = {"crop": "none", "flip": False, "color_jitter": 0.0}
        transform = train_transform(recipe.model_copy(update={**base, **fields}), tiny)
        return {transform(scene).numpy().tobytes() for _ in range(30)}

    assert len(variants()) == 1
    assert len(variants(flip=True)) == 2
    assert len(variants(color_jitter=0.4)) > 20


def test_interpolation_is_the_recipes_and_random_draws_one_of_two_for_each_image(recipe, tiny, gradient):
    def images(mode, make=train_transform):
        chosen = recipe.model_copy(update={"interpolation": mode, "crop": "none", "flip": False, "color_jitter": 0.0})
        return {make(chosen, tiny)(gradient).numpy().tobytes() for _ in range(30)}

    bilinear, bicubic = images("bilinear"), images("bicubic")
    assert len(bilinear) == len(bicubic) == 1
    assert bilinear != bicubic
    assert images("random") == bilinear | bicubic
    assert images("random", eval_transform) == images("bicubic", eval_transform)
    assert images("bilinear", eval_transform) != images("bicubic", eval_transform)


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
def test_training_images_grow_with_the_epochs_and_evaluation_does_not(recipe, tiny, gradient, crop):
    growing = recipe.model_copy(update={"crop": crop, "first_size": 8, "epochs": 4})
    sides = [train_transform(growing, tiny, epoch)(gradient).shape[-1] for epoch in (0, 4)]
    assert sides == [8, 16]
    assert train_transform(growing, tiny)(gradient).shape == (3, 16, 16)
    assert eval_transform(growing, tiny)(gradient).shape == (3, 16, 16)


def test_rand_augment_resamples_as_the_recipe_says(recipe, tiny, gradient):
    def transform(mode):
        fields = {"interpolation": mode, "rand_augment": "rand-m9", "crop": "none", "flip": False}
        return train_transform(recipe.model_copy(update=fields), tiny)

    def resampling(mode):
        (augment,) = [step for step in transform(mode).transforms if hasattr(step, "ops")]
        return {operation.kwargs.get("resample") for operation in augment.ops}

    assert resampling("bicubic") == {Image.Resampling.BICUBIC}
    assert resampling("bilinear") == {Image.Resampling.BILINEAR}
    assert resampling("random") == {(Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}


def test_rand_augment_survives_every_magnitude(recipe, tiny, gradient):
    for config in ("rand-m9-mstd0.5-inc1", "rand-m0-n4-p1", "rand-m10-n4-p1-inc1"):
        transform = train_transform(recipe.model_copy(update={"rand_augment": config}), tiny)
        assert len({transform(gradient).numpy().tobytes() for _ in range(60)}) > 30


def test_a_rand_augment_string_that_timm_does_not_know_is_named(recipe, tiny):
    with pytest.raises(ValueError, match="rand_augment is 'augmix-m3', expected timm's form"):
        train_transform(recipe.model_copy(update={"rand_augment": "augmix-m3"}), tiny)


def test_normalize_gives_zero_mean_and_unit_deviation_to_what_was_measured(recipe, tiny):
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    before, scaled = images.clone(), images / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    out = normalize(images, recipe, changed(tiny, mean=mean.tolist(), std=std.tolist()))
    assert out.dtype == torch.float32
    assert torch.equal(images, before)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)


def test_the_datasets_mean_and_deviation_were_measured_on_its_own_scale(recipe, tiny):
    black = normalize(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), recipe, tiny)
    expected = -torch.tensor(tiny.mean) / torch.tensor(tiny.std)
    torch.testing.assert_close(black[0, :, 0, 0], expected)


def test_a_recipes_own_mean_and_deviation_replace_the_datasets(recipe, tiny):
    halves = recipe.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3, "rand_augment": "rand-m9"})
    ends = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    assert normalize(ends, halves, tiny)[0, :, 0].tolist() == [[-1, 1]] * 3
    (augment,) = [step for step in train_transform(halves, tiny).transforms if hasattr(step, "ops")]
    assert {operation.kwargs["fillcolor"] for operation in augment.ops} == {(128, 128, 128)}


@pytest.mark.parametrize("pad_px", [0, 2, 5, 40])
@pytest.mark.parametrize("side", [16, 24])
def test_a_padded_crop_has_the_pixels_and_the_draws_of_torchvisions(recipe, tiny, pad_px, side):
    changes = {"crop": "pad", "pad_px": pad_px, "flip": False, "color_jitter": 0.0, "rand_augment": None}
    ours = train_transform(recipe.model_copy(update=changes), tiny)
    size, bicubic = tiny.image_size, v2.InterpolationMode.BICUBIC
    theirs = v2.Compose([v2.Resize(size, bicubic), v2.CenterCrop(size), v2.RandomCrop(size, padding=pad_px)])
    image = torch.randint(256, (3, side, side), dtype=torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        one, after_one = ours(image), torch.rand(1)
        torch.manual_seed(seed)
        other, after_other = theirs(image), torch.rand(1)
        assert torch.equal(one, other)
        assert after_one == after_other
