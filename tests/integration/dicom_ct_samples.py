"""What the tests of CT objects share: full and empty headers, and slices in HU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from acquisition.geometry import Grid
from acquisition.items import Image, Provenance
from acquisition.scan import CtHeader, Equipment, Scan
from integration.dicom.ct import CtSeries
from tests.integration.dicom_samples import NOW, full_scan, grid_of


def bare_header(**changes: Any) -> CtHeader:
    """A gantry of which no more is known than rays need."""
    fields: dict[str, Any] = {
        "mode": "helical",
        "detector": "cylindrical",
        "n_rows": 64,
        "n_channels": 736,
        "pitch_mm": (1.0947, 1.2858),
        "centre": (31.5, 368.625),
        "source_isocentre_mm": 595.0,
        "source_detector_mm": 1085.6,
        "views_per_rotation": 1152,
    }
    return CtHeader(**(fields | changes))


def full_header(**changes: Any) -> CtHeader:
    """All that a gantry may say."""
    known: dict[str, Any] = {
        "rotation_s": 0.5,
        "mu_water_per_mm": 0.0192,
        "kvp": 120.0,
        "ma": 200.0,
        "tube_ma": 240.0,
        "rotation_sign": 1,
        "feed_mm": -23.04,
        "ctdi_vol_mgy": 12.5,
        "ctdi_phantom": "body",
        "focal_spot_mm": (1.2,),
        "exposure_modulation": "XYZ",
        "filter_type": "WEDGE",
        "filter_materials": ("ALUMINUM", "TITANIUM"),
        "table_height_mm": 151.0,
    }
    return bare_header(**(known | changes))


def ct_scan(ct: CtHeader | None = None, **study: Any) -> Scan:
    """A CT scan of the patient of the MR samples."""
    scan = full_scan(modality="CT", protocol_name="abdomen", mr=None, ct=ct or full_header())
    equipment = Equipment(vendor="Maker", model="Gantry", serial_number="43", software="VX2", station="CT1")
    return replace(scan, equipment=equipment, study=replace(scan.study, body_part="ABDOMEN", **study))


def bare_ct_scan() -> Scan:
    return Scan(uid="scan-1", modality="CT", ct=bare_header())


def ct_image(grid: Grid | None = None, *, kernel: str = "STANDARD", **changes: Any) -> Image:
    """Slices of unique whole HU from -1000 up."""
    grid = grid or grid_of()
    n = int(np.prod(grid.shape))
    data = (np.random.default_rng(6).permutation(n) - 1000.0).astype(np.float32).reshape(grid.shape)
    notes = {"mu_water": "0.0192 /mm"} | ({"kernel": kernel} if kernel else {})
    return replace(
        Image(data=data, grid=grid, unit="HU", provenance=Provenance(protocol="ct_helical", notes=notes)), **changes
    )


def ct_writer(scan: Scan | None = None, job: str = "job-1") -> CtSeries:
    return CtSeries(scan or ct_scan(), job, clock=lambda: NOW, station="recon-1")
