"""What a PET image of the NEMA body phantom measures: contrast recovery, variability, lung residual, bias; as a report.

Without a phantom at hand the virtual scanner measures one, and a protocol reconstructs it with all corrections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from acquisition.errors import ConfigError, ReconError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam
from acquisition.sources.phantom.pet_objects import nema_body
from integration.plot import curve, grey_map, sheet
from integration.protocol import Protocol
from integration.runner import Run
from recon.pet.iec import DIAMETERS_MM, RATIO, Pose, background_mm, located, upright
from recon.pet.nema import Quality, quality

VIRTUAL_BQ_PER_ML = 5300.0
"""Background of the virtual phantom, as NU 2 has it [Bq/mL]."""
_MU_MM, _MU_SHAPE = (4.0, 3.0, 3.0), (53, 85, 109)
_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_SHOWN_MM = 160.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What the phantom was filled with."""

    ratio: float = RATIO
    """Activity of hot spheres over the background's."""
    cold_mm: tuple[float, ...] = ()
    """Diameters of the spheres without activity [mm]."""
    background_bq_per_ml: float | None = None
    """Activity of the background at the time that the image is corrected to [Bq/mL]; None: not told."""

    def __post_init__(self) -> None:
        odd = set(self.cold_mm) - set(DIAMETERS_MM)
        known = self.background_bq_per_ml is None or self.background_bq_per_ml > 0
        if not self.ratio > 1 or odd or not known:
            raise ConfigError(
                "phantom",
                expected="a ratio above 1, cold spheres of 10, 13, 17, 22, 28 or 37 mm, a background above 0 Bq/mL",
                got=f"{self.ratio}, {sorted(self.cold_mm)}, {self.background_bq_per_ml}",
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Activity of each sphere over the background's, smallest first."""
        return tuple(0.0 if d in self.cold_mm else self.ratio for d in DIAMETERS_MM)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PetQuality:
    """What was measured."""

    image: Image
    """The volume, upright."""
    pose: Pose
    """How the phantom lies."""
    nema: Quality
    """Contrast, variability, lung."""
    bias_percent: float | None
    """Mean of the background regions against what was filled in [%]; None: not told."""


def measured(image: Image, filling: Filling) -> PetQuality:
    """Find the phantom and measure in it.

    Raises
    ------
    DataError
        It is not there, not transaxial, or does not lie within the image.
    """
    shown = upright(image)
    pose = located(shown, filling.ratios)
    found = quality(
        shown, pose.spheres(filling.ratios), background_mm=background_mm(shown, pose), lung_mm=pose.centre_mm
    )
    told = filling.background_bq_per_ml
    bias = None if told is None else 100 * (found.background / told - 1)
    return PetQuality(image=shown, pose=pose, nema=found, bias_percent=bias)


def virtual_image(protocol: Protocol, exam: PetExam) -> Image:
    """Let the virtual scanner measure the phantom, and a protocol reconstruct it; return its image.

    Parameters
    ----------
    protocol
        One for PET that gives an image in Bq/mL.
    exam
        The scanner, and how long it counts.

    Raises
    ------
    ConfigError
        The protocol is for another modality.
    ReconError
        It gives no image but previews.
    """
    if protocol.modality != "PT":
        raise ConfigError("virtual phantom", expected="a protocol for PET (PT)", got=protocol.modality)
    simulation = PetSimulation(exam, nema_body(background_bq_per_ml=VIRTUAL_BQ_PER_ML))
    run = Run(simulation.scan, protocol)
    run.open()
    images = [image for item in virtual_items(simulation) for image in run.feed(item)] + list(run.close())
    final = [image for image in images if image.unit == "Bq/mL"]
    if not final:
        raise ReconError(f"protocol {protocol.name}", expected="an image in Bq/mL", got=f"{len(images)} others")
    return final[-1]


def virtual_items(simulation: PetSimulation) -> Iterator[Any]:
    """Yield normalisation, attenuation and events of a virtual scan."""
    body = simulation.object_at(0.0).body
    grid = Grid.from_centre((0, 0, 0), shape=_MU_SHAPE, spacing_mm=_MU_MM, directions=_AXES)
    mu = np.maximum(body.render(grid, subsamples=(2, 2)), 0).astype(np.float32)
    yield simulation.normalisation
    yield Image(data=mu, grid=grid, unit="1/mm", output="mu")
    yield from simulation.events()


def report(found: PetQuality) -> dict[str, Any]:
    """Return what was measured in JSON's types; units are in the names."""
    return {
        "phantom": {
            "centre_mm": found.pose.centre_mm,
            "smallest_sphere_deg": float(np.rad2deg(found.pose.angle_rad)) % 360,
            "turn": found.pose.turn,
        },
        "unit": found.image.unit,
        "background": found.nema.background,
        "background_bias_percent": found.bias_percent,
        "lung_percent": found.nema.lung_percent,
        "spheres": [
            {
                "diameter_mm": s.diameter_mm,
                "contrast_percent": s.contrast_percent,
                "variability_percent": s.variability_percent,
            }
            for s in found.nema.spheres
        ],
    }


def table(found: PetQuality) -> list[str]:
    """Return the report for people, line by line."""
    (x, y, z), spheres = found.pose.centre_mm, found.nema.spheres
    bias = "" if found.bias_percent is None else f", {found.bias_percent:+.1f} % from what was filled in"
    rows = [
        ("phantom", f"lung insert at ({x:.1f}, {y:.1f}) mm, spheres at z = {z:.1f} mm"),
        ("background", f"{found.nema.background:.4g} {found.image.unit}{bias}"),
        ("sphere", _row([s.diameter_mm for s in spheres], "mm", 0)),
        ("contrast", _row([s.contrast_percent for s in spheres], "%", 1)),
        ("variability", _row([s.variability_percent for s in spheres], "%", 1)),
        ("lung residual", f"{found.nema.lung_percent:.1f} %"),
    ]
    return [f"{name:<16}{text}" for name, text in rows]


def drawn(found: PetQuality, caption: str) -> str:
    """Return contrast recovery and variability by diameter, and the plane of the spheres, as SVG."""
    spheres = found.nema.spheres
    diameter = np.array([s.diameter_mm for s in spheres])
    contrast, noise = (np.array([getattr(s, f"{n}_percent") for s in spheres]) for n in ("contrast", "variability"))
    return sheet(
        [
            curve("Contrast recovery", ("sphere [mm]", "%"), (diameter, contrast)),
            curve("Background variability", ("region [mm]", "%"), (diameter, noise)),
            grey_map("Plane of the spheres", ("x [mm]", "y [mm]"), _plane(found), reach=_SHOWN_MM),
        ],
        caption,
    )


def _plane(found: PetQuality) -> np.ndarray:
    """Return the slice of the spheres, as much of it as is shown around the lung insert."""
    grid, (x, y, z) = found.image.grid, found.pose.centre_mm
    (nz, ny, nx), (_, dy, dx) = grid.shape, grid.spacing_mm
    k = round((z - grid.origin_mm[2]) / (grid.spacing_mm[0] * float(np.sign(grid.z_dir[2]))))
    out = np.zeros((2 * round(_SHOWN_MM / dy) + 1, 2 * round(_SHOWN_MM / dx) + 1))
    j = round((y - grid.origin_mm[1]) / dy) + np.arange(len(out)) - len(out) // 2
    i = round((x - grid.origin_mm[0]) / dx) + np.arange(out.shape[1]) - out.shape[1] // 2
    ys, xs = (j >= 0) & (j < ny), (i >= 0) & (i < nx)
    out[np.ix_(ys, xs)] = found.image.data[min(max(k, 0), nz - 1)][np.ix_(j[ys], i[xs])]
    return out


def _row(values: Sequence[float], unit: str, digits: int) -> str:
    return "".join(f"{v:7.{digits}f}" for v in values) + f"  {unit}"
