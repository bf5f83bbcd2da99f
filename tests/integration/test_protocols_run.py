"""Shipped protocols on the scans they are made for, from readouts to images, on the virtual scanner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from acquisition.items import Flag, Image, Readouts
from acquisition.scan import Limits, Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run

LIBRARY = Library()


def measured(scan: Scan, blocks: list[Readouts], *, name: str = "") -> tuple[dict[str, list[Image]], list[Verdict]]:
    """Run what the router chooses (or `name`) and sort what comes by output."""
    protocol = LIBRARY[name] if name else choose(LIBRARY, scan)
    run = Run(scan, protocol)
    run.open()
    items = [item for block in blocks for item in run.feed(block)] + list(run.close())
    images: dict[str, list[Image]] = {}
    for item in items:
        if isinstance(item, Image):
            images.setdefault(item.output, []).append(item)
    verdicts = [
        v for i in items for v in (i.verdicts if isinstance(i, Image) else [i] if isinstance(i, Verdict) else [])
    ]
    return images, verdicts


def named(simulation: Simulation, protocol_name: str, **header: Any) -> Scan:
    scan = replace(simulation.scan, protocol_name=protocol_name)
    return replace(scan, mr=replace(scan.require_mr(), **header))


def exam(**changes: Any) -> Simulation:
    fields = {"matrix": (2, 64, 64), "n_coils": 8, "snr": 100.0, "n_noise": 16}
    return Simulation(MriExam(**(fields | changes)))


def kept(simulation: Simulation, wanted: Callable[[int, int], bool]) -> list[Readouts]:
    return [
        b
        for b in simulation.readouts()
        if wanted(int(b.head["k2"][0]), int(b.head["k1"][0]))
        or int(b.head["flags"][0]) & (Flag.LAST_IN_MEASUREMENT | Flag.NOISE)
    ]


def undersampled(simulation: Simulation, protocol_name: str) -> tuple[Scan, list[Readouts]]:
    """R = 2 x 2 with a shift, and a fully measured middle."""
    scan = named(simulation, protocol_name)
    (encoding,) = scan.require_mr().encodings
    encoding = replace(encoding, acceleration=(2.0, 2.0), calibration_mode="embedded")
    scan = replace(scan, mr=replace(scan.require_mr(), encodings=(encoding,)))

    def wanted(k2: int, k1: int) -> bool:
        return (k2 % 2 == 0 and (k1 + k2 // 2) % 2 == 0) or (6 <= k2 < 18 and 20 <= k1 < 44)

    return scan, kept(simulation, wanted)


def test_mprage_brings_cuts_without_being_asked() -> None:
    simulation = exam(matrix=(24, 64, 64), kind="3D", thickness_mm=4.0, acceleration=2)
    images, _ = measured(named(simulation, "t1_mprage_tra"), list(simulation.readouts()))
    assert set(images) == {"conventional", "mpr_coronal", "mpr_sagittal"}
    assert images["conventional"][0].data.shape == (24, 64, 64)


def test_mprage_with_caipirinha_and_with_irregular_lines() -> None:
    simulation = exam(matrix=(24, 64, 64), kind="3D", thickness_mm=4.0)
    scan, blocks = undersampled(simulation, "t1_mprage_tra")
    assert choose(LIBRARY, scan).name == "mri_mprage_caipi"
    images, verdicts = measured(scan, blocks)
    assert set(images) == {"conventional", "mpr_coronal", "mpr_sagittal"}
    assert {v.level for v in verdicts if v.check == "mri.grappa_3d"} == {Level.PASS}
    irregular = replace(named(simulation, "t1_mprage_tra"), user_parameters={"irregular_sampling": 1.0})
    rng = np.random.default_rng(0)
    lines = rng.random((24, 64)) < 0.4
    lines[6:18, 20:44] = True
    images, _ = measured(irregular, kept(simulation, lambda k2, k1: bool(lines[k2, k1])))
    assert "conventional" in images


def test_a_knee_has_twice_the_pixels_in_the_same_place() -> None:
    simulation = exam(acceleration=2)
    scan = named(simulation, "pd_tse_cor", sequence_type="TurboSpinEcho")
    scan = replace(scan, study=replace(scan.study, body_part="KNEE"))
    images, _ = measured(scan, list(simulation.readouts()))
    plain, _ = measured(scan, list(simulation.readouts()), name="mri_tse")
    fine, coarse = images["conventional"][0], plain["conventional"][0]
    assert fine.data.shape == (1, 128, 128)
    np.testing.assert_allclose(fine.data[0, ::2, ::2], coarse.data[0], atol=0.05 * coarse.data.max())
    np.testing.assert_allclose(fine.grid.world((0, 64, 64)), coarse.grid.world((0, 32, 32)), atol=1e-6)


def test_echoes_give_field_and_combination() -> None:
    simulation = exam(te_s=(0.004, 0.0065), tr_s=0.02)
    images, _ = measured(named(simulation, "gre_field_mapping"), list(simulation.readouts()))
    assert len(images["field"]) == 2
    assert images["field"][0].unit == "Hz"
    images, _ = measured(named(simulation, "t2_medic"), list(simulation.readouts()))
    one, two, both = (images[k][i].data for k, i in (("conventional", 0), ("conventional", 1), ("echoes", 0)))
    inside = one > 0.3 * one.max()
    assert (both[inside] <= np.maximum(one, two)[inside] + 1e-3).all()


def test_flow_shows_velocities() -> None:
    simulation = exam(matrix=(1, 64, 64))
    scan = replace(named(simulation, "flow"), user_parameters={"venc": 100.0})
    (encoding,) = scan.require_mr().encodings
    encoding = replace(encoding, limits={**encoding.limits, "set": Limits(0, 1, 0)})
    scan = replace(scan, mr=replace(scan.require_mr(), encodings=(encoding,)))
    noise = [b for b in simulation.readouts() if b.has(Flag.NOISE).any()]
    blocks = list(noise)
    for index, phase in enumerate((0.0, np.pi / 4)):
        for block in simulation.readouts():
            if block.has(Flag.NOISE).any():
                continue
            head = block.head.copy()
            head["set"] = index
            if index == 0:
                head["flags"] &= ~np.uint64(Flag.LAST_IN_MEASUREMENT)
            blocks.append(replace(block, head=head, data=(block.data * np.exp(1j * phase)).astype(np.complex64)))
    images, _ = measured(scan, blocks, name="mri_flow")
    assert set(images) == {"conventional", "velocity_1"}
    assert len(images["conventional"]) == 2
    # a phase that is the same everywhere is no flow: the plane takes it
    velocity = images["velocity_1"][0].data
    assert np.abs(velocity).max() < 8


def test_two_sets_of_maps_show_an_object_that_folds() -> None:
    simulation = exam(matrix=(1, 64, 64), fov_mm=(170.0, 240.0))
    images, verdicts = measured(simulation.scan, list(simulation.readouts()), name="mri_soft_sense")
    assert "conventional" in images
    assert any("2 maps" in (v.evidence or "") for v in verdicts)
