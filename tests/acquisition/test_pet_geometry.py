"""Detectors of a PET scanner: on their ring, in order, gaps known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import HeaderError
from acquisition.items import Events, TimeFrame
from acquisition.pet_geometry import checked, detectors_mm, is_crystal
from acquisition.scan import PetHeader, Scan

PET = PetHeader(
    n_rings=4, n_crystals=36, radius_mm=300.0, ring_pitch_mm=5.0, first_angle_rad=0.4, block=(4, 9), gaps=(8,)
)


def test_detectors_lie_on_their_rings_and_turn_as_told() -> None:
    for turn in (1, -1):
        place = detectors_mm(replace(PET, turn=turn)).reshape(4, 36, 3)
        np.testing.assert_allclose(np.hypot(place[..., 0], place[..., 1]), 300.0, rtol=1e-6)
        np.testing.assert_allclose(place[:, 0, 2], [-7.5, -2.5, 2.5, 7.5])
        angle = np.unwrap(np.arctan2(place[0, :, 1], place[0, :, 0]))
        np.testing.assert_allclose(angle, 0.4 + turn * 2 * np.pi * np.arange(36) / 36, atol=1e-5)
    own = np.arange(432, dtype=np.float32).reshape(144, 3)
    assert detectors_mm(replace(PET, detectors_mm=own)) is own


def test_gaps_are_no_crystals() -> None:
    good = is_crystal(PET).reshape(4, 36)
    assert not good[:, [8, 17, 26, 35]].any() and good.sum() == 4 * 32
    assert is_crystal(replace(PET, gaps=(), block=(0, 0))).all()


def test_a_geometry_without_sizes_is_refused() -> None:
    assert checked(PET, "scan") is PET
    with pytest.raises(HeaderError, match="positive sizes"):
        checked(replace(PET, radius_mm=0.0), "scan")
    with pytest.raises(HeaderError, match=r"13 bins of 0\.0 mm"):
        checked(replace(PET, n_tof=13), "scan")
    assert Scan(uid="p", modality="PT", pet=PET).require_pet() is PET
    with pytest.raises(HeaderError, match="expected a PET scan, got modality MR"):
        Scan(uid="m", modality="MR").require_pet()


def test_blocks_and_frames_tell_their_size() -> None:
    events = np.zeros((3, 2), np.int32)
    assert len(Events(start_s=0.0, stop_s=0.1, prompts=events, delayeds=events[:1])) == 3
    assert TimeFrame(start_s=10.0, stop_s=70.0).duration_s == 60.0
