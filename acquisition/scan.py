"""The header of one scan: who, on what, with which sequence and geometry. No bulk data.

Units inside: mm, s, degrees, tesla. Values that the scanner did not send are None, never a guess; the place
that needs one names its default and says so in a Verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.verdict import Verdict

_Part = TypeVar("_Part", "MrHeader", "CtHeader", "PetHeader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Who lies on the table, as the scanner says."""

    id: str | None = None
    """Hospital identifier."""
    name: str | None = None
    """Person name, DICOM form (family^given)."""
    birth_date: str | None = None
    """YYYYMMDD."""
    sex: str | None = None
    """M, F or O."""
    weight_kg: float | None = None
    """Body weight [kg]."""
    height_m: float | None = None
    """Body height [m]."""
    position: str | None = None
    """DICOM patient position: HFS, HFP, HFDR, HFDL, FFS, FFP, FFDR, FFDL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The order and the visit this scan belongs to."""

    instance_uid: str | None = None
    """StudyInstanceUID."""
    id: str | None = None
    """StudyID."""
    date: str | None = None
    """YYYYMMDD."""
    time: str | None = None
    """HHMMSS[.ffffff]."""
    accession_number: str | None = None
    """AccessionNumber."""
    referring_physician: str | None = None
    """Person name, DICOM form."""
    description: str | None = None
    """StudyDescription."""
    body_part: str | None = None
    """DICOM body part examined, e.g. BRAIN."""
    series_instance_uid: str | None = None
    """UID of the scanner's own series, for reference only: ours is always new."""
    series_number: int | None = None
    """The scanner's number for this series."""
    frame_of_reference_uid: str | None = None
    """Frame of reference shared by the scans of one session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """The scanner."""

    vendor: str | None = None
    """Manufacturer."""
    model: str | None = None
    """Manufacturer's model name."""
    serial_number: str | None = None
    """Device serial number."""
    software: str | None = None
    """Software version."""
    institution: str | None = None
    """Institution name."""
    station: str | None = None
    """Station name."""
    field_strength_t: float | None = None
    """Main field [T]."""
    n_coils: int | None = None
    """Receiver channels."""
    coil_name: str | None = None
    """Receive coil."""
    resonance_frequency_hz: float | None = None
    """Proton resonance frequency [Hz]."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Range of one encoding counter."""

    minimum: int = 0
    """Smallest index."""
    maximum: int = 0
    """Largest index."""
    center: int = 0
    """Index of the k-space centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How one encoding space is sampled."""

    matrix: tuple[int, int, int]
    """Encoded matrix (k2, k1, k0), readout oversampling included."""
    fov_mm: tuple[float, float, float]
    """Encoded field of view (z, y, x) [mm]."""
    recon_matrix: tuple[int, int, int]
    """Matrix of the image (z, y, x)."""
    recon_fov_mm: tuple[float, float, float]
    """Field of view of the image (z, y, x) [mm]."""
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """By counter: k0, k1, k2, average, slice, contrast, phase, repetition, set, segment."""
    trajectory: str = "cartesian"
    """cartesian, epi, radial, goldenangle, spiral or other."""
    trajectory_parameters: Mapping[str, float | str] = field(default_factory=dict)
    """Named values of the trajectory description, e.g. rampUpTime."""
    acceleration: tuple[float, float] = (1.0, 1.0)
    """Undersampling along (k2, k1)."""
    calibration_mode: str | None = None
    """embedded, interleaved, separate, external or other."""
    echo_train_length: int | None = None
    """Echoes per excitation."""

    def limit(self, counter: str) -> Limits:
        """Return the limits of `counter`; a single index 0 where the header is silent."""
        return self.limits.get(counter, Limits())


@dataclass(frozen=True, slots=True, kw_only=True)
class MrHeader:
    """What only an MR scan has."""

    encodings: tuple[Encoding, ...]
    """Encoding spaces; readouts name theirs by index."""
    tr_s: tuple[float, ...] = ()
    """Repetition times [s]."""
    te_s: tuple[float, ...] = ()
    """Echo times [s], one per contrast."""
    ti_s: tuple[float, ...] = ()
    """Inversion times [s]."""
    flip_deg: tuple[float, ...] = ()
    """Flip angles [degrees]."""
    sequence_type: str | None = None
    """Free text, e.g. Flash, TurboSpinEcho."""
    echo_spacing_s: tuple[float, ...] = ()
    """Echo spacings [s]."""
    diffusion_b_s_per_mm2: tuple[float, ...] = ()
    """Diffusion weightings [s/mm^2], where given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtHeader:
    """What only a CT scan has: the gantry, the detector, and how both move."""

    mode: Literal["axial", "helical"]
    """Table at rest, or moving while the gantry turns."""
    detector: Literal["cylindrical", "flat"]
    """A cylinder around the focal spot, or a plane."""
    n_rows: int
    """Detector rows; their index grows towards +z."""
    n_channels: int
    """Channels per row."""
    pitch_mm: tuple[float, float]
    """Distance of neighbouring elements (row, channel), at the detector [mm]."""
    centre: tuple[float, float]
    """Index (row, channel), counted from 0, that the ray through the isocentre meets; may be fractional."""
    source_isocentre_mm: float
    """Focal spot to the axis of rotation [mm]."""
    source_detector_mm: float
    """Focal spot to the detector [mm]."""
    views_per_rotation: int
    """Views in one full turn."""
    rotation_s: float | None = None
    """Time of one turn [s]."""
    mu_water_per_mm: float | None = None
    """Attenuation of water at the effective energy [1/mm]; turns line integrals into HU."""
    kvp: float | None = None
    """Tube voltage [kV]."""
    ma: float | None = None
    """Tube current of the calibration in air [mA]."""
    reference_channels: tuple[int, ...] = ()
    """Channels that never see the patient; they tell the tube's output of each view."""
    tube_ma: float | None = None
    """Mean tube current of the scan [mA]."""
    rotation_sign: Literal[1, -1] | None = None
    """+1 where the angle of the views grows, -1 where it falls."""
    feed_mm: float | None = None
    """Way of the focal spot along +z per rotation [mm]; negative towards the feet, 0 with the table at rest."""
    ctdi_vol_mgy: float | None = None
    """Volume CT dose index of the scan [mGy]."""
    ctdi_phantom: Literal["head", "body"] | None = None
    """The phantom that the dose index refers to: 16 cm or 32 cm."""
    focal_spot_mm: tuple[float, ...] = ()
    """Nominal size of the focal spot [mm], one value or two."""
    exposure_modulation: str | None = None
    """How the tube current followed the patient, the scanner's word; NONE: it did not."""
    filter_type: str | None = None
    """Shape of the filter before the patient, DICOM's word: NONE, STRIP, WEDGE, BUTTERFLY, MULTIPLE or FLAT."""
    filter_materials: tuple[str, ...] = ()
    """What it is made of, DICOM's words, e.g. ALUMINUM, COPPER, TITANIUM."""
    table_height_mm: float | None = None
    """Table below the axis of rotation [mm]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """What was injected."""

    nuclide: str
    """As DICOM writes it, e.g. ^18^Fluorine."""
    half_life_s: float
    """Half-life [s]."""
    branching: float = 1.0
    """Positrons per decay."""
    name: str | None = None
    """Radiopharmaceutical, e.g. FDG."""
    dose_bq: float | None = None
    """Injected activity at `injected` [Bq]."""
    injected: datetime | None = None
    """When, scanner's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PetHeader:
    """What only a PET scan has: the rings of detectors, their timing, and the tracer.

    Detector d is crystal ``d % n_crystals`` of ring ``d // n_crystals``; `acquisition.pet_geometry` says where it is.
    """

    n_rings: int
    """Rings; their index grows towards +z."""
    n_crystals: int
    """Crystals per ring, gaps included."""
    radius_mm: float
    """Axis to where photons are taken to be absorbed [mm]."""
    ring_pitch_mm: float
    """Distance of rings [mm]."""
    first_angle_rad: float = 0.0
    """Angle of crystal 0 [rad], from +x (patient's left) towards +y (back)."""
    turn: Literal[1, -1] = 1
    """+1: the angle grows with the crystal's index, -1: it falls."""
    block: tuple[int, int] = (0, 0)
    """Crystals per block (ring, transaxial), gaps included; 0: not told."""
    gaps: tuple[int, ...] = ()
    """Transaxial indices within a block that are gaps without a crystal."""
    max_ring_difference: int | None = None
    """Greatest difference of rings in coincidence; None: any."""
    fov_mm: float | None = None
    """Distance from the axis beyond which lines are never counted [mm]; None: all lines are."""
    beds_mm: tuple[float, ...] = ()
    """Positions of the table, in the order in which they are measured [mm]; empty: not told."""
    n_tof: int = 1
    """Time-of-flight bins; 1: none."""
    tof_bin_mm: float = 0.0
    """Width of a bin along the line of response [mm]."""
    tof_fwhm_mm: float = 0.0
    """Resolution along the line of response, c/2 times that of the coincidence time [mm]."""
    energy_kev: tuple[float, float] = (430.0, 610.0)
    """Energy window [keV]."""
    energy_resolution: float = 0.12
    """FWHM at 511 keV as a part of it."""
    crystal_mm: tuple[float, float] = (4.0, 4.0)
    """Size of a crystal (axial, transaxial) [mm]."""
    dead_time_s: float = 0.0
    """Time for which a detector block is blind after each photon, restarted by every photon [s]; 0: not told."""
    calibration_bq_per_cps: float | None = None
    """Activity per count rate and unit of sensitivity [Bq s]; None: images are not quantitative."""
    tracer: Tracer | None = None
    """What was injected; None: not told."""
    detectors_mm: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """Where each detector is (detector, 3) [mm], for scanners that are no cylinder; overrides rings and radius."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Frozen header of one scan."""

    uid: str
    """Identifies this measurement in logs, journal and derived UIDs."""
    modality: str
    """DICOM modality: MR, CT or PT."""
    protocol_name: str | None = None
    """The scanner's name for what it runs."""
    patient: Patient = field(default_factory=Patient)
    """Who."""
    study: Study = field(default_factory=Study)
    """Why."""
    equipment: Equipment = field(default_factory=Equipment)
    """With what."""
    started: datetime | None = None
    """When the measurement began, scanner's clock."""
    measurement_id: str | None = None
    """The scanner's identifier of this measurement."""
    dependencies: Mapping[str, str] = field(default_factory=dict)
    """Other measurements this one needs, by type, e.g. noise -> measurement id."""
    user_parameters: Mapping[str, float | str] = field(default_factory=dict)
    """Vendor values that have no field of their own."""
    mr: MrHeader | None = None
    """Present exactly when modality is MR."""
    ct: CtHeader | None = None
    """Present exactly when modality is CT."""
    pet: PetHeader | None = None
    """Present exactly when modality is PT."""
    header: str = ""
    """The header as it came (XML), for the record."""
    companions: Path | None = None
    """Folder within which files lie that a protocol may name for this scan; None: anywhere."""
    verdicts: tuple[Verdict, ...] = ()
    """What was repaired or assumed while the header was read."""

    def require_mr(self) -> MrHeader:
        """Return the MR part.

        Raises
        ------
        HeaderError
            This is not an MR scan.
        """
        return self._required(self.mr, "an MR scan")

    def require_ct(self) -> CtHeader:
        """Return the CT part.

        Raises
        ------
        HeaderError
            This is not a CT scan.
        """
        return self._required(self.ct, "a CT scan")

    def require_pet(self) -> PetHeader:
        """Return the PET part.

        Raises
        ------
        HeaderError
            This is not a PET scan.
        """
        return self._required(self.pet, "a PET scan")

    def _required(self, part: _Part | None, what: str) -> _Part:
        if part is None:
            raise HeaderError(
                f"scan {self.uid}",
                expected=what,
                got=f"modality {self.modality}",
                action="choose a protocol made for this modality",
            )
        return part
