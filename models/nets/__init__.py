"""Architectures by name: what a card may name, and the class behind it. One network, one file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from torch import nn

from acquisition.errors import ConfigError, one_of

NETS: dict[str, str] = {
    "unet": "models.nets.unet:UNet",
    "unrolled": "models.nets.unrolled:Unrolled",
    "lowdose": "models.nets.lowdose:LowDose",
}
"""Name -> ``module:Class``. A network takes (n, channel, y, x), the last channel the noise map, all in units of the
noise, and returns the correction of the image channels; ``multiple`` is what y and x must be a multiple of.
``unrolled`` has more channels behind the noise, ``lowdose`` more in front of it, see there."""


def build(name: str, parameters: Mapping[str, object], *, where: str) -> nn.Module:
    """Return a network that knows nothing yet.

    Parameters
    ----------
    name
        One of `NETS`.
    parameters
        Of its class.
    where
        Named in errors.

    Raises
    ------
    ConfigError
        There is no such network, or it has no such parameter.
    """
    if name not in NETS:
        raise ConfigError(f"{where}: network {name!r}", expected=one_of(name, NETS), got=repr(name))
    module, _, attribute = NETS[name].partition(":")
    network_class = getattr(importlib.import_module(module), attribute)
    try:
        network: nn.Module = network_class(**parameters)
    except TypeError as error:
        raise ConfigError(f"{where}: network {name}", expected="its parameters", got=str(error)) from error
    return network.eval()
