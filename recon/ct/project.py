"""The forward model of CT: from attenuation on a grid to line integrals, and back by the exact transpose."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.ct_geometry import checked, detector_columns, focal_spots, row_heights_mm
from acquisition.errors import ReconError
from acquisition.geometry import Grid
from acquisition.scan import CtHeader
from recon.ct.backend import backend
from recon.linop import LinearOperator


class ConeProjector(LinearOperator):
    """Line integrals of a volume (z, y, x) [1/mm] along the rays of some views: (view, row, channel).

    Rays run from where the focal spot was (flying focal spots included) to the middle of each element. The volume is
    continued upwards and downwards by its outermost planes, and ends beside its edges.

    Parameters
    ----------
    ct
        The scanner.
    head
        The views, dtype `VIEW_HEAD`, shape (n,).
    grid
        The voxels in the gantry, along its x, y and z.

    Raises
    ------
    ReconError
        The grid is tilted.
    HeaderError
        The geometry is impossible.
    """

    def __init__(self, ct: CtHeader, head: NDArray[np.void], grid: Grid) -> None:
        if (grid.x_dir, grid.y_dir, grid.z_dir) != ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
            where, expected = "ConeProjector grid", "x, y, z along the gantry's axes"
            raise ReconError(where, expected=expected, got=f"{grid.x_dir}, {grid.y_dir}, {grid.z_dir}")
        super().__init__(grid.shape, (len(head), checked(ct, "ConeProjector").n_rows, ct.n_channels))
        self.ct, self.head, self.grid = ct, head, grid
        (x, y, z), (dz, dy, dx) = grid.origin_mm, grid.spacing_mm
        place = (float(x), float(dx), float(y), float(dy), float(z), float(dz))
        spots, columns = focal_spots(ct, head), detector_columns(ct, head)
        self._rays = backend().rays(grid.shape, place, spots=spots, columns=columns, heights=row_heights_mm(ct))

    def views(self, chosen: slice) -> ConeProjector:
        """Return the projector of some of the views."""
        return ConeProjector(self.ct, self.head[chosen], self.grid)

    def _forward(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(self._forward(x.real), self._forward(x.imag))
        return self._rays.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.is_complex():
            return torch.complex(self._adjoint(y.real), self._adjoint(y.imag))
        return self._rays.adjoint(y)
