"""Every cause of a refusal, by a scan or an image that is off in this one way alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from acquisition.items import Kind
from acquisition.scan import CtHeader, Equipment, PetHeader, Scan, Study, Tracer
from models.card import Ranges, parse_card
from models.refuse import HEADER, by_header, by_image
from tests.models.samples import MATRIX, document, ellipses, image, scan, statistics


def card(**changes: Any):
    return parse_card(document(**changes), where="test")


def ranges(**limits: Any):
    return card(input=document()["input"] | {"ranges": limits})


def test_a_scan_like_the_card_is_taken() -> None:
    limits = {"acceleration": [1, 4], "field_strength_t": [1.5, 3]}
    assert by_header(ranges(**limits), scan(), body_part="") is None


@pytest.mark.parametrize(
    ("changes", "cause", "told"),
    [
        ({"body_part": "KNEE"}, "anatomy", "the network is for HEAD, BRAIN, and the scan shows KNEE"),
        ({"body_part": None}, "anatomy", "does not say what it shows"),
        ({"modality": "CT", "mr": None}, "modality", "for MR, the scan is CT"),
    ],
)
def test_another_anatomy_or_modality_is_refused(changes: dict, cause: str, told: str) -> None:
    refusal = by_header(card(), scan(**changes), body_part="")
    assert refusal is not None
    assert refusal.cause == cause
    assert told in refusal.told


def test_a_protocol_may_say_what_the_scanner_does_not_but_not_overrule_it() -> None:
    assert by_header(card(), scan(body_part=None), body_part="head ") is None
    assert by_header(card(), scan(body_part="KNEE"), body_part="HEAD") is not None
    assert by_header(card(anatomy=["ANY"]), scan(body_part=None), body_part="") is None


@pytest.mark.parametrize(
    ("patterns", "fits"), [([], True), (["^T1"], True), (["t2|turbospin"], True), (["flair"], False)]
)
def test_the_contrast_is_known_by_the_scanner_s_names(patterns: list[str], fits: bool) -> None:
    refusal = by_header(card(sequences=patterns), scan(), body_part="")
    assert (refusal is None) == fits
    if refusal is not None:
        assert refusal.cause == "sequence"
        assert "t1_se_ax TurboSpinEcho" in refusal.told


@pytest.mark.parametrize(
    ("name", "limits", "value", "limit"),
    [
        ("acceleration", [3, 4], 2.0, 3.0),
        ("acceleration", [1, 1.5], 2.0, 1.5),
        ("field_strength_t", [0.1, 1.5], 3.0, 1.5),
    ],
)
def test_a_header_out_of_range_is_refused(name: str, limits: list[float], value: float, limit: float) -> None:
    refusal = by_header(ranges(**{name: limits}), scan(), body_part="")
    assert refusal is not None
    assert (refusal.cause, refusal.value, refusal.limit) == (f"range.{name}", value, limit)
    assert "was trained on" in refusal.told


def test_what_the_scanner_does_not_tell_is_not_covered() -> None:
    refusal = by_header(ranges(field_strength_t=[1.5, 3]), scan(equipment=Equipment()), body_part="")
    assert refusal is not None
    assert "does not tell its field strength, and the network needs 1.5 to 3" in refusal.told


def test_single_precision_in_a_header_is_no_reason() -> None:
    rounded = scan(equipment=Equipment(field_strength_t=float(np.float32(2.8936))))
    assert by_header(ranges(field_strength_t=[1.5, 2.8936]), rounded, body_part="") is None


def test_dose_of_ct_and_pet_is_read_from_their_headers() -> None:
    ct = CtHeader(
        mode="axial",
        detector="cylindrical",
        n_rows=1,
        n_channels=8,
        pitch_mm=(1, 1),
        centre=(0, 3.5),
        source_isocentre_mm=500,
        source_detector_mm=1000,
        views_per_rotation=8,
        ctdi_vol_mgy=4.0,
        kvp=100.0,
    )
    of_ct = Scan(uid="c", modality="CT", ct=ct, study=Study(body_part="HEAD"))
    tracer = Tracer(nuclide="^18^Fluorine", half_life_s=6586, dose_bq=2e8, injected=datetime(2026, 1, 1))
    pet = PetHeader(n_rings=1, n_crystals=8, radius_mm=400, ring_pitch_mm=4, tracer=tracer)
    of_pet = Scan(uid="p", modality="PT", pet=pet)
    assert HEADER["ctdi_mgy"][2](of_ct) == 4.0
    assert HEADER["kvp"][2](of_ct) == 100.0
    assert HEADER["activity_mbq"][2](of_pet) == 200.0
    assert all(HEADER[name][2](scan()) is None for name in ("ctdi_mgy", "kvp", "activity_mbq"))


def test_every_range_of_a_card_is_looked_at() -> None:
    of_images = {"snr", "noise", "voxel_mm", "slice_mm"}
    assert set(Ranges.model_fields) == set(HEADER) | of_images


def test_an_image_like_those_of_the_training_is_taken() -> None:
    limits = {"snr": [2, 200], "voxel_mm": [0.5, 2], "slice_mm": [1, 6], "noise": [1, 1]}
    assert by_image(ranges(**limits), image(), 1.0, statistics()) is None


def _with(value: float) -> np.ndarray:
    data = ellipses(1000)
    data[3, 4] = value
    return data


@pytest.mark.parametrize(
    ("made", "cause", "told"),
    [
        (image(unit="a.u."), "unit", "its unit is a.u., the network is for 1"),
        (image(kind=Kind.PHASE), "kind", "it is a phase image, the network is for magnitude"),
        (image(_with(np.nan)), "nan", "no numbers"),
        (image(_with(np.inf)), "nan", "no numbers"),
        (image(np.zeros((MATRIX, MATRIX), np.float32)), "empty", "it shows nothing"),
        (
            image(data=ellipses(1000)).__class__(
                **{"data": np.zeros((2, 1, 48, 48)), "grid": image().grid, "unit": "1"}
            ),
            "shape",
            "no single frame",
        ),
        (image(1000 * ellipses(1000)), "range.snr", "signal-to-noise ratio"),
        (image(0.01 * ellipses(1000)), "range.snr", "signal-to-noise ratio"),
    ],
)
def test_an_image_the_card_does_not_cover_is_refused(made, cause: str, told: str) -> None:
    refusal = by_image(card(), made, 1.0, statistics())
    assert refusal is not None
    assert refusal.cause == cause
    assert told in refusal.told


@pytest.mark.parametrize(
    ("name", "limits", "value"), [("voxel_mm", [1.5, 2], 1.0), ("slice_mm", [1, 3], 5.0), ("noise", [2, 3], 1.0)]
)
def test_voxels_and_noise_out_of_range_are_refused(name: str, limits: list[float], value: float) -> None:
    refusal = by_image(ranges(**{name: limits}), image(), 1.0, statistics())
    assert refusal is not None
    assert (refusal.cause, refusal.value) == (f"range.{name}", value)


def test_a_foreign_image_is_refused_and_the_strangest_figure_named() -> None:
    y, x = np.mgrid[:MATRIX, :MATRIX]
    stripes = (30 * (1 + np.sin(2.5 * x) * np.sin(2.2 * y)) + ellipses(1)).astype(np.float32)
    refusal = by_image(card(), image(stripes), 1.0, statistics())
    assert refusal is not None
    assert refusal.cause == "ood"
    assert refusal.value is not None
    assert refusal.value > refusal.limit == 3.0  # type: ignore[operator]
    assert "in training" in refusal.told
