"""What the DICOM tests share: full and empty headers, grids, the validator, and a writer that is not ours."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

from acquisition.geometry import Grid
from acquisition.items import Image, Provenance
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Patient, Scan, Study
from acquisition.sources.phantom.exam import ORIENTATIONS
from acquisition.verdict import Level, Verdict
from integration.dicom.common import DicomInstance
from integration.dicom.mr import MrSeries
from tests.peers import program

NOW = datetime(2026, 3, 4, 5, 6, 7, 89)
FLAG = Verdict(check="mri.noise", level=Level.FLAG, advice="Coil 3 is noisy: check the plug.", value=4.0, limit=2.0)
HOLD = Verdict(check="mri.motion", level=Level.HOLD, advice="The patient moved: repeat this series.")


def encoding(**changes: Any) -> Encoding:
    fields: dict[str, Any] = {
        "matrix": (1, 6, 16),
        "fov_mm": (5.0, 180.0, 480.0),
        "recon_matrix": (1, 6, 8),
        "recon_fov_mm": (5.0, 180.0, 240.0),
        "limits": {"slice": Limits(0, 3, 0)},
        "echo_train_length": 1,
    }
    return Encoding(**(fields | changes))


def bare_scan(**changes: Any) -> Scan:
    """As little as a scanner may send."""
    return Scan(uid="scan-1", modality="MR", mr=MrHeader(encodings=(encoding(),)), **changes)


def full_scan(**changes: Any) -> Scan:
    """All that a scanner may send."""
    header = MrHeader(
        encodings=(encoding(),),
        tr_s=(2.5,),
        te_s=(0.0034, 0.0068),
        flip_deg=(15.0,),
        sequence_type="Flash",
    )
    return replace(
        Scan(
            uid="scan-1",
            modality="MR",
            protocol_name="brain_gre_ax",
            patient=Patient(
                id="P-77",
                name="Muster^Erika",
                birth_date="19700102",
                sex="F",
                weight_kg=61.5,
                height_m=1.68,
                position="HFS",
            ),
            study=Study(
                instance_uid="1.2.3.4",
                id="S1",
                date="20260304",
                time="040000",
                accession_number="A-1",
                referring_physician="Arzt^Ada",
                description="Head",
                body_part="brain",
                series_number=7,
                frame_of_reference_uid="1.2.3.5",
            ),
            equipment=Equipment(
                vendor="Maker",
                model="Magnet",
                serial_number="42",
                software="VX1",
                institution="Clinic",
                station="MR1",
                field_strength_t=2.89362,
                coil_name="HeadNeck_20",
                resonance_frequency_hz=123203042.0,
            ),
            started=datetime(2026, 3, 4, 4, 30),
            mr=header,
        ),
        **changes,
    )


def grid_of(orientation: str = "axial", shape: tuple[int, int, int] = (4, 6, 8)) -> Grid:
    o = ORIENTATIONS[orientation]
    return Grid.from_centre(
        (12.5, -7.25, 31.0),
        shape=shape,
        spacing_mm=(6.0, 30.0, 30.0),
        directions=(o.read, o.phase, o.slice),
        thickness_mm=5.0,
    )


def image_of(grid: Grid | None = None, **changes: Any) -> Image:
    """An image in which every voxel is another integer, so any flip or exchange shows."""
    grid = grid or grid_of()
    data = np.random.default_rng(5).permutation(int(np.prod(grid.shape))).reshape(grid.shape).astype(np.uint16)
    provenance = Provenance(protocol="gre", steps=("mri.prewhiten", "mri.grappa R=2"), notes={"noise": "own scan"})
    return replace(Image(data=data + 1, grid=grid, provenance=provenance), **changes)


def writer(scan: Scan | None = None, job: str = "job-1") -> MrSeries:
    return MrSeries(scan or full_scan(), job, clock=lambda: NOW, station="recon-1")


def written(image: Image, scan: Scan | None = None) -> list[DicomInstance]:
    return writer(scan).instances(image)


def parsed(instance: DicomInstance | bytes) -> Dataset:
    return dcmread(io.BytesIO(instance if isinstance(instance, bytes) else instance.data))


def validate(source: bytes | Path, folder: Path, kind: str = "MRImage") -> list[str]:
    """Return the errors that dciodvfy finds; its exit code does not tell of all of them."""
    path = source if isinstance(source, Path) else folder / "object.dcm"
    if isinstance(source, bytes):
        path.write_bytes(source)
    command = [program("dciodvfy") or "dciodvfy", "-new", str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    text = answer.stdout + answer.stderr
    assert kind in text.split(), text
    return [line for line in text.splitlines() if line.startswith("Error")]


def assert_valid(instances: Iterable[DicomInstance], folder: Path, kind: str = "MRImage") -> None:
    for instance in instances:
        assert validate(instance.data, folder, kind) == []


def rebuilt(data: bytes) -> bytes:
    """Write the same attributes anew with pydicom: VRs from its dictionary, lengths and padding by its rules."""
    ds = parsed(data)
    fresh = _fresh(ds, signed=bool(ds.PixelRepresentation))
    fresh.file_meta = FileMetaDataset()
    for element in ds.file_meta:
        fresh.file_meta.add_new(element.tag, dictionary_VR(element.tag), element.value)
    buffer = io.BytesIO()
    dcmwrite(buffer, fresh, enforce_file_format=True)
    return buffer.getvalue()


def _fresh(ds: Dataset, *, signed: bool) -> Dataset:
    fresh = Dataset()
    choices = {"US or SS": "SS" if signed else "US", "OB or OW": "OW"}
    for element in ds:
        vr = dictionary_VR(element.tag)
        value = element.value
        if vr == "SQ":
            value = Sequence([_fresh(item, signed=signed) for item in value])
        fresh.add_new(element.tag, choices.get(vr, vr), value)
    return fresh
