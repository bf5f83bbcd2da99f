"""Every trajectory to the object's own truth, through the protocol; delays, real time, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError, HeaderError, IsocenterError
from acquisition.items import Image, Readouts
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation
from acquisition.sources.phantom.trajectories import delayed, radial, spiral
from integration.protocol import Library, Protocol
from integration.router import choose
from integration.runner import Run
from recon.mri.gather import Gather
from recon.mri.noncartesian import NufftSense
from recon.mri.radial_stream import RadialStream
from recon.mri.trajectory import density, in_cycles, is_radial, spoke_delays, with_delays
from tests.phantoms import nrmse

LIBRARY = Library()


def simulation(traj: NDArray, *, n: int = 64, **changes: Any) -> NonCartesianSimulation:
    own = {k: changes.pop(k) for k in ("told", "kind", "per_frame") if k in changes}
    fields = {"matrix": (1, n, n), "n_coils": 6, "snr": float("inf"), "n_noise": 0}
    return NonCartesianSimulation(NonCartesianExam(base=MriExam(**(fields | changes)), traj=traj, **own))


def images(scan: Scan, blocks: list[Readouts], protocol: Protocol | str = "mri_noncartesian") -> list[Image]:
    chosen = LIBRARY[protocol] if isinstance(protocol, str) else protocol
    run = Run(scan, chosen)
    run.open()
    return [image for block in blocks for image in run.feed(block)] + list(run.close())


def gridding() -> Protocol:
    steps = (("mri.gather", {}), ("mri.gridding", {}), ("check.image", {}))
    return LIBRARY["mri_noncartesian"].model_copy(update={"steps": steps})


def error(image: Image, of: NonCartesianSimulation) -> float:
    """NRMSE after a scalar fit, within the disc of k-space that spokes and spirals reach."""
    truth = of.truth(image.position.slice).astype(complex)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(truth)))
    y, x = np.indices(truth.shape)
    n = truth.shape[0]
    spectrum[(y - n // 2) ** 2 + (x - n // 2) ** 2 > (n / 2 - 0.5) ** 2] = 0
    truth = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum))))
    found = image.data[0]
    return nrmse(found * (found * truth).sum() / (found**2).sum(), truth)


TRAJECTORIES = {
    "radial, full": (radial(101, 128), "radial", 0.08),
    "radial, a third": (radial(34, 128), "radial", 0.08),
    "golden angle": (radial(55, 128, golden=True), "goldenangle", 0.08),
    "spiral": (spiral(12, 500, turns=5), "spiral", 0.08),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_trajectory_shows_the_object(name: str) -> None:
    traj, kind, limit = TRAJECTORIES[name]
    subject = simulation(traj, kind=kind)
    assert choose(LIBRARY, subject.scan).name == "mri_noncartesian"
    (image,) = images(subject.scan, list(subject.readouts()))
    assert error(image, subject) < limit


def test_gridding_is_enough_for_full_sampling_and_least_squares_better_below() -> None:
    full, few = simulation(radial(101, 128)), simulation(radial(34, 128))
    (plain,) = images(full.scan, list(full.readouts()), gridding())
    assert error(plain, full) < 0.05
    (poor,) = images(few.scan, list(few.readouts()), gridding())
    (good,) = images(few.scan, list(few.readouts()))
    assert error(good, few) < 0.6 * error(poor, few)


@pytest.mark.parametrize("n", [57, 64])
def test_odd_sizes_several_slices_and_oblique_planes(n: int) -> None:
    subject = simulation(radial(90, 2 * n), n=n, matrix=(2, n, n), orientation="double-oblique")
    found = images(subject.scan, list(subject.readouts()))
    assert [i.position.slice for i in found] == [0, 1]
    for image in found:
        assert error(image, subject) < 0.09
        assert np.allclose(image.grid.affine, subject.exam.base.grid.plane(image.position.slice).affine, atol=1e-6)


def test_one_coil() -> None:
    subject = simulation(radial(101, 128), n_coils=1)
    (image,) = images(subject.scan, list(subject.readouts()))
    assert error(image, subject) < 0.08


def test_coordinates_may_come_in_either_unit() -> None:
    subject = simulation(radial(60, 128))
    blocks = list(subject.readouts())
    scaled = [replace(b, traj=b.traj * 64) for b in blocks]
    first, second = images(subject.scan, blocks)[0], images(subject.scan, scaled)[0]
    assert np.allclose(first.data, second.data, atol=1e-3 * first.data.max())
    assert "cycles per field of view" in second.provenance.notes["trajectory"]


def test_blocks_of_many_readouts_and_frames_are_told_apart() -> None:
    subject = simulation(radial(120, 128), per_frame=60)
    single = list(subject.readouts())
    joined = Readouts(
        head=np.concatenate([b.head for b in single]),
        data=np.concatenate([b.data for b in single]),
        traj=np.concatenate([b.traj for b in single]),
    )
    found, expected = images(subject.scan, [joined]), images(subject.scan, single)
    assert [i.position.repetition for i in found] == [0, 1]
    assert all(np.allclose(a.data, b.data, atol=1e-5) for a, b in zip(found, expected, strict=True))


# Delays


@pytest.mark.parametrize("delays", [(0.8, -0.6), (0.4, 0.5)])
def test_delays_are_found_and_undone(delays: tuple[float, float]) -> None:
    told = radial(101, 128)
    subject = simulation(delayed(told, delays), told=told, snr=60)
    blocks = list(subject.readouts())
    found = spoke_delays(np.concatenate([b.data for b in blocks]), told)
    assert found.certain
    assert np.allclose(found.samples[:2], delays, atol=0.15)
    (image,) = images(subject.scan, blocks)
    whole = LIBRARY["mri_noncartesian"].with_changes({"mri.nufft_sense.correct_delays": False})
    (left,) = images(subject.scan, blocks, whole)
    undelayed = simulation(told, snr=60)
    (best,) = images(undelayed.scan, list(undelayed.readouts()))
    assert error(image, subject) - error(best, undelayed) < 0.3 * (error(left, subject) - error(best, undelayed))
    assert [v for v in image.verdicts if v.check == "mri.delays"]


def test_without_delay_nothing_is_moved() -> None:
    subject = simulation(radial(101, 128), snr=60)
    blocks = list(subject.readouts())
    assert not spoke_delays(np.concatenate([b.data for b in blocks]), radial(101, 128)).certain
    told = radial(20, 32)
    moved = with_delays(delayed(told, (0.5, -0.25)), (0.0, 0.0, 0.0))
    assert np.allclose(moved, delayed(told, (0.5, -0.25)), atol=1e-6)


@pytest.mark.data
def test_a_real_heart_is_recognisable_and_uncertain_delays_are_left_alone(data_dir) -> None:
    import scipy.io

    file = scipy.io.loadmat(data_dir / "mri" / "radial_cardiac_25_projections.mat")
    samples = file["rawdata"].transpose(1, 2, 0).astype(np.complex64)
    traj = np.stack([file["k"].T.real, file["k"].T.imag], axis=-1).astype(np.float32)
    assert not spoke_delays(samples, traj).certain


# Density


def test_spokes_have_the_ramp_and_all_else_is_iterated() -> None:
    spokes, arms = radial(60, 64) * 64, spiral(12, 500, turns=5) * 64
    assert is_radial(spokes)
    assert not is_radial(arms)
    ramp = density(spokes, (64, 64))
    assert np.allclose(ramp / np.maximum(np.linalg.norm(spokes, axis=2), 0.25), ramp[0, -1] / 31, rtol=0.05)
    for weights in (ramp, density(arms, (64, 64))):
        assert (weights > 0).all()
        assert weights.mean() == pytest.approx(1, abs=1e-3)


# Real time


def test_pictures_come_while_the_scan_runs() -> None:
    subject = simulation(radial(120, 128, golden=True), protocol_name="heart realtime")
    assert choose(LIBRARY, subject.scan).name == "mri_radial_realtime"
    step = RadialStream(window=55, every=11)
    step.open(subject.scan)
    pictures = []
    for i, spoke in enumerate(subject.readouts()):
        made = [o for o in step.feed(replace(spoke, received_s=float(i))) if isinstance(o, Image)]
        pictures += [(i, image) for image in made]
    assert [i for i, _ in pictures] == [54, 65, 76, 87, 98, 109]
    for i, image in pictures:
        assert image.last_readout_s == i
        assert image.output == "realtime"
        assert error(image, subject) < 0.2
    assert list(step.close()) == []


def test_too_few_spokes_for_a_picture_are_told_of() -> None:
    subject = simulation(radial(20, 128))
    step = RadialStream()
    step.open(subject.scan)
    assert [o for b in subject.readouts() for o in step.feed(b) if isinstance(o, Image)] == []
    assert next(iter(step.close())).check == "mri.realtime"


# What cannot be


def test_missing_wrong_and_broken_coordinates_are_refused() -> None:
    subject = simulation(radial(20, 128))
    blocks = list(subject.readouts())
    for changed, message in (
        (replace(blocks[0], traj=None), "coordinates with each readout, got none"),
        (replace(blocks[0], data=blocks[0].data[:, :, :-1], traj=blocks[0].traj[:, :-1]), "6 coils and 127 samples"),
    ):
        with pytest.raises(DataError, match=message):
            images(subject.scan, [*blocks[1:5], changed, *blocks[5:]])
    for wrong, message in (
        (
            lambda b: replace(b, traj=np.concatenate([b.traj, b.traj[..., :1]], 2)),
            "2 dimensions for a slice, got 3",
        ),
        (lambda b: replace(b, traj=b.traj * np.nan), "finite"),
        (lambda b: replace(b, traj=b.traj * 300), "cycles per field of view along"),
        (lambda b: replace(b, data=b.data * 0), "signal|zeros"),
    ):
        with pytest.raises(IsocenterError, match=message):
            images(subject.scan, [wrong(b) for b in blocks])


def test_broken_readouts_are_left_out_and_told_of() -> None:
    subject = simulation(radial(60, 128))
    blocks = list(subject.readouts())
    blocks[7] = replace(blocks[7], data=blocks[7].data * np.nan)
    run = Run(subject.scan, LIBRARY["mri_noncartesian"])
    run.open()
    found = [image for block in blocks for image in run.feed(block)] + list(run.close())
    assert error(found[0], subject) < 0.09
    assert any("finite" in v.advice or "NaN" in v.advice or "NaN" in v.evidence for v in run.verdicts)


def test_a_cartesian_scan_is_refused_at_its_header() -> None:
    from tests.phantoms import small_simulation

    with pytest.raises(HeaderError, match="choose a Cartesian protocol"):
        Run(small_simulation().scan, LIBRARY["mri_noncartesian"]).open()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gather(max_gib=0), "max_gib"),
        (lambda: NufftSense(n_iterations=0), "n_iterations"),
        (lambda: NufftSense(damping=-1), "damping"),
        (lambda: RadialStream(window=2), "window"),
        (lambda: RadialStream(every=99), "every"),
        (lambda: RadialStream(n_coils=0), "n_coils"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_units_are_told() -> None:
    assert in_cycles(radial(3, 8), (1, 64, 64))[1] == "parts of the matrix"
    with pytest.raises(DataError, match="zeros"):
        in_cycles(np.zeros((1, 2, 2), np.float32), (1, 64, 64))
