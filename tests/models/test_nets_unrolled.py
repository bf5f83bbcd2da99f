"""The unrolled network: its step towards the data, what it is blind to, which coils it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acquisition.errors import ConfigError
from models.nets import unrolled as module
from models.nets.unrolled import HEAD, Stage, Unpacked, Unrolled, gram, packed, parted, seen, towards, unpacked
from recon.mri.model import CartesianSense
from tests.models.unrolled import drawn_maps, drawn_mask, measured, small_network, truth_of

KINDS = ("lines", "discs")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plane", [(16, 24), (15, 25)])
def test_the_step_is_that_of_the_forward_model(kind: str, plane: tuple[int, int]) -> None:
    maps, mask, image = drawn_maps(3, plane), drawn_mask(plane, kind), drawn(0, *plane)
    model = CartesianSense(maps[None], mask, (-1,) if kind == "lines" else (-2, -1))
    wanted = model.centre_middle(model.gram(model.centre_first(image[None])))[0]
    told = model.mask.expand(plane)[None, None]
    torch.testing.assert_close(gram(image[None, None], maps[None], told)[0, 0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_normal_operator_is_its_own_adjoint_and_never_negative(kind: str) -> None:
    plane = (14, 20)
    maps, mask = drawn_maps(3, plane)[None].to(torch.complex128), drawn_mask(plane, kind).expand(plane)[None, None]
    x, z = (drawn(seed, 1, 1, *plane).to(torch.complex128) for seed in (1, 2))
    left, right = (
        torch.vdot(z.flatten(), gram(x, maps, mask).flatten()),
        torch.vdot(gram(z, maps, mask).flatten(), x.flatten()),
    )
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)
    energy = torch.vdot(x.flatten(), gram(x, maps, mask).flatten())
    assert 0 < float(energy.real) < float(torch.vdot(x.flatten(), x.flatten()).real)


def test_scans_of_a_batch_keep_to_themselves() -> None:
    problems = [measured(truth_of(32), kind=kind) for kind in KINDS]
    together = torch.cat([p.packed() for p in problems])
    net = small_network()
    for n, problem in enumerate(problems):
        torch.testing.assert_close(net(together)[n : n + 1], net(problem.packed()), rtol=1e-4, atol=1e-4)


def test_the_input_comes_apart_as_it_was_put_together() -> None:
    start, rhs, conventional = (drawn(seed, 2, 1, 6, 8) for seed in (0, 1, 3))
    noise, mask = torch.rand(2, 1, 6, 8), (torch.rand(2, 1, 6, 8) < 0.5).float()
    parts = Unpacked(start, noise, rhs, conventional, mask, drawn(2, 2, 5, 6, 8))
    x = packed(parts)
    assert x.shape == (2, HEAD + 10, 6, 8)
    again = unpacked(x)
    for name in Unpacked.__slots__:
        assert torch.equal(getattr(again, name), getattr(parts, name))


def small_problem(kind: str, kind_of_number: torch.dtype) -> tuple[Tensor, Tensor]:
    """Maps (1, 3, 6, 8) and a mask (1, 1, 6, 8) that leaves half out."""
    maps, mask = drawn_maps(3, (6, 8))[None].to(kind_of_number), torch.zeros(6, 8)
    mask[:, ::2] = 1
    if kind == "discs":
        mask[3, 2] = 0
    return maps, mask.to(maps.real.dtype)[None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_nearly_that_of_least_squares(kind: str) -> None:
    maps, mask = small_problem(kind, torch.complex128)
    image, other = (drawn(seed, 1, 1, 6, 8).to(torch.complex128) for seed in (0, 1))
    rhs = gram(other, maps, mask)
    units = torch.eye(48, dtype=maps.dtype).reshape(48, 1, 1, 6, 8)
    matrix = torch.stack([gram(unit, maps, mask).flatten() for unit in units], dim=1)
    values, vectors = torch.linalg.eigh(matrix)
    left = vectors.mH @ (towards(image, rhs, maps=maps, mask=mask) - (other - image)).flatten()
    part = left.abs() / (vectors.mH @ (other - image).flatten()).abs()
    assert part[values > module._LEAST].max() < 0.09
    assert part.max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_step_is_that_of_its_iterations(kind: str) -> None:
    maps, mask = small_problem(kind, torch.complex128)
    image, rhs = (drawn(seed, 1, 1, 6, 8).to(torch.complex128).requires_grad_(seed == 0) for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x: module._Towards.apply(x, rhs, maps, mask), (image,))


def test_an_untrained_network_goes_towards_the_data() -> None:
    problem = measured(truth_of(), noise=0.0)
    off = problem.packed()
    off[:, :2] = 0  # from nothing instead of the wavelets' image
    net = Unrolled(cascades=8)
    torch.nn.init.ones_(net.steps)
    correction = net(off).detach()
    image = torch.complex(correction[0, 0], correction[0, 1])
    assert torch.linalg.norm(image - truth_of()) < 0.3 * torch.linalg.norm(truth_of())
    assert problem.unexplained(image) < 0.1 * problem.unexplained(torch.zeros_like(image))


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e3])
def test_the_unit_of_k_space_does_not_matter(factor: float) -> None:
    net, x = small_network(), measured(truth_of(32)).packed()
    louder = x.clone()
    louder[:, :7] *= factor  # start, noise, right-hand side and CG-SENSE; mask and maps have no unit
    assert net(x).abs().max() > 0.1
    torch.testing.assert_close(net(louder), factor * net(x), rtol=1e-3, atol=1e-4 * factor)


@pytest.mark.parametrize("n_coils", [1, 2, 5, 16])
def test_any_number_of_coils_in_any_order(n_coils: int) -> None:
    net, x = small_network(), measured(truth_of(32), n_coils=n_coils).packed()
    head, (real, imag) = x[:, :HEAD], x[:, HEAD:].chunk(2, dim=1)
    turned = torch.cat([head, real.flip(1), imag.flip(1)], dim=1)
    torch.testing.assert_close(net(turned), net(x), rtol=1e-3, atol=1e-3)
    nothing = torch.zeros_like(real[:, :1])
    more = torch.cat([head, real, nothing, imag, nothing], dim=1)
    torch.testing.assert_close(net(more), net(x), rtol=1e-3, atol=1e-3)


def test_the_noise_level_matters() -> None:
    net, x = small_network(), measured(truth_of(32)).packed()
    louder = x.clone()
    louder[:, 2] *= 3
    assert not torch.allclose(net(x), net(louder))


@pytest.mark.parametrize("plane", [(6, 8), (7, 9)])
def test_stages_see_every_pixel_and_give_a_correction_of_every_pixel(plane: tuple[int, int]) -> None:
    image, change = drawn(0, 1, 1, *plane), drawn(1, 1, 1, *plane)
    noise, features = torch.ones(1, 1, *plane), torch.zeros(1, 32, (plane[0] + 1) // 2, (plane[1] + 1) // 2)
    x = seen(image, change, noise, features)
    assert x.shape[1] == 52
    detail, same = (parted(torch.cat([x[:, i : i + 8], features], dim=1), plane)[0] for i in (0, 8))
    assert torch.equal(same, change)
    assert torch.linalg.norm(detail - image) < 0.5 * torch.linalg.norm(image)  # the mean nearby is missing
    correction, handed_on = parted(Stage(32, 1)(x).detach(), plane)
    assert correction.shape == image.shape
    assert not correction.any()
    assert handed_on.abs().max() > 0


def test_stages_do_not_see_brightness_alone() -> None:
    image, zero = drawn(0, 1, 1, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.complex64)
    noise, features = torch.ones(1, 1, 16, 16), torch.zeros(1, 32, 8, 8)
    one, two = (seen(i, zero, noise, features) for i in (image, image + (30 - 20j)))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"width": 20}, {"width": 0}, {"cascades": 0}, {"blocks": 0}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="unrolled: expected width a multiple of 32"):
        Unrolled(**wrong)
