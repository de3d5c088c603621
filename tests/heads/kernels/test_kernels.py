"""Every implementation of the NOAH head is the reference, only leaner."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from noah.evaluate.cost import running_maximum
from noah.heads import NOAH, kernels
from noah.heads.kernels import compiled, tiles

SHAPES = {  # B, C, L, M, N, r
    "even": (4, 16, 6, 5, 4, 0.5),
    "odd": (3, 21, 7, 11, 3, 0.3),
    "one head, one class": (5, 10, 9, 1, 1, 0.3),
    "one image": (1, 32, 49, 20, 8, 0.25),
    "one position": (2, 8, 1, 3, 2, 0.5),
}


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    """Two images of these small shapes make a tile, two channels a product, and all are worth a look at their norms."""
    monkeypatch.setattr(tiles, "TILE_NUMBERS", 80)
    monkeypatch.setattr(tiles, "CHANNELS", 2)
    monkeypatch.setattr(tiles, "FEWEST_ROWS", 1)


def pair(shape, impl="cpu", **arguments):
    """The reference in float64, the same weights in `impl`, and features (B, L, C) in float64."""
    torch.manual_seed(0)
    B, C, L, M, N, r = SHAPES[shape]
    reference = NOAH(C, M, N, r, impl="reference", **arguments).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    reference = reference.float().double()
    head = NOAH(C, M, N, r, impl=impl, **arguments)
    head.load_state_dict(reference.state_dict())
    return reference, head, torch.randn(B, L, C, dtype=torch.float64)


def gradients(head, x):
    x = x.clone().requires_grad_()
    out = head(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weights).sum().backward()
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in head.named_parameters()}}


def assert_close(given, expected, tolerance):
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = max(tensor.abs().max().item(), 2e-3)
        torch.testing.assert_close(
            given[name].double(), tensor.double(), atol=tolerance * largest, rtol=0, msg=lambda m, name=name: name + m
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_within_1e5_of_the_float64_reference_gradients_too(shape):
    reference, head, x = pair(shape)
    assert_close(gradients(head, x.float()), gradients(reference, x), 1e-5)
    head.eval()
    with torch.no_grad():
        torch.testing.assert_close(head(x.float()).double(), reference(x), atol=1e-5 * reference(x).abs().max(), rtol=0)


@pytest.mark.parametrize("impl", ["cpu", "compile"])
@pytest.mark.parametrize("size", [0.01, 1.0, 12.0, 1000.0])
def test_however_large_the_logits_the_answer_is_the_reference_s(size, impl):
    """Powers of small ones are taken as they are, of large ones after a shift."""
    if impl == "compile" and not compiled.has_compiler():
        pytest.skip("needs a C++ compiler")
    reference, head, x = pair("odd", impl)
    with torch.no_grad():
        for module in (reference, head):
            module.query.weight.mul_(size)
    expected = gradients(reference, x)
    assert expected["out"].isfinite().all()
    assert_close(gradients(head, x.float()), expected, 1e-5 if size < 100 else 1e-3)  # float32 rounds the logits


def test_logits_are_shifted_only_where_they_might_leave_the_numbers():
    weight = torch.ones(2, 3, 4)  # norm 2
    x = torch.zeros(2, 5, 20)
    x[1, 3, 4:8] = 6.5  # keys of the second head, norm 13: a logit of 26, a power of 37.5
    assert not tiles.must_shift(x, weight)
    assert tiles.must_shift(1.1 * x, weight)
    x[0, 0, 9] = 1e9  # a value
    assert not tiles.must_shift(x, weight)
    x[0, 0, 0] = float("nan")
    assert tiles.must_shift(x, weight)


def test_the_look_at_the_norms_takes_no_more_memory_than_a_tile(monkeypatch):
    monkeypatch.undo()
    x, weight = torch.zeros(64, 49, 2048), torch.zeros(4, 2, 256)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        assert not tiles.must_shift(x, weight)
    assert running_maximum(profiler) < 2 * 4 * tiles.TILE_NUMBERS


def test_one_image_is_shifted_without_a_look(monkeypatch):
    monkeypatch.undo()
    weight = torch.zeros(2, 3, 4)
    assert tiles.must_shift(torch.zeros(1, 49, 20), weight)
    assert not tiles.must_shift(torch.zeros(3, 49, 20), weight)
    assert tiles.must_shift(torch.zeros(0, 49, 20), weight)


def test_large_values_and_gradients_stay_finite_where_the_logits_are_not_shifted():
    head, x = NOAH(16, 3, 4, impl="cpu"), torch.full((1, 4, 16), 13.0)
    with torch.no_grad():
        head.query.weight.fill_(1.0), head.value.weight.fill_(1.0)
        x[..., 8:] = 1e20
    for sign in (1, -1):
        x[..., :8] = sign * 13.0
        assert not tiles.must_shift(x, head.query.weight.view(4, 3, 2))
        found = gradients(head, x)
        assert all(tensor.isfinite().all() for tensor in found.values())
        torch.testing.assert_close(found["out"], torch.full((1, 3), 8e20))


def test_half_precision_takes_every_logit_that_it_can_write():
    head, x = NOAH(4, 1, 1, impl="cpu").half(), torch.zeros(1, 3, 4, dtype=torch.float16)
    with torch.no_grad():
        head.query.weight.fill_(1.0), head.value.weight.fill_(1.0)
        x[0, 1] = torch.tensor([60000.0, 0.0, 3.0, 2.0])
        assert head(x).item() == 5


def test_weights_in_any_order_of_memory_have_their_gradients():
    reference, head, x = pair("odd")
    for module in (reference, head):
        for conv in (module.query, module.value):
            across = conv.weight.detach().flatten(1).t().contiguous().t()[..., None, None]
            assert not across.flatten(1).is_contiguous()
            conv.weight = nn.Parameter(across)
    assert_close(gradients(head, x.float()), gradients(reference, x), 1e-5)


def test_another_default_device_changes_nothing():
    _, head, x = pair("even", drop_rate=0.5)
    results = []
    for device in ("cpu", "meta"):
        torch.manual_seed(3)
        with torch.device(device):
            results.append(head(x.float()))
    assert torch.equal(*results)


def test_features_of_another_dtype_than_the_weights_are_refused_in_words():
    _, head, x = pair("even")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"features of torch\.float64"):
        head(x)
    with pytest.raises(
        ValueError, match=r"features of torch.bfloat16 and weights of torch.float32, expected one dtype"
    ):
        head(x.bfloat16())


def test_a_feature_that_is_no_number_spoils_its_image_and_no_other():
    _, head, x = pair("even")
    x[1, 2, 0] = float("nan")
    finite = head(x.float()).isfinite().all(1)
    assert finite.tolist() == [True, False, True, True]


def test_bfloat16_is_within_1e2_of_the_reference_of_the_same_weights():
    reference, head, x = pair("even")
    x = x.bfloat16()
    head = head.bfloat16()
    reference.load_state_dict(head.state_dict())
    given = gradients(head, x)
    assert given["out"].dtype == given["x"].dtype == torch.bfloat16
    assert_close(given, gradients(reference, x.double()), 1e-2)


@pytest.mark.parametrize(("images", "positions"), [(2, 512), (300, 2)])
def test_sums_over_positions_and_tiles_are_never_in_half_precision(images, positions):
    """512 values of 1 have a mean of 1, and 300 gradients of 1 a sum of 300; sums in bfloat16 stop at 256."""
    head = NOAH(4, 3, 1, 0.5, impl="cpu").bfloat16()
    with torch.no_grad():
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        head.value.weight[:, 0] = 1
    x = torch.ones(images, positions, 4, dtype=torch.bfloat16, requires_grad=True)
    out = head(x)
    assert (out == 1).all()
    out.sum().backward()
    assert (head.value.weight.grad == images).all()


def test_float16_works_on_a_cpu():
    reference, head, x = pair("even")
    torch.testing.assert_close(head.half()(x.half()).double(), reference(x), atol=0.1, rtol=0.01)


def test_autocast_computes_in_its_dtype_and_gives_float32_gradients():
    reference, head, x = pair("odd")
    expected = gradients(reference, x)
    with torch.autocast("cpu", torch.bfloat16):
        given = gradients(head, x.float())
    assert given["out"].dtype == torch.bfloat16
    assert all(given[name].dtype == torch.float32 for name in ("x", "query.weight", "value.bias"))
    assert_close(given, expected, 3e-2)


@pytest.mark.parametrize("merge", ["sum", "mean", "max", "concat+linear"])
@pytest.mark.parametrize("drop_rate", [0.0, 0.4])
def test_gradients_are_those_of_finite_differences(merge, drop_rate):
    _, head, x = pair("odd", merge=merge, drop_rate=drop_rate)
    head = head.double()
    names = [name for name, _ in head.named_parameters()]

    def scores(x, *parameters):
        torch.manual_seed(3)
        return torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (x,))

    # Three images: one tile of two, and one of one.
    leaves = [t.detach().clone().requires_grad_() for t in (x[:, :3], *head.parameters())]
    assert torch.autograd.gradcheck(scores, leaves, fast_mode=True)


def test_the_key_bias_has_a_gradient_of_zeros():
    _, head, x = pair("even")
    assert not gradients(head, x.float())["query.bias"].any()


def test_every_layout_of_the_features_gives_the_same_and_its_own_gradient():
    reference, head, x = pair("even")
    expected = gradients(reference, x)
    maps = x.transpose(1, 2).unflatten(2, (2, 3)).float()
    strided = torch.zeros(4, 7, 32)[:, 1:, ::2].copy_(x)
    for features in (maps.contiguous(), maps.contiguous(memory_format=torch.channels_last), strided):
        given = gradients(head, features)
        grad = given["x"].flatten(2).transpose(1, 2) if features.ndim == 4 else given["x"]
        assert_close(given | {"x": grad}, expected, 1e-5)
        head.zero_grad(set_to_none=True)


def test_an_empty_batch_gives_an_empty_answer_and_zero_gradients():
    _, head, x = pair("even", drop_rate=0.1)
    given = gradients(head, x[:0].float())
    assert given["out"].shape == (0, 5)
    assert given["x"].shape == (0, 6, 16)
    assert not any(tensor.any() for tensor in given.values())


def test_weights_that_are_frozen_stay_without_gradient():
    _, head, x = pair("even")
    head.query.requires_grad_(False)
    head(x.float()).sum().backward()
    assert head.query.weight.grad is None
    assert head.value.weight.grad.any()


def test_dropout_repeats_with_the_seed_and_leaves_evaluation_alone():
    reference, head, x = pair("even", drop_rate=0.3)
    x = x.float()
    torch.manual_seed(5)
    first, second = gradients(head, x), head(x)
    head.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    again = gradients(head, x)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["out"], second)
    head.eval(), reference.eval()
    torch.testing.assert_close(head(x).double(), reference(x.double()), atol=1e-5, rtol=1e-5)


def _drawn(impl, draws, drop_rate):
    """Scores (draws, M) where each is the number of values kept, over L: attention is uniform and values are 1."""
    torch.manual_seed(0)
    head = NOAH(4, 50, 2, 0.5, drop_rate=drop_rate, impl=impl)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(head.value.bias)
    with torch.no_grad():
        return head(torch.randn(draws, 16, 4)) * 16 * (1 - drop_rate)


@pytest.mark.parametrize("drop_rate", [0.1, 0.5, 0.9])
def test_what_dropout_keeps_is_binomial(drop_rate, monkeypatch):
    """The bias is dropped with its value; 32 values of each class are kept independently."""
    monkeypatch.setattr(tiles, "TILE_NUMBERS", 784_000)
    kept = _drawn("cpu", 4000, drop_rate).round().long()
    torch.testing.assert_close(kept.double(), _drawn("cpu", 4000, drop_rate).double(), atol=1e-3, rtol=0)
    counts = torch.bincount(kept.flatten(), minlength=33).double()
    expected = torch.distributions.Binomial(32, torch.tensor(1 - drop_rate, dtype=torch.float64))
    expected = kept.numel() * expected.log_prob(torch.arange(33, dtype=torch.float64)).exp()
    likely = expected > 10
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    degrees = likely.sum() - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5
    correlation = torch.corrcoef(kept.double().T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_masks_of_neighbouring_tiles_are_unrelated():
    _, head, _ = pair("even", drop_rate=0.5)
    x = torch.ones(400, 6, 16)  # two images a tile, all alike
    with torch.no_grad():
        out = head(x)
    assert len(torch.unique(out, dim=0)) > 390


@pytest.mark.parametrize("impl", ["cpu", "auto"])
def test_the_same_inputs_give_the_same_bits(impl):
    _, head, x = pair("odd", impl)
    first, second = gradients(head, x.float()), gradients(copy.deepcopy(head), x.float())
    head.zero_grad(set_to_none=True)
    assert all(
        torch.equal(tensor, second[name]) for name, tensor in gradients(head, x.float()).items() if name == "out"
    )
    assert torch.equal(first["x"], second["x"])


def test_a_second_derivative_is_refused_in_words():
    _, head, x = pair("even")
    x = x.float().requires_grad_()
    with pytest.raises(RuntimeError, match="impl='reference'"):
        torch.autograd.grad(head(x).sum(), x, create_graph=True)


def test_many_backward_passes_at_once_are_refused_in_words():
    _, head, x = pair("even")
    with pytest.raises(RuntimeError, match="no vectorized gradients: build the head with impl='reference'"):
        torch.autograd.functional.jacobian(lambda x: head(x).sum(0), x.float(), vectorize=True)


def test_checkpointing_draws_the_same_mask_again():
    _, head, x = pair("even", drop_rate=0.5)
    grads = []
    for call in (head, lambda x: torch.utils.checkpoint.checkpoint(head, x, use_reentrant=False)):
        torch.manual_seed(1)
        x = x.float().detach().requires_grad_()
        call(x).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("impl", ["cpu", "auto", "compile"])
def test_exporters_see_the_reference(impl):
    reference, head, x = pair("even", impl)
    x, expected = x.float(), reference(x).float()
    exported = torch.export.export(head, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    assert any("conv" in str(node.target) for node in exported.graph.nodes)
    traced = torch.jit.trace(head, x, check_trace=False)
    for call in (exported.module(), traced):
        torch.testing.assert_close(call(x), expected, atol=1e-4, rtol=1e-4)


def test_function_transforms_and_forward_mode_work():
    reference, head, x = pair("even")
    head = head.double()
    for call in (
        lambda h: torch.func.vmap(lambda image: h(image[None])[0])(x),
        lambda h: torch.func.grad(lambda x: h(x).sum())(x),
        lambda h: torch.func.jvp(h, (x,), (torch.ones_like(x),))[1],
        lambda h: forward_mode(h, x),
    ):
        torch.testing.assert_close(call(head), call(reference))


def forward_mode(head, x):
    with torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(
            head(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        ).tangent


def test_distributed_training_misses_no_parameter(tmp_path):
    _, head, x = pair("even")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(head)
        for _ in range(2):  # the second step is where DDP complains
            wrapped(x.float()).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(
    "switch",
    [{"score": "sigmoid"}, {"split_groups": False}, {"split_key_value": False}, {"kernel_size": 3}],
)
def test_other_switches_take_the_reference_and_refuse_a_lean_kernel_by_name(switch):
    x = torch.randn(2, 16, 3, 3)
    torch.manual_seed(0)
    auto, reference = NOAH(16, 5, **switch), NOAH(16, 5, **switch, impl="reference")
    reference.load_state_dict(auto.state_dict())
    assert torch.equal(auto(x), reference(x))
    for impl in ("cpu", "compile", "triton"):
        with pytest.raises(ValueError, match=f"impl is '{impl}', which computes score softmax"):
            NOAH(16, 5, **switch, impl=impl)


def test_auto_takes_the_tiles_on_a_cpu_and_the_reference_on_the_meta_device():
    _, head, x = pair("even", "auto")
    kept = []
    for features, module in ((x.float(), head), (x.float().to("meta"), copy.deepcopy(head).to("meta"))):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
            module(features)
        whole = [shape for shape in kept if len(shape) == 4 and shape[0] == 4 and shape[1:3] == (4, 5)]
        assert bool(whole) == features.is_meta


@pytest.mark.parametrize(("num_classes", "expected"), [(10, "reference"), (63, "reference"), (64, "cpu")])
def test_auto_takes_the_reference_on_a_cpu_for_few_categories(monkeypatch, num_classes, expected):
    monkeypatch.setattr(kernels, "FEW_CATEGORIES", 64)
    head, called = NOAH(16, num_classes), []
    for name in ("cpu", "reference"):
        fake = lambda *_, name=name, **__: called.append(name) or torch.zeros(1, 4, 1)  # noqa: E731
        monkeypatch.setitem(kernels.IMPLEMENTATIONS, name, fake)
    head(torch.randn(1, 6, 16))
    assert called == [expected]
    assert (head.kernel("cpu"), head.kernel("cuda") != "cpu") == (expected, True)


def test_a_kernel_for_another_device_is_refused_in_words():
    with pytest.raises(ValueError, match="impl is 'triton' and the features are on cpu, expected cuda"):
        NOAH(16, 5, impl="triton")(torch.randn(1, 4, 16))


def test_training_never_holds_what_the_reference_holds():
    """Memory of a training step, as torch's profiler sees it."""
    peaks = {}
    for impl in ("reference", "cpu"):
        torch.manual_seed(0)
        head, x = NOAH(64, 100, impl=impl), torch.randn(64, 49, 64, requires_grad=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            head(x).sum().backward()
        peaks[impl] = running_maximum(profiler)
    assert peaks["cpu"] * 4 < peaks["reference"]


@pytest.mark.skipif(not compiled.has_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize("drop_rate", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_compiled_pointwise_part_is_the_plain_one(drop_rate, dtype, tolerance):
    _, plain, x = pair("even", drop_rate=drop_rate)
    _, fast, _ = pair("even", "compile", drop_rate=drop_rate)
    results = []
    for head in (plain, fast):
        torch.manual_seed(4)
        results.append(gradients(head.to(dtype), x.to(dtype)))
    assert_close(results[1], results[0], tolerance)


@pytest.mark.skipif(not compiled.has_compiler(), reason="needs a C++ compiler")
def test_what_is_compiled_does_not_depend_on_the_sizes_seen_before():
    """Else a resumed run might round otherwise."""
    _, head, x = pair("one image", "compile")
    results = []
    for seen in ([], [4, 5]):
        torch._dynamo.reset()
        with torch.no_grad():
            for positions in seen:
                head(x.float()[:, :positions])
            results.append(head(x.float()))
    assert torch.equal(*results)


def test_without_a_compiler_compile_says_so():
    from torch._inductor import config

    compiled._compiled.cache_clear()
    # Not pytest's monkeypatch: it would delete the setting afterwards, for every later test of the process.
    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(ValueError, match="needs a C\\+\\+ compiler"),
    ):
        NOAH(16, 5, impl="compile")(torch.randn(2, 4, 16))
