"""Where iterations start from: nothing, or filtered backprojection where the fan cuts the patient off.

Where the patient is cut off on all sides, the image within is determined up to something almost constant (Zeng and
Gullberg, Phys Med Biol 2009;54:5805, DOI 10.1088/0031-9155/54/19/009); iterations keep what the start says of it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Projections
from acquisition.scan import Scan
from recon.ct.cone import Cone
from recon.ct.gather import Volume

_LOG = logging.getLogger(__name__)


def backprojected(
    scan: Scan, views: Projections, volume: Volume, *, extend_mm: float, mu_water_per_mm: float
) -> Tensor:
    """Return attenuation (z, y, x) [1/mm] by FDK, extended beyond the fan; 0 where FDK cannot use the views.

    Parameters
    ----------
    scan
        The scan.
    views
        Line integrals of one table position.
    volume
        The voxels wanted; above and below the detector's slices they repeat the outermost.
    extend_mm
        How far beyond the fan the patient goes on [mm].
    mu_water_per_mm
        Attenuation of water [1/mm].
    """
    (nz, ny, nx), (dz, step, _), (x, y, z) = volume.grid.shape, volume.grid.spacing_mm, volume.grid.origin_mm
    n = max(ny, nx)
    fdk = Cone(
        kernel="soft",
        matrix=n,
        fov_mm=n * step,
        centre_mm=(x + (n - 1) / 2 * step, y + (n - 1) / 2 * step),
        thickness_mm=dz,
        mu_water_per_mm=mu_water_per_mm,
        extend_mm=extend_mm,
    )
    try:
        fdk.open(replace(scan, patient=replace(scan.patient, position=None)))
        slices = [s for s in (*fdk.feed(views), *fdk.close()) if isinstance(s, Image)]
    except (HeaderError, DataError, ReconError) as error:
        _LOG.info("scan %s: iterations start from nothing, because FDK cannot: %s", scan.uid, error)
        return torch.zeros(volume.grid.shape)
    places = np.array([s.grid.origin_mm[2] for s in slices])
    nearest = np.abs(z + dz * np.arange(nz)[:, None] - places).argmin(axis=1)
    hu = np.concatenate([s.data for s in slices])[nearest, :ny, :nx]
    return torch.from_numpy((hu / 1000 + 1).clip(0) * np.float32(mu_water_per_mm))
