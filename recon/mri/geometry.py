"""Where an MR image lies: from the position and directions that each readout carries."""

from __future__ import annotations

import numpy as np

from acquisition.geometry import Grid
from acquisition.verdict import Level, Verdict
from recon.mri.space import Space

DEFAULT_DIRECTIONS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Readout towards the patient's left, phase towards posterior, slice towards the head: axial, in patient
coordinates (LPS), whatever the patient position is."""


def grid_of(head: np.void, space: Space, patient_position: str | None) -> tuple[Grid, tuple[Verdict, ...]]:
    """Return the voxel grid of a frame.

    x grows along read_dir, y along phase_dir, z along slice_dir. The grid's centre is MRD's ``position``, and the
    pixels come from the plain centred transform, whose origin is voxel n // 2: the half voxel between the two for
    even n is the convention of MRD, not an error of this step. Some real files have no directions at all: they
    are taken as axial and marked.

    Parameters
    ----------
    head
        `READOUT_HEAD` record.
    space
        Sizes of the image.
    patient_position
        DICOM patient position, for the record.

    Raises
    ------
    DataError
        Directions that are not perpendicular or not finite.
    """
    directions = [np.asarray(head[name], float) for name in ("read_dir", "phase_dir", "slice_dir")]
    verdicts: tuple[Verdict, ...] = ()
    if not np.any(directions):
        directions = [np.asarray(d) for d in DEFAULT_DIRECTIONS]
        verdicts = (_unknown(patient_position),)
    grid = Grid.from_centre(
        head["position"],
        shape=(space.z.recon, space.y.recon, space.x.recon),
        spacing_mm=(space.z.spacing_mm, space.y.spacing_mm, space.x.spacing_mm),
        directions=directions,
        thickness_mm=space.z.spacing_mm,
    )
    return grid, verdicts


def _unknown(patient_position: str | None) -> Verdict:
    return Verdict(
        check="mri.geometry",
        level=Level.FLAG,
        advice="The scanner sent no slice orientation: taken as axial. Do not trust left, right or the slice's place.",
        evidence=f"read, phase and slice directions are zero; patient position {patient_position or 'not sent'}",
    )
