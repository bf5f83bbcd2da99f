"""CT over a limited angle: filtered backprojection, PWLS and total variation by the Helsinki challenge's measure.

Run as ``OMP_NUM_THREADS=1 python -m tests.benchmarks.ct_limited``. The measure is that of the Helsinki Tomography
Challenge 2022: Matthews' correlation coefficient of images cut in two by Otsu's threshold. Two discs with holes, in
the geometry of its scanner: a simulated one, whose truth is known, and the real disc tb, of which 90 degrees are
published, no truth, and no larger angle: its reference is the total variation image of all 90 degrees, which favours
that method and scores 1 against itself.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.items import Image, Projections
from acquisition.scan import CtHeader, Scan
from acquisition.sources.phantom.ct import CtExam, CtSimulation
from acquisition.sources.phantom.ct_objects import Anatomy, built
from acquisition.stream import Step
from recon.ct.fbp import Axial
from recon.ct.iterative import Pwls, TotalVariationCt
from tests.conftest import ROOT
from tests.ct_real import helsinki, views

DATA = Path(os.environ.get("ISOCENTER_DATA", ROOT.parent / "shared" / "data")) / "ct" / "htc2022"
DEGREES = (90, 70, 50, 30)
FIELD = {"matrix": 128, "fov_mm": 76.0}
METHODS = {"FBP": Axial, "PWLS": Pwls, "TV": TotalVariationCt}
PHOTONS = 5e4
_HOLES_MM = (
    *((-16, -15, 7, 5), (4, -22, 5, 7), (20, -9, 6, 6), (-23, 3, 4, 5), (-5, -3, 5, 5), (8, 2, 5, 4)),
    *((22, 9, 4, 6), (-10, 13, 5, 4), (-17, 20, 4, 4), (3, 19, 6, 5), (16, 21, 4, 4)),
)
DISC: Anatomy = {
    "disc": (None, 0.0, (0.0, 0.0, 0.0), (35.0, 35.0, 500.0)),
    **{f"hole {k}": ("disc", -1000.0, (x, y, 0.0), (rx, ry, 500.0)) for k, (x, y, rx, ry) in enumerate(_HOLES_MM)},
}


def simulated(photons: float = PHOTONS) -> tuple[Scan, Projections, NDArray[np.bool_]]:
    """Return the scan, 90 degrees of a disc with holes, and where there is acrylic (y, x)."""
    ct = CtHeader(
        mode="axial",
        detector="flat",
        n_rows=1,
        n_channels=280,
        pitch_mm=(0.4, 0.4),
        centre=(0.0, 139.5),
        source_isocentre_mm=410.66,
        source_detector_mm=553.74,
        views_per_rotation=720,
        mu_water_per_mm=0.04,
    )
    simulation = CtSimulation(CtExam(ct=ct, turns=181 / 720), built(DISC))
    exact = simulation.lines().astype(float)
    counts = np.random.default_rng(1).poisson(photons * np.exp(-exact))
    at = (np.arange(4 * 128) + 0.5) / (4 * 128) * 76 - 38
    points = np.stack([*np.meshgrid(at, at), np.zeros((512, 512))], axis=-1)
    truth = simulation.phantom.signal(points).reshape(128, 4, 128, 4).mean(axis=(1, 3)) > 0.5
    return simulation.scan, views(simulation.head["angle_rad"], -np.log(np.maximum(counts, 1) / photons)), truth


def real(folder: Path = DATA) -> tuple[Scan, Projections]:
    """Return the scan and 90 degrees of the disc tb, elements averaged in pairs."""
    scan, block = helsinki(folder / "tb_subsample_90.mat")
    ct = scan.require_ct()
    pitch = ct.pitch_mm[1] * 2
    ct = replace(ct, n_channels=ct.n_channels // 2, centre=(0.0, (ct.centre[1] - 0.5) / 2), pitch_mm=(pitch, pitch))
    data = block.data.reshape(len(block), 1, -1, 2).mean(axis=-1)
    return replace(scan, ct=ct), replace(block, data=data)


def made(method: str, scan: Scan, block: Projections, degrees: int) -> NDArray[np.float32]:
    """Return the image (y, x) [HU] of the middle `degrees` by a method."""
    n = 2 * degrees + 1
    start = (len(block) - n) // 2
    some = replace(block, head=block.head[start : start + n], data=block.data[start : start + n])
    if method == "FBP":
        return backprojected(Axial(kernel="soft", **FIELD), scan, some).data[0]
    return reconstructed(METHODS[method](**FIELD), scan, some).data[0]


def reconstructed(step: Step, scan: Scan, block: Projections) -> Image:
    """Return the one slice that a Step makes."""
    step.open(scan)
    (image,) = (i for i in (*step.feed(block), *step.close()) if isinstance(i, Image))
    return image


def backprojected(step: Axial, scan: Scan, block: Projections, n_views: int = 390) -> Image:
    """Return FBP of half a turn and the fan, empty where nothing was measured: it takes no less."""
    angle, before = block.head["angle_rad"], (n_views - len(block)) // 2
    data = np.zeros((n_views, *block.data.shape[1:]), np.float32)
    data[before : before + len(block)] = block.data
    filled = views(angle[0] + (angle[1] - angle[0]) * (np.arange(n_views) - before), data)
    return reconstructed(step, scan, filled)


def solid(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what lies above Otsu's threshold (IEEE Trans Syst Man Cybern 1979;9:62, DOI 10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(image, 256)
    middle = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * middle)
    between = np.square(mass[-1] * below / below[-1] - mass) / np.maximum(below * (below[-1] - below), 1)
    return image > edges[1:][np.argmax(between)]


def matthews(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return Matthews' correlation coefficient: 1 where both agree everywhere, 0 for chance."""
    return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])


def main() -> None:
    """Print the tables."""
    scan, block, truth = simulated()
    _table("simulated disc", scan, block, truth)
    if not DATA.is_dir():
        print(f"\nno real disc: nothing at {DATA}")
        return
    scan, block = real()
    _table("real disc tb, against TV of 90 degrees", scan, block, solid(made("TV", scan, block, 90)))


def _table(name: str, scan: Scan, block: Projections, truth: NDArray[np.bool_]) -> None:
    print(f"\n| {name}: MCC | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
    for degrees in DEGREES:
        scores = [matthews(solid(made(method, scan, block, degrees)), truth) for method in METHODS]
        print(f"| {degrees} degrees | {' | '.join(f'{s:.3f}' for s in scores)} |", flush=True)


if __name__ == "__main__":
    main()
