"""Slices measured together, taken apart: against each slice's own truth, Cartesian and echo-planar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, HeaderError, ReconError
from acquisition.items import Flag, Image, Item, Readouts
from acquisition.scan import Scan
from acquisition.sources.phantom.epi import EpiTrain, echo_planar
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.sms import SmsSimulation
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from integration.protocol import Library, Protocol
from integration.router import choose
from integration.runner import Run
from recon.mri.items import Calibration, Frame
from recon.mri.pattern import Pattern
from recon.mri.sms import SliceGrappa, SplitSliceGrappa, unfolded
from tests.phantoms import nrmse

LIBRARY = Library()


@cache
def simulation(factor: int, shift: int, **changes: Any) -> SmsSimulation:
    n_slices = 2 * factor if factor < 4 else 4
    fields = {"n_coils": 16, "snr": float("inf"), "n_noise": 0, "gap_mm": 20.0, "position_mm": (0.0, 0.0, 20.0)}
    return SmsSimulation(MriExam(**({"matrix": (n_slices, 64, 64)} | fields | changes)), factor, shift=shift)


def images(scan: Scan, blocks: Iterable[Readouts], protocol: Protocol | None = None) -> tuple[list[Image], Run]:
    run = Run(scan, protocol or choose(LIBRARY, scan))
    run.open()
    items = [i for b in blocks for i in run.feed(b)] + list(run.close())
    return [i for i in items if isinstance(i, Image)], run


def other(name: str) -> Protocol:
    protocol = LIBRARY["mri_sms"]
    return protocol.model_copy(
        update={"steps": tuple((name if n == "mri.split_slice_grappa" else n, p) for n, p in protocol.steps)}
    )


def error(image: Image, subject: SmsSimulation) -> float:
    truth = subject.truth(image.position.slice).data
    return nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth)


def told(image: Image) -> Verdict:
    (verdict,) = (v for v in image.verdicts if "slice_grappa" in v.check)
    return verdict


@pytest.mark.parametrize(("factor", "shift", "r"), [(2, 1, 1), (2, 2, 2), (3, 3, 1), (4, 3, 1), (4, 3, 2)])
def test_each_slice_is_itself(factor: int, shift: int, r: int) -> None:
    subject = simulation(factor, shift, acceleration=r)
    assert choose(LIBRARY, subject.scan).name == "mri_sms"
    found, run = images(subject.scan, subject.readouts())
    assert sorted(i.position.slice for i in found) == list(range(subject.exam.n_slices))
    for image in found:
        assert error(image, subject) < 0.04
        assert told(image).level is Level.PASS
        np.testing.assert_allclose(image.grid.origin_mm, subject.truth(image.position.slice).grid.origin_mm, atol=1e-4)
    assert not [v for v in run.verdicts if v.check == "mri.slices"]


def test_odd_sizes() -> None:
    subject = simulation(2, 2, matrix=(4, 63, 57))
    found, _ = images(subject.scan, subject.readouts())
    assert max(error(i, subject) for i in found) < 0.03


def test_four_slices_without_shift_leak_and_it_is_told() -> None:
    found, _ = images(simulation(4, 1).scan, simulation(4, 1).readouts())
    assert {told(i).level for i in found} == {Level.FLAG}
    shifted, _ = images(simulation(4, 3).scan, simulation(4, 3).readouts())
    assert max(told(i).value for i in shifted) < 0.2 * min(told(i).value for i in found)


def test_split_kernels_leak_less_when_the_contrast_changes() -> None:
    """All slices but the first fall silent: what is seen in them has leaked from it."""
    subject = simulation(4, 3)
    blocks = []
    for block in subject.readouts():
        if not block.has(Flag.CALIBRATION).any():
            index, k1 = int(block.head["slice"][0]), int(block.head["k1"][0])
            alone = subject._clean.kspace(index)[:, 0, k1][None].astype(np.complex64)
            block = replace(block, data=alone)
        blocks.append(block)
    seen = {}
    for name in ("mri.slice_grappa", "mri.split_slice_grappa"):
        found, _ = images(subject.scan, blocks, other(name))
        by_slice = {i.position.slice: i.data for i in found}
        seen[name] = np.linalg.norm([by_slice[s] for s in (1, 2, 3)]) / np.linalg.norm(by_slice[0])
    assert seen["mri.split_slice_grappa"] < 0.8 * seen["mri.slice_grappa"]
    assert seen["mri.split_slice_grappa"] < 0.02


@pytest.mark.parametrize("r", [1, 2])
def test_echo_planar_slices(r: int) -> None:
    subject = simulation(2, 2, acceleration=r)
    train = EpiTrain(delay=0.6, constant_rad=0.5)
    scan, blocks = echo_planar(subject.scan, subject.readouts(), train)
    assert choose(LIBRARY, scan).name == "mri_epi_sms"
    found, run = images(scan, blocks)
    assert len(found) == 4
    assert max(error(i, subject) for i in found) < 0.06
    assert {v.level for v in run.verdicts if v.check == "mri.epi_phase"} == {Level.PASS}


def test_diffusion_with_slices_together_has_its_protocol() -> None:
    scan, _ = echo_planar(simulation(2, 2).scan, (), EpiTrain())
    scan = replace(scan, mr=replace(scan.require_mr(), diffusion_b_s_per_mm2=(0.0, 1000.0)))
    assert choose(LIBRARY, scan).name == "mri_dwi_sms"


def test_missing_references_are_held() -> None:
    subject = simulation(2, 2)
    blocks = [b for b in subject.readouts() if not (b.has(Flag.CALIBRATION).any() and b.head["slice"][0] == 2)]
    found, _ = images(subject.scan, blocks)
    held = [v for i in found for v in i.verdicts if v.level is Level.HOLD]
    assert any("no reference lines of slices 2" in v.evidence for v in held)
    assert {i.position.slice for i in found} == {0, 1, 3}  # the other group came apart


def test_few_coils_and_few_lines_are_held() -> None:
    subject = simulation(2, 2, n_coils=1)
    found, _ = images(subject.scan, subject.readouts())
    assert any("1 coils cannot tell 2 slices apart" in (v.evidence or "") for i in found for v in i.verdicts)
    subject = simulation(2, 2, acceleration=2)
    blocks = [b for b in subject.readouts() if not b.has(Flag.CALIBRATION).any() or 29 <= b.head["k1"][0] <= 34]
    found, _ = images(subject.scan, blocks)
    assert any(v.level is Level.HOLD for i in found for v in i.verdicts)


def test_all_zero_data_are_told() -> None:
    subject = simulation(2, 2)
    with pytest.raises(ReconError, match="only zeros"):
        images(subject.scan, [replace(b, data=np.zeros_like(b.data)) for b in subject.readouts()])


@pytest.mark.parametrize("changes", [{"multiband": 1.0}, {"multiband": 3.0}])
def test_headers_that_do_not_fit(changes: dict[str, float]) -> None:
    scan = replace(simulation(2, 2).scan, user_parameters=changes)
    with pytest.raises(HeaderError, match="header multiband"):
        SplitSliceGrappa().open(scan)


@pytest.mark.parametrize("bad", [{"kernel": (4, 5)}, {"regularisation": -1.0}, {"flag_above": 0.0}])
def test_wrong_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SliceGrappa(**bad)


def test_exams_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="a multiple of 3 slices"):
        SmsSimulation(MriExam(matrix=(4, 64, 64)), 3)


@pytest.mark.parametrize("ramp_us", [0.0, 120.0])
def test_an_echo_planar_scan_of_single_slices(ramp_us: float) -> None:
    single = Simulation(MriExam(matrix=(1, 64, 64), n_coils=4, snr=float("inf"), n_noise=0))
    train = EpiTrain(ramp_us=ramp_us, delay=0.7, constant_rad=0.6)
    scan, blocks = echo_planar(single.scan, single.readouts(), train)
    (image,), _ = images(scan, blocks, LIBRARY["mri_epi"])
    truth = single.truth(0).data
    assert nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth) < 0.06


def in_two_encodings(subject: SmsSimulation) -> tuple[list[Item], Scan]:
    """Return what reaches the method, and a header that promises a second encoding like the first."""
    steps = LIBRARY["mri_sms"].build()
    front = Chain(steps[: next(i for i, s in enumerate(steps) if isinstance(s, SplitSliceGrappa))])
    front.open(subject.scan)
    items = [i for b in subject.readouts() for i in front.feed(b)] + list(front.close())
    header = subject.scan.require_mr()
    return items, replace(subject.scan, mr=replace(header, encodings=header.encodings * 2))


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_reference_lines_of_another_encoding_teach_nothing(part: float) -> None:
    """They may differ in size and contrast: the slices come out as if they had not been measured."""
    (items, twice), method = in_two_encodings(simulation(2, 2)), SplitSliceGrappa()
    n_x = next(i.kspace.shape[3] for i in items if isinstance(i, Frame))
    foreign = [
        replace(i, key=i.key._replace(encoding=1), kspace=i.kspace.flip(0)[..., : int(part * n_x)])
        for i in items
        if isinstance(i, Calibration) and i.separate
    ]
    made = []
    for between in ([], foreign):
        method.open(twice)
        first = next(n for n, i in enumerate(items) if isinstance(i, Frame))
        out = [o for i in (*items[:first], *between, *items[first:]) for o in method.feed(i)]
        made.append([o for o in out if isinstance(o, Frame)])
    assert len(made[0]) == len(made[1]) == 4
    for plain, other_too in zip(*made, strict=True):
        torch.testing.assert_close(other_too.kspace, plain.kspace)


def test_a_frame_without_references_of_its_own_encoding_is_held() -> None:
    (items, twice), method = in_two_encodings(simulation(2, 2)), SplitSliceGrappa()
    method.open(twice)
    moved = [replace(i, key=i.key._replace(encoding=1)) if isinstance(i, Frame) else i for i in items]
    found = [o for i in moved for o in method.feed(i) if isinstance(o, Frame)]
    assert [f.key.encoding for f in found] == [1, 1]
    assert all(f.verdicts[-1].level is Level.HOLD for f in found)


def test_everything_stays_on_the_device_of_the_frame() -> None:
    """The device ``meta`` holds no values, and refuses the CPU's tensors like a GPU does."""
    method, pattern = SplitSliceGrappa(), Pattern(1, 0, 0, 31)
    method.open(simulation(2, 2).scan)
    kspace, hybrid = (torch.empty(s, dtype=torch.complex64, device="meta") for s in ((4, 1, 32, 24), (24, 20, 8)))
    made = unfolded(kspace, pattern, hybrid.view(24, 20, 8))
    back = method._turned_back(made.reshape(24, 32, 2, 4)[:, :, 1], pattern, 1, 32)
    assert back.device.type == "meta"
    assert method._solved(torch.empty(20, 20, device="meta", dtype=torch.complex64), hybrid[0]).device.type == "meta"
    lines = torch.arange(32, device="meta")
    assert (kspace[:, 0] * method._turn(1, lines, 32)[:, None]).device.type == "meta"
