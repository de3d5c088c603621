from pathlib import Path

import pytest
import torch
from PIL import Image

from noah.config import load_run
from noah.evaluate.attention import best_categories, class_activations, draw_attention, panel_names
from noah.models import build_model

SMALL = {
    "mobilenetv2": {"width": 0.35, "output_stride": 16},
    "deit_tiny": {"width": 0.5, "depth": 1, "patch_size": 8},
    "gmlp_tiny": {"width": 0.5, "depth": 1, "patch_size": 8},
}


def small(backbone, head, **kwargs):
    torch.manual_seed(0)
    model = build_model(backbone, head, num_classes=5, img_size=32, **SMALL[backbone], **kwargs).eval()
    if hasattr(model.head, "fc"):
        for parameter in model.head.fc.parameters():
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", SMALL)
def test_the_maps_of_noah_are_its_attention_and_their_sum(backbone, images):
    model = small(backbone, "noah", num_heads=2, key_ratio=0.5)
    with torch.no_grad():
        categories, probabilities, maps = best_categories(model, images)
        attention = model.head.attention_maps(model.forward_features(images)).flatten(3)
        expected = model(images).softmax(1)
    positions = attention.shape[-1]
    assert maps.shape == (2, 3, 3, positions**0.5, positions**0.5)
    for b in range(2):
        assert categories[b].tolist() == expected[b].argsort(descending=True)[:3].tolist()
        torch.testing.assert_close(probabilities[b], expected[b, categories[b]])
        for k, category in enumerate(categories[b]):
            torch.testing.assert_close(maps[b, k, :2].flatten(1), attention[b, :, category])
            torch.testing.assert_close(maps[b, k, 2].flatten(), attention[b, :, category].sum(0))


@pytest.mark.parametrize("backbone", ["mobilenetv2", "gmlp_tiny"])
def test_the_class_activations_of_a_mean_are_its_linear_layer_at_each_position(backbone, images):
    model = small(backbone, "gap")
    with torch.no_grad():
        features = model.forward_features(images)
        maps = class_activations(model, features)
        by_hand = features if features.ndim == 4 else features.transpose(1, 2).unflatten(2, maps.shape[2:])
        by_hand = torch.einsum("bchw,mc->bmhw", by_hand, model.head.fc.weight) + model.head.fc.bias[:, None, None]
        torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(maps.mean((2, 3)), model(images), rtol=1e-4, atol=1e-4)
        assert best_categories(model, images)[2].shape == (2, 3, 1, *maps.shape[2:])


def test_the_class_activations_of_a_class_token_are_those_of_the_other_tokens(images):
    model = small("deit_tiny", "token")
    with torch.no_grad():
        features = model.forward_features(images)
        maps = class_activations(model, features)
        assert maps.shape == (2, 5, 4, 4)
        torch.testing.assert_close(maps[1, :, 2, 3], model.head.fc(features[1, 1 + 4 * 2 + 3]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("rival", ["csra", "attention_pool", "ml_decoder", "simpool", "class_attention"])
def test_a_rival_has_its_class_activation_and_beside_it_its_own_attention(rival, backbone, images):
    model = small(backbone, rival)
    with torch.no_grad():
        categories, _, maps = best_categories(model, images)
        features = model.forward_features(images)
        weights = model.head.position_weights(features).expand(-1, 5, -1)
        activations = class_activations(model, features)
    assert panel_names(model, maps.shape[2]) == ["activation", "attention"]
    for b in range(2):
        torch.testing.assert_close(maps[b, :, 0], activations[b, categories[b]])
        torch.testing.assert_close(maps[b, :, 1].flatten(1), weights[b, categories[b]])


def test_categories_of_several_labels_have_probabilities_of_their_own(images):
    model = small("gmlp_tiny", "noah", num_heads=2, key_ratio=0.5)
    with torch.no_grad():
        categories, probabilities, _ = best_categories(model, images, multi_label=True)
        torch.testing.assert_close(probabilities, model(images).sigmoid().gather(1, categories))


def test_fewer_than_three_classes_are_all_drawn(images):
    model = small("gmlp_tiny", "noah")
    model.reset_classifier(2)
    assert best_categories(model, images)[2].shape == (2, 2, 5, 4, 4)


def test_a_drawing_has_a_row_per_image_and_is_the_same_bytes_each_time(trained, shards_root):
    folder = trained("noah")
    first = draw_attention([folder], shards_root, 2)
    assert first == Path.cwd() / "results/tiny/figures/attention-tiny-tiny-gmlp_tiny-d1-p8-w0.5-noah-s0.png"
    again = draw_attention([folder], shards_root, 2, Path("again.png"))
    assert first.read_bytes() == again.read_bytes()
    taller = draw_attention([folder], shards_root, 4, Path("taller.png"))
    with Image.open(first) as two, Image.open(taller) as four:
        assert four.width == two.width
        assert four.height > 1.6 * two.height


def test_runs_are_drawn_side_by_side(trained, shards_root):
    noah, baseline = trained("noah"), trained("baseline")
    both = draw_attention([noah, baseline], shards_root, 1, Path("both.svg")).read_text()
    alone = draw_attention([noah], shards_root, 1, Path("alone.svg")).read_text()
    assert (alone.count("<image"), alone.count(">head 4<")) == (1 + 3 * 5, 3)
    assert (both.count("<image"), both.count(">activation<")) == (1 + 3 * 5 + 3, 3)
    assert ">baseline<" in both
    assert ">baseline<" not in alone


def test_a_rival_is_drawn_with_two_named_maps_per_category(trained, shards_root):
    rival = draw_attention([trained(head={"name": "simpool"})], shards_root, 1, Path("rival.svg")).read_text()
    assert (rival.count("<image"), rival.count(">activation<"), rival.count(">attention<")) == (1 + 3 * 2, 3, 3)


def test_what_cannot_be_drawn_is_said(trained, shards_root, tmp_path):
    folder = trained()
    for images in (0, 31):
        with pytest.raises(ValueError, match=f"images is {images}, expected 1 to 30"):
            draw_attention([folder], shards_root, images)
    with pytest.raises(ValueError, match=r"'map\.pdf', expected .*\.png or \.svg"):
        draw_attention([folder], shards_root, 1, Path("map.pdf"))
    with pytest.raises(ValueError, match="--out FILE"):
        draw_attention([tmp_path / "elsewhere"], shards_root, 1)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        draw_attention([folder], tmp_path / "nothing", 1)


def test_runs_of_two_datasets_are_refused(trained, shards_root):
    first = trained("noah")
    dataset = load_run(first / "run.yaml").dataset.model_dump()
    second = trained("noah", dataset={**dataset, "name": "other"})
    with pytest.raises(ValueError, match="runs of other, tiny, expected runs of one dataset"):
        draw_attention([first, second], shards_root, 1, Path("out.png"))


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_100", "mambaout_femto"])
def test_layers_that_stay_behind_the_pooling_are_part_of_the_class_activations(backbone):
    model = build_model(backbone, "gap", num_classes=4, img_size=64).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, 64, 64))
        maps = class_activations(model, features)
    assert maps.shape == (2, 4, 2, 2)
    position = features[:1, 1:2, :1] if model.layout == "NHWC" else features[:1, :, 1:2, :1]
    torch.testing.assert_close(maps[0, :, 1, 0], model.forward_head(position)[0].detach())
