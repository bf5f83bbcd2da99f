"""The Steps of Cartesian MRI, in the order of the data: readout, assemble, grappa, combine."""

from __future__ import annotations

from recon.mri.assemble import Assemble
from recon.mri.combine import Combine, CombineRss
from recon.mri.grappa import Grappa
from recon.mri.readout import ReadoutTransform

__all__ = ["Assemble", "Combine", "CombineRss", "Grappa", "ReadoutTransform"]
