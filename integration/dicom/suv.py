"""Standardised uptake values from what a DICOM PET header says, or a clear word why there are none.

Rules: QIBA FDG-PET profile, "happy path" of its SUV appendix, body weight, lean body mass and body surface alike; PS3.3
C.8.9. Factors turn stored values after RescaleSlope into g/mL (body weight, lean body mass) or cm2/mL (surface).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from acquisition.errors import HeaderError

ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"
Size = Literal["weight", "lean", "surface"]
_AGAIN = "no SUV can be given; complete the header at the scanner and send it again"
_MOST_UPTAKE = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuvFactor:
    """What turns values into SUV."""

    factor: float
    """SUV per value."""
    unit: str
    """g/mL or cm2/mL."""
    assumed: tuple[str, ...] = ()
    """What the header did not say and was taken for granted."""


def suv_factor(header: Mapping[str, Any], *, size: Size = "weight", where: str = "PET header") -> SuvFactor:
    """Return the factor from values, after RescaleSlope, to SUV.

    Parameters
    ----------
    header
        Attributes by DICOM keyword; those of RadiopharmaceuticalInformationSequence beside the others; Philips' and
        GE's private ones as PhilipsPETPrivateGroup (SUVScaleFactor, ActivityConcentrationScaleFactor) and
        GEPrivateGroup (PostInjectionDateTime of the scan).
    size
        What activity per dose is multiplied with: body weight, lean body mass (Janmahasatian et al., Clin
        Pharmacokinet 2005;44:1051, DOI 10.2165/00003088-200544100-00004) or surface (Du Bois).
    where
        Named in errors.

    Raises
    ------
    HeaderError
        Something that it takes is missing or contradictory.
    """
    units = str(_needed(header, "Units", where))
    corrected = set(header.get("CorrectedImage") or ())
    lacking = [names[0] for names in (("ATTN",), ("DECY", "DECAY")) if not corrected & set(names)]
    if lacking:
        got = " ".join(sorted(corrected)) or "nothing"
        raise HeaderError(
            f"{where}: CorrectedImage", expected="ATTN and DECY among it", got=got, action="this is no quantitative PET"
        )
    if units == "GML" and size == "weight":
        return SuvFactor(factor=1.0, unit="g/mL")
    private = header.get("PhilipsPETPrivateGroup") or {}
    if units == "CNTS" and _number(private.get("SUVScaleFactor")) and size == "weight":
        return SuvFactor(factor=_number(private.get("SUVScaleFactor")), unit="g/mL")
    per_value = {"BQML": 1.0, "CNTS": _number(private.get("ActivityConcentrationScaleFactor"))}.get(units, 0.0)
    if not per_value:
        raise HeaderError(
            f"{where}: Units", expected="BQML, GML, or CNTS with Philips' factors", got=units, action=_AGAIN
        )
    body, unit = _body(header, size, where)
    left, assumed = _left(header, where)
    return SuvFactor(factor=per_value * body / (_dose_bq(header, where) * left), unit=unit, assumed=assumed)


def _needed(header: Mapping[str, Any], name: str, where: str) -> Any:
    value = header.get(name)
    if value in (None, ""):
        raise HeaderError(f"{where}: {name}", expected="a value", got="none", action=_AGAIN)
    return value


def _number(value: object) -> float:
    return float(str(value)) if value not in (None, "") else 0.0


def _positive(header: Mapping[str, Any], name: str, where: str) -> float:
    value = _number(_needed(header, name, where))
    if not 0 < value < float("inf"):
        raise HeaderError(f"{where}: {name}", expected="a number above 0", got=f"{value:g}", action=_AGAIN)
    return value


def _dose_bq(header: Mapping[str, Any], where: str) -> float:
    """Return the injected activity [Bq]: Enhanced PET has it in MBq (PS3.3 C.8.22.4)."""
    dose = _positive(header, "RadionuclideTotalDose", where)
    dose *= 1e6 if header.get("SOPClassUID") == ENHANCED_PET else 1.0
    if not 1e5 < dose < 1e11:
        raise HeaderError(
            f"{where}: RadionuclideTotalDose", expected="0.1 MBq to 100 GBq", got=f"{dose:g} Bq", action=_AGAIN
        )
    return dose


def _body(header: Mapping[str, Any], size: Size, where: str) -> tuple[float, str]:
    weight = _positive(header, "PatientWeight", where)
    if size == "weight":
        return 1000 * weight, "g/mL"
    height = _positive(header, "PatientSize", where)
    if size == "surface":
        return 71.84 * weight**0.425 * (100 * height) ** 0.725, "cm2/mL"
    index, sex = weight / height**2, _needed(header, "PatientSex", where)
    if sex not in ("F", "M"):
        raise HeaderError(f"{where}: PatientSex", expected="F or M", got=str(sex), action="use body weight")
    return 1000 * 9270 * weight / ((8780 + 244 * index) if sex == "F" else (6680 + 216 * index)), "g/mL"


def _left(header: Mapping[str, Any], where: str) -> tuple[float, tuple[str, ...]]:
    """Return the part of the dose that is left at the time to which the image is corrected, and what was assumed."""
    correction = str(_needed(header, "DecayCorrection", where))
    if correction == "ADMIN":
        return 1.0, ()
    if correction != "START":
        raise HeaderError(f"{where}: DecayCorrection", expected="START or ADMIN", got=correction, action=_AGAIN)
    half_life = _positive(header, "RadionuclideHalfLife", where)
    scan = _scan_time(header, where)
    injected, assumed = _injected(header, scan, where)
    uptake = scan - injected
    if not timedelta(0) <= uptake < _MOST_UPTAKE:
        raise HeaderError(
            f"{where}: RadiopharmaceuticalStartTime",
            expected=f"a time in the day before the scan at {scan:%Y-%m-%d %H:%M:%S}",
            got=f"{injected:%Y-%m-%d %H:%M:%S}",
            action=_AGAIN,
        )
    return 2 ** (-uptake.total_seconds() / half_life), assumed


def _scan_time(header: Mapping[str, Any], where: str) -> datetime:
    """Return the time of the series, unless it is later than the acquisition, as after processing anew."""
    date, time = str(_needed(header, "SeriesDate", where)), str(_needed(header, "SeriesTime", where))
    series = _when(date + time, f"{where}: SeriesTime")
    date, time = str(_needed(header, "AcquisitionDate", where)), str(_needed(header, "AcquisitionTime", where))
    if series <= _when(date + time, f"{where}: AcquisitionTime"):
        return series
    start = (header.get("GEPrivateGroup") or {}).get("PostInjectionDateTime")
    if not start:
        raise HeaderError(
            f"{where}: SeriesTime", expected="not after AcquisitionTime", got=f"{series:%H:%M:%S}", action=_AGAIN
        )
    return _when(str(start), f"{where}: GE's start of the scan")


def _injected(header: Mapping[str, Any], scan: datetime, where: str) -> tuple[datetime, tuple[str, ...]]:
    full = str(header.get("RadiopharmaceuticalStartDateTime") or "").strip()
    if full:
        return _when(full, f"{where}: RadiopharmaceuticalStartDateTime"), ()
    time = str(_needed(header, "RadiopharmaceuticalStartTime", where)).strip()
    same_day = _when(f"{scan:%Y%m%d}{time}", f"{where}: RadiopharmaceuticalStartTime")
    if same_day <= scan:
        return same_day, ("injected on the day of the scan",)
    return same_day - timedelta(days=1), ("injected on the day before the scan",)


def _when(text: str, where: str) -> datetime:
    whole, _, fraction = text.strip().partition(".")
    digits = fraction.split("+")[0].split("-")[0][:6].ljust(6, "0")
    try:
        return datetime.strptime(f"{whole.ljust(14, '0')[:14]}.{digits}", "%Y%m%d%H%M%S.%f")
    except ValueError as error:
        raise HeaderError(where, expected="a date and time", got=repr(text), action=_AGAIN) from error
