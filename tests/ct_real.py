"""Reads the real CT data sets into our own items: which way each detector counts and each gantry turns is said here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from acquisition.items import VIEW_HEAD, Item, Projections, View
from acquisition.scan import CtHeader, Scan

FAR_MM = 1e6
"""Focal spot of a parallel beam [mm]: across 600 channels its rays are parallel to 0.03 degrees."""
TOOTH_CENTRE = 296.0
"""Channel of the tooth's axis of rotation."""


def views(angles_rad: np.ndarray, data: np.ndarray, *, flag: int = 0, counts: bool = False) -> Projections:
    """One block of views (view, row, channel) at the given angles."""
    head = np.zeros(len(data), VIEW_HEAD)
    head["angle_rad"], head["view"], head["flags"] = angles_rad, np.arange(len(data)), flag
    data = np.ascontiguousarray(data, np.float32)
    return Projections(head=head, data=data, domain="counts" if counts else "lines")


def through(scan: Scan, items: Iterable[Item], *steps) -> list[Item]:
    """Put items through Steps, one after the other."""
    here = list(items)
    for step in steps:
        step.open(scan)
        here = [out for item in here for out in step.feed(item)] + list(step.close())
    return here


def helsinki(path: Path) -> tuple[Scan, Projections]:
    """One of the acrylic discs of the Helsinki Tomography Challenge 2022 (Zenodo 10.5281/zenodo.7418878).

    Its angles turn the source from (0, -410.66) mm towards +x with y upwards, and its elements are numbered along
    (1, 0) there; ours has y downwards, so angles fall and the elements are turned round.
    """
    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            parameters = {k: v[()] for k, v in file["CtDataLimited/parameters"].items()}
            lines = file["CtDataLimited/sinogram"][()].T
    else:
        read = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True)["CtDataLimited"]
        parameters, lines = vars(read.parameters), read.sinogram
    n = int(np.ravel(parameters["numDetectorsPost"])[0])
    pitch = float(np.ravel(parameters["pixelSizePost"])[0])
    ct = CtHeader(
        mode="axial",
        detector="flat",
        n_rows=1,
        n_channels=n,
        pitch_mm=(pitch, pitch),
        centre=(0.0, (n - 1) / 2),
        source_isocentre_mm=float(np.ravel(parameters["distanceSourceOrigin"])[0]),
        source_detector_mm=float(np.ravel(parameters["distanceSourceDetector"])[0]),
        views_per_rotation=720,
        mu_water_per_mm=0.04,
        kvp=45.0,
    )
    angles = np.pi / 2 - np.deg2rad(np.ravel(parameters["angles"]))
    return Scan(uid=path.stem, modality="CT", ct=ct), views(angles, lines[:, None, ::-1])


def tooth(path: Path, *, far_mm: float = FAR_MM) -> tuple[Scan, list[Projections]]:
    """The tooth of tomopy: counts of a parallel beam, 181 views of half a turn, one row; lengths in channels.

    A fan beam needs a little more than half a turn: the first views are given again, from the other side, as the
    parallel beam would have measured them. Channels beyond those that both sides see are left out.
    """
    with h5py.File(path) as file:
        exchange = file["exchange"]
        angles = np.deg2rad(exchange["theta"][()])
        dark, air, patient = (exchange[name][()][:, :1] for name in ("data_dark", "data_white", "data"))
    n, more = round(2 * TOOTH_CENTRE) + 1, 6
    dark, air, patient = dark[..., :n], air[..., :n], patient[..., :n]
    angles = np.concatenate([angles, angles[:more] + np.pi])
    patient = np.concatenate([patient, patient[:more, :, ::-1]])
    ct = CtHeader(
        mode="axial",
        detector="flat",
        n_rows=1,
        n_channels=n,
        pitch_mm=(1.0, 1.0),
        centre=(0.0, TOOTH_CENTRE),
        source_isocentre_mm=far_mm,
        source_detector_mm=far_mm * (1 + 1e-6),
        views_per_rotation=362,
        mu_water_per_mm=1e-3,
    )
    still = np.zeros(len(dark))
    return Scan(uid="tooth", modality="CT", ct=ct), [
        views(still, dark, flag=int(View.DARK), counts=True),
        views(still, air, flag=int(View.AIR), counts=True),
        views(angles, patient, counts=True),
    ]


def catsim(path: Path) -> tuple[Scan, Projections]:
    """The water cylinder with bone letters that XCIST simulates: a full turn of a third-generation scanner.

    The first view looks down on the patient, and the angle falls: XCIST turns counterclockwise with y upwards.
    """
    lines = np.fromfile(path, "<f4").reshape(1000, 1, 900)
    ct = CtHeader(
        mode="axial",
        detector="cylindrical",
        n_rows=1,
        n_channels=900,
        pitch_mm=(1.0, 1.0),
        centre=(0.0, 449.5 - 0.25),
        source_isocentre_mm=540.0,
        source_detector_mm=950.0,
        views_per_rotation=1000,
        mu_water_per_mm=0.02,
    )
    return Scan(uid="catsim", modality="CT", ct=ct), views(-np.pi / 2 - 2 * np.pi * np.arange(1000) / 1000, lines)
