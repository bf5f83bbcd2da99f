"""A block against the header: what its numbers may be. Kernels index with them, so nothing wrong comes through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError, HeaderError
from acquisition.items import Events, Histogram, Image, Projections, Readouts, Waveform
from acquisition.pet_geometry import checked as geometry_checked
from acquisition.pet_norm import Normalisation
from acquisition.scan import PetHeader, Scan
from acquisition.sources.mrd_limits import StreamLimits, check_claim


def checked(item: Any, scan: Scan, limits: StreamLimits) -> Any:
    """Return `item`, stamped with the time, if it fits the header.

    Parameters
    ----------
    item
        One block's data.
    scan
        The header.
    limits
        Of MR readouts, narrowed by the header.

    Raises
    ------
    DataError
        It contradicts the header or itself.
    LimitError
        It claims more than is allowed.
    """
    return _CHECKS[type(item)](item, scan, limits)


def check_scan(scan: Scan) -> Scan:
    """Return a header that came as JSON, if a scanner like it can be.

    Raises
    ------
    HeaderError
        Its parts contradict its modality, or a size is not possible.
    LimitError
        A size is beyond all scanners.
    """
    parts = {"MR": scan.mr, "CT": scan.ct, "PT": scan.pet}
    given = [name for name, part in parts.items() if part is not None]
    if given != [scan.modality]:
        raise HeaderError(
            "open.scan",
            expected=f"modality {scan.modality} and that part alone",
            got=f"parts {', '.join(given) or 'none'}",
        )
    for where, value, (least, most) in _sizes(scan):
        if not least <= value:
            raise HeaderError(f"open.scan.{where}", expected=f"at least {least:g}", got=f"{value:g}")
        check_claim(f"open.scan.{where}", int(value), limit=most, unit="")
    if scan.pet is not None:
        _check_pet(scan.pet)
    return scan


def _sizes(scan: Scan) -> Iterator[tuple[str, float, tuple[float, int]]]:
    """Yield place, value, and the range it must lie in, of everything by which memory is taken."""
    if scan.equipment.n_coils is not None:
        yield "equipment.n_coils", scan.equipment.n_coils, (1, 1024)
    if scan.mr is not None:
        yield "mr.encodings", len(scan.mr.encodings), (1, 64)
        for e in scan.mr.encodings:
            for size in (*e.matrix, *e.recon_matrix):
                yield "mr.encodings.matrix", size, (1, 8192)
            yield "mr.encodings.matrix", prod(e.matrix), (1, 1 << 30)
            yield "mr.encodings.recon_matrix", prod(e.recon_matrix), (1, 1 << 30)
            for limit in e.limits.values():
                yield "mr.encodings.limits", min(limit.minimum, limit.center, limit.maximum), (0, 65535)
                yield "mr.encodings.limits", max(limit.center, limit.maximum), (0, 65535)
    if scan.ct is not None:
        yield "ct.n_rows", scan.ct.n_rows, (1, 8192)
        yield "ct.n_channels", scan.ct.n_channels, (1, 8192)
        yield "ct.views_per_rotation", scan.ct.views_per_rotation, (1, 100_000)
        for pitch_mm in scan.ct.pitch_mm:
            yield "ct.pitch_mm", pitch_mm, (1e-3, 1000)
        yield "ct.source_isocentre_mm", scan.ct.source_isocentre_mm, (1, 100_000)
        yield "ct.source_detector_mm", scan.ct.source_detector_mm, (1, 100_000)
    if scan.pet is not None:
        yield "pet.n_rings", scan.pet.n_rings, (1, 10_000)
        yield "pet.n_crystals", scan.pet.n_crystals, (1, 10_000)
        yield "pet.n_rings * n_crystals", scan.pet.n_rings * scan.pet.n_crystals, (1, 1_000_000)
        yield "pet.n_tof", scan.pet.n_tof, (1, 10_000)


def _check_pet(pet: PetHeader) -> None:
    geometry_checked(pet, "open.scan")
    n = pet.n_rings * pet.n_crystals
    if pet.detectors_mm is not None and pet.detectors_mm.shape != (n, 3):
        raise HeaderError("open.scan.pet.detectors_mm", expected=f"shape ({n}, 3)", got=f"{pet.detectors_mm.shape}")


def _readouts(item: Readouts, scan: Scan, limits: StreamLimits) -> Readouts:
    mr = scan.require_mr()
    _some("readouts.head", item.head)
    _shape("readouts.data", item.data, (len(item.head), -1, -1))
    _, n_coils, n_samples = item.data.shape
    check_claim("readouts.data", n_coils, limit=limits.coils, unit="coils")
    check_claim("readouts.data", n_samples, limit=limits.samples, unit="samples")
    head = _filled(item.head, {"n_coils": n_coils, "available_coils": n_coils, "n_samples": n_samples})
    for name, n in (("n_coils", n_coils), ("n_samples", n_samples)):
        if (head[name] != n).any():
            raise DataError(f"readouts.head.{name}", expected=f"{n} as in the data", got=f"{head[name].max()}")
    encodings = len(mr.encodings)
    if (head["encoding"] >= encodings).any():
        raise DataError("readouts.head.encoding", expected=f"below {encodings}", got=f"{head['encoding'].max()}")
    dims = 0 if item.traj is None else item.traj.shape[-1] if item.traj.ndim == 3 else -1
    if item.traj is not None:
        _shape("readouts.traj", item.traj, (len(head), n_samples, -1))
        check_claim("readouts.traj", dims, limit=limits.trajectory_dims, unit="numbers per sample")
        head = _filled(head, {"traj_dims": dims})
    if (head["traj_dims"] != dims).any():
        raise DataError("readouts.head.traj_dims", expected=f"{dims} as in the trajectory", got="another number")
    if item.domain != "k0":
        raise DataError("readouts.domain", expected="k0: samples as measured", got=item.domain)
    return replace(item, head=head, received_s=time.monotonic())


def _projections(item: Projections, scan: Scan, limits: StreamLimits) -> Projections:
    ct = scan.require_ct()
    _some("projections.head", item.head)
    _shape("projections.data", item.data, (len(item.head), ct.n_rows, ct.n_channels))
    if item.photons is not None:
        _shape("projections.photons", item.photons, (len(item.head), ct.n_channels))
    for name in ("time_s", "angle_rad", "z_mm", "angle_shift_rad", "z_shift_mm", "radius_shift_mm", "ma"):
        if not np.isfinite(item.head[name]).all():
            raise DataError(f"projections.head.{name}", expected="finite numbers", got="NaN or infinity")
    return replace(item, received_s=time.monotonic())


def _events(item: Events, scan: Scan, limits: StreamLimits) -> Events:
    pet = _timed("events", item, scan)
    pairs = (("prompts", item.prompts, item.tof), ("delayeds", item.delayeds, item.delayed_tof))
    for name, detectors, tof in pairs:
        _lines(f"events.{name}", detectors, tof, pet)
    if item.singles is not None and item.singles.ndim != 1:
        raise DataError(
            "events.singles", expected="one number per block or detector", got=f"shape {item.singles.shape}"
        )
    return replace(item, received_s=time.monotonic())


def _histogram(item: Histogram, scan: Scan, limits: StreamLimits) -> Histogram:
    pet = _timed("histogram", item, scan)
    _lines("histogram.prompts", item.prompts, item.tof, pet)
    _shape("histogram.counts", item.counts, (len(item.prompts),))
    if not (np.isfinite(item.counts).all() and (item.counts >= 0).all()):
        raise DataError("histogram.counts", expected="finite numbers of 0 or more", got="others")
    return replace(item, received_s=time.monotonic())


def _normalisation(item: Normalisation, scan: Scan, limits: StreamLimits) -> Normalisation:
    pet = scan.require_pet()
    if (item.pet.n_rings, item.pet.n_crystals) != (pet.n_rings, pet.n_crystals):
        raise DataError(
            "normalisation.pet",
            expected=f"{pet.n_rings} rings of {pet.n_crystals} as in the header",
            got=f"{item.pet.n_rings} of {item.pet.n_crystals}",
            action="use the normalisation of this scanner",
        )
    return item


def _waveform(item: Waveform, scan: Scan, limits: StreamLimits) -> Waveform:
    _shape("waveform.data", item.data, (-1, -1))
    check_claim("waveform.data", item.data.nbytes, limit=limits.waveform_bytes, unit="bytes")
    return item


def _image(item: Image, scan: Scan, limits: StreamLimits) -> Image:
    if item.data.shape[-3:] != item.grid.shape:
        raise DataError("image.data", expected=f"(..., z, y, x) with {item.grid.shape}", got=f"{item.data.shape}")
    return item


_CHECKS: dict[type, Callable[[Any, Scan, StreamLimits], Any]] = {
    Readouts: _readouts,
    Projections: _projections,
    Events: _events,
    Histogram: _histogram,
    Normalisation: _normalisation,
    Waveform: _waveform,
    Image: _image,
}


def _shape(where: str, array: NDArray, wanted: tuple[int, ...]) -> None:
    """Hold a shape against the wanted one; -1: any size from 1."""
    right = len(array.shape) == len(wanted) and all(
        n == w or (w == -1 and n > 0) for n, w in zip(array.shape, wanted, strict=True)
    )
    if not right:
        sizes = ", ".join("any" if w == -1 else str(w) for w in wanted)
        raise DataError(where, expected=f"shape ({sizes})", got=f"{array.shape}", action="send what the header says")


def _some(where: str, head: NDArray[np.void]) -> None:
    if not len(head):
        raise DataError(where, expected="at least one record", got="none")


def _filled(head: NDArray[np.void], values: dict[str, int]) -> NDArray[np.void]:
    """Return the records with sizes that were left at 0 taken from the data."""
    silent = {name: n for name, n in values.items() if n and not head[name].any()}
    if not silent or not len(head):
        return head
    out = head.copy()
    for name, n in silent.items():
        out[name] = n
    return out


def _timed(where: str, item: Events | Histogram, scan: Scan) -> PetHeader:
    pet = scan.require_pet()
    if not 0 <= item.start_s <= item.stop_s:
        raise DataError(f"{where}.start_s", expected="0 <= start_s <= stop_s", got=f"{item.start_s}, {item.stop_s}")
    return pet


def _lines(where: str, detectors: NDArray[np.int32], tof: NDArray[np.int16] | None, pet: PetHeader) -> None:
    n_lines = detectors.shape[0] if detectors.ndim else 0
    _shape(where, detectors, (n_lines, 2))
    n = pet.n_rings * pet.n_crystals
    if detectors.size and not 0 <= detectors.min() <= detectors.max() < n:
        raise DataError(where, expected=f"detectors from 0 to {n - 1}", got=f"{detectors.min()} to {detectors.max()}")
    if tof is None:
        return
    _shape(f"{where} tof", tof, (n_lines,))
    if tof.size and not 0 <= tof.min() <= tof.max() < pet.n_tof:
        raise DataError(f"{where} tof", expected=f"bins from 0 to {pet.n_tof - 1}", got=f"{tof.min()} to {tof.max()}")
