"""SUV factors of four vendors' headers, and every way in which a header does not tell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from acquisition.errors import HeaderError
from integration.dicom.suv import ENHANCED_PET, suv_factor

SUV = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "pet" / "suv"
HEADER: dict[str, Any] = {
    "Units": "BQML",
    "CorrectedImage": ["DECY", "ATTN"],
    "DecayCorrection": "START",
    "SeriesDate": "20260102",
    "SeriesTime": "101000",
    "AcquisitionDate": "20260102",
    "AcquisitionTime": "101000",
    "RadionuclideTotalDose": 4e8,
    "RadionuclideHalfLife": 6600,
    "RadiopharmaceuticalStartTime": "082000",
    "PatientWeight": 80.0,
    "PatientSize": 1.8,
    "PatientSex": "M",
}


@pytest.mark.data
@pytest.mark.skipif(not SUV.is_dir(), reason="no SUV headers beside the checkout")
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("SIEMENS", 0.00042748316187197236),
        ("GE_MEDICAL_AND_BQML", 0.0005367387681819742),
        ("PHILIPS_BQML", 0.0007463747013889488),
        ("PHILIPS_CNTS_AND_SUV", 0.000728),
    ],
)
def test_factors_of_real_headers(name: str, factor: float) -> None:
    for header in json.loads((SUV / f"{name}-instances.json").read_text()):
        assert suv_factor(header).factor == pytest.approx(factor, rel=1e-6)


def test_one_half_life_doubles_the_factor_unless_it_is_corrected_to_the_injection() -> None:
    assert suv_factor(HEADER).factor == pytest.approx(80e3 / 2e8, rel=1e-12)
    assert suv_factor(HEADER | {"DecayCorrection": "ADMIN"}).factor == pytest.approx(80e3 / 4e8, rel=1e-12)
    assert suv_factor(HEADER | {"Units": "GML"}).factor == 1.0


def test_midnight() -> None:
    """Only a time: it belongs to the day before where it would be later than the scan."""
    early = {"SeriesTime": "000500", "AcquisitionTime": "000500"}
    found = suv_factor(HEADER | early | {"RadiopharmaceuticalStartTime": "221500"})
    assert found.factor == pytest.approx(80e3 / 2e8, rel=1e-12)
    assert found.assumed == ("injected on the day before the scan",)
    told = suv_factor(HEADER | early | {"RadiopharmaceuticalStartDateTime": "20260101221500.00 "})
    assert told.factor == pytest.approx(found.factor) and told.assumed == ()


def test_enhanced_pet_has_its_dose_in_mbq() -> None:
    enhanced = HEADER | {"SOPClassUID": ENHANCED_PET, "RadionuclideTotalDose": 400.0}
    assert suv_factor(enhanced).factor == pytest.approx(suv_factor(HEADER).factor)
    with pytest.raises(HeaderError, match=r"RadionuclideTotalDose: expected 0.1 MBq to 100 GBq, got 400 Bq"):
        suv_factor(HEADER | {"RadionuclideTotalDose": 400.0})
    with pytest.raises(HeaderError, match="got 4e"):
        suv_factor(HEADER | {"SOPClassUID": ENHANCED_PET})


def test_other_sizes_of_the_body() -> None:
    lean = {s: suv_factor(HEADER | {"PatientSex": s}, size="lean") for s in "MF"}
    index = 80 / 1.8**2
    assert lean["M"].factor * 2e8 == pytest.approx(1000 * 9270 * 80 / (6680 + 216 * index))
    assert lean["F"].factor * 2e8 == pytest.approx(1000 * 9270 * 80 / (8780 + 244 * index))
    surface = suv_factor(HEADER, size="surface")
    assert surface.factor * 2e8 == pytest.approx(1.9964e4, rel=1e-3) and surface.unit == "cm2/mL"
    with pytest.raises(HeaderError, match="PatientSex: expected F or M, got O"):
        suv_factor(HEADER | {"PatientSex": "O"}, size="lean")


@pytest.mark.parametrize(
    "name",
    [
        "Units",
        "DecayCorrection",
        "SeriesDate",
        "AcquisitionTime",
        "RadionuclideTotalDose",
        "RadionuclideHalfLife",
        "RadiopharmaceuticalStartTime",
        "PatientWeight",
    ],
)
@pytest.mark.parametrize("empty", [None, ""])
def test_without_it_there_is_no_suv(name: str, empty: object) -> None:
    with pytest.raises(HeaderError, match=f"{name}: expected a value, got none"):
        suv_factor(HEADER | {name: empty})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CorrectedImage": ["DECY"]}, "CorrectedImage: expected ATTN and DECY"),
        ({"CorrectedImage": None}, "got nothing"),
        ({"Units": "CNTS"}, "expected BQML, GML, or CNTS with Philips' factors, got CNTS"),
        ({"DecayCorrection": "NONE"}, "expected START or ADMIN, got NONE"),
        ({"PatientWeight": 0}, "PatientWeight: expected a number above 0, got 0"),
        ({"SeriesTime": "120000"}, "expected not after AcquisitionTime"),
        ({"RadiopharmaceuticalStartDateTime": "20251224080000"}, "a time in the day before the scan"),
        ({"RadiopharmaceuticalStartDateTime": "20260102113000"}, "a time in the day before the scan"),
        ({"RadiopharmaceuticalStartTime": "later"}, "expected a date and time"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        suv_factor(HEADER | changes)


def test_philips_counts() -> None:
    counts = HEADER | {"Units": "CNTS", "PhilipsPETPrivateGroup": {"ActivityConcentrationScaleFactor": "4.5"}}
    assert suv_factor(counts).factor == pytest.approx(4.5 * suv_factor(HEADER).factor)


def test_ge_tells_when_counting_began() -> None:
    late = HEADER | {"SeriesTime": "170000", "GEPrivateGroup": {"PostInjectionDateTime": "20260102101000.00"}}
    assert suv_factor(late).factor == pytest.approx(suv_factor(HEADER).factor)
