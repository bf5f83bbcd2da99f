"""The backbone: shapes, what it is blind to, where it starts, which sizes it takes."""

from __future__ import annotations

import pytest
import torch

from acquisition.errors import ConfigError
from models.nets.unet import UNet
from tests.models.samples import network


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("dimensions", "matrix"), [(2, (16, 24)), (3, (4, 8, 12))])
def test_a_correction_has_the_size_of_the_image(levels: int, dimensions: int, matrix: tuple[int, ...]) -> None:
    net = UNet(image_channels=3, corrected_channels=2, levels=levels, dimensions=dimensions)
    assert net.multiple == 2 ** (levels - 1)
    assert net(torch.randn(2, 4, *matrix)).shape == (2, 2, *matrix)


def test_an_untrained_network_corrects_nothing() -> None:
    assert not UNet()(torch.randn(1, 2, 16, 16)).any()


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_the_unit_does_not_matter(factor: float) -> None:
    net, x = network(), torch.randn(1, 2, 32, 32)
    torch.testing.assert_close(net(factor * x), factor * net(x), rtol=1e-4, atol=1e-4 * factor)


def test_the_noise_map_matters() -> None:
    net, x = network(), torch.randn(1, 2, 16, 16)
    louder = x.clone()
    louder[:, 1] *= 3
    assert not torch.allclose(net(x), net(louder))


@pytest.mark.parametrize("wrong", [{"width": 20}, {"width": 0}, {"levels": 0}, {"blocks": 0}, {"dimensions": 4}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="unet: expected width a multiple of 32"):
        UNet(**wrong)  # type: ignore[arg-type]
