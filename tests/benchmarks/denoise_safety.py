"""What denoising networks may not do: lose or invent lesions, change the grain, work on what they do not know.

Run as ``OMP_NUM_THREADS=1 ISOCENTER_DATA=... python -m tests.benchmarks denoise_safety``; ``ISOCENTER_CARDS`` names a
folder of cards that are not shipped. A lesion in raw data of MR and CT is its own reconstruction added to the image,
as both are linear; for PET the activity is measured and reconstructed again, 16 times, and means are compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acquisition.geometry import Grid
from acquisition.items import Image, Kind
from acquisition.verdict import Level
from models import refuse, report
from models.consistency import residual
from models.estimate import Estimator
from models.noise import floored, level
from models.train.ct_noise import Exposure, backprojected_noise, slice_noise, variance
from models.train.pet import pet_sample, random_activity
from models.train.recipe import Case, recipe
from models.train.simulated import DATA, Simulated, source_of
from recon.ct.quality import noise_power
from recon.noise import local_noise
from tests.benchmarks._failures import FAILURES
from tests.benchmarks.denoise import AT, SORTS, Method, N, estimator, network, nlm

FWHM_PX, CONTRASTS = (2.0, 3.0, 4.0), (5.0, 10.0)
REPEATS, WATER = 16, 8
CLEAN = 48
UNITS = {"mr_denoise": ("1", Kind.COMPLEX, 1.2), "ct_denoise": ("HU", Kind.MAGNITUDE, 1.0)}
UNITS["pet_denoise"] = ("Bq/mL", Kind.MAGNITUDE, 4.0)


def spot(shape: tuple[int, ...], at: tuple[int, int], fwhm: float) -> NDArray[np.float32]:
    """Return a bell of height 1."""
    y, x = np.indices(shape)
    return np.exp(-4 * np.log(2) * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / fwhm**2).astype(np.float32)


def place(case: Case, rng: np.random.Generator) -> tuple[int, int]:
    """Return a pixel well inside."""
    assert case.inside is not None
    inner = gaussian_filter(case.inside.astype(float), 4) > 0.95
    inner = inner if inner.any() else case.inside
    choices = np.argwhere(inner)
    y, x = choices[int(rng.integers(len(choices)))]
    return int(y), int(x)


def recovered(method: Method, case: Case, fwhm: float, *, contrast: float, seed: int) -> tuple[float, float]:
    """Return the part of a lesion's contrast that is kept, and the largest change elsewhere [sd of noise]."""
    rng = np.random.default_rng(seed)
    at = place(case, rng)
    bell = spot(case.truth.shape, at, fwhm)
    phase = case.truth[at] / abs(case.truth[at]) if np.iscomplexobj(case.truth) else 1.0
    lesion = contrast * case.noise[at] * bell * phase
    change = method(replace(case, measured=(case.measured + lesion).astype(case.measured.dtype))) - method(case)
    core, away = bell > 0.5, bell < 1e-4
    kept = float((change[core] * np.conj(lesion[core])).real.sum() / (np.abs(lesion[core]) ** 2).sum())
    return kept, float(np.abs(change / case.noise)[away].max())


def recovered_pet(method: Method, of: Simulated, fwhm: float, *, contrast: float, seed: int) -> tuple[float, float]:
    """Return the same, through counts, against the conventional images of the same counts; `contrast` is in the
    activity beside it."""
    rng = np.random.default_rng([3, seed])
    volume, pixel = source_of("test").volumes[seed % 3]
    activity, pixel = random_activity(volume, pixel, rng)
    inside = activity > 0.3 * np.median(activity[activity > 0.02])
    at = place(Case(activity, activity, activity, inside), rng)
    bell = spot(activity.shape, at, fwhm)
    near = float(activity[max(at[0] - 4, 0) : at[0] + 5, max(at[1] - 4, 0) : at[1] + 5].mean())
    before, after, level_ = [], [], 1.0
    for now in (activity, activity + np.float32(contrast * near) * bell):
        made = [
            pet_sample(now, pixel, np.random.default_rng([seed, k]), counts=1e5 * float(now.sum() / activity.sum()))
            for k in range(REPEATS)
        ]
        cases = [of.case({"image": m.low, "sigma": m.sigma, "target": m.target}) for m in made]
        before.append(np.mean([c.measured for c in cases], axis=0))
        after.append(np.mean([method(c) for c in cases], axis=0))
        level_ = level(cases[0].noise)
    core, away = bell > 0.5, bell < 1e-4
    lesion, left = before[1] - before[0], after[1] - after[0]
    return float(left[core].sum() / lesion[core].sum()), float(np.sqrt(np.mean((left - lesion)[away] ** 2)) / level_)


def lesions(name: str, method: Method) -> None:
    """Print what is left of lesions."""
    of, sort = recipe(name), next(s for s in SORTS if s.name == name)
    assert isinstance(of, Simulated)
    contrasts = (2.0, 4.0) if name == "pet_denoise" else CONTRASTS
    for fwhm in FWHM_PX:
        for contrast in contrasts:
            if name == "pet_denoise":
                found = [recovered_pet(method, of, fwhm, contrast=contrast, seed=k) for k in range(4)]
            else:
                cases = [sort.draw(of, "test", k) for k in range(4)]
                found = [recovered(method, c, fwhm, contrast=contrast, seed=k) for k, c in enumerate(cases * 3)]
            kept, rest = np.array(found).T
            print(
                f"| {fwhm:g} px, {contrast:g} | {100 * kept.mean():.1f} | {100 * kept.min():.1f} | {rest.max():.2f} |"
            )


def detail_lost(method: Method, cases: Sequence[Case]) -> float:
    """Return the part of the truth's detail that is found in what was removed; 0: the residual is without structure."""
    parts = []
    for case in cases:
        removed = case.measured - method(case)
        detail = case.truth - gaussian_filter(case.truth.real, 2)
        if np.iscomplexobj(case.truth):
            detail = detail - 1j * gaussian_filter(case.truth.imag, 2)
        inside = case.inside
        lost = (removed * np.conj(detail)).real[inside].sum()
        parts.append(float(lost / (np.abs(detail) ** 2)[inside].sum()))
    return float(np.mean(parts))


def grain(method: Method, of: Simulated) -> tuple[float, float, float, float]:
    """Return of a water disc's noise: what is left of its sd, shifts of mean and peak frequency, mean HU left over."""
    n = 192
    y, x = np.indices((n, n)) - (n - 1) / 2
    truth = np.where(np.hypot(y, x) < 80, 0.0, -1000.0).astype(np.float32)
    exposure = Exposure(photons=4e5, kernel="standard")
    lines, photons = slice_noise(truth, 1.5, exposure)
    sd = np.sqrt(variance(lines, photons, dose=0.25, electronic=exposure.electronic))
    spectra, error = [], []
    for k in range(WATER):
        low = truth + backprojected_noise(sd, 1.5, exposure, rng=np.random.default_rng(k))[0]
        case = of.case({"image": low, "target": truth})
        pair = [image[64:128, 64:128] for image in (low, method(case))]
        error.append(float(pair[1].mean() - pair[0].mean()))
        spectra.append(pair)
    powers = [noise_power(np.stack([s[k] for s in spectra]), pixel_mm=1.5) for k in (0, 1)]
    (f, before), (_, after) = (p.radial() for p in powers)
    peaks = [f[1:][np.argmax(np.convolve(p[1:], np.ones(3) / 3, "same"))] for p in (before, after)]
    means = [p.mean_lp_per_cm for p in powers]
    left = np.sqrt(powers[1].variance / powers[0].variance)
    return float(left), means[1] / means[0] - 1, peaks[1] / peaks[0] - 1, float(np.mean(error))


def stopped(made: Estimator, name: str, case: Case) -> bool:
    """Return whether the Step would refuse or flag this image."""
    unit, kind, pixel = UNITS[name]
    card, values = made.card, case.measured[None]
    grid = Grid.from_centre((0, 0, 0), shape=values.shape, spacing_mm=(3.0, pixel, pixel), directions=np.eye(3))
    image = Image(data=values, grid=grid, unit=unit, kind=kind)
    if refuse.by_image(card, image, level(case.noise), made.statistics) is not None:
        return True
    found = residual(case.measured, made.estimate(case.measured, case.noise).data, case.noise)
    too_much = report.too_much(found, card.consistency) is not None
    return too_much or report.changed("x", found, card.consistency, "").level is Level.FLAG


def failures(name: str, made: Estimator) -> None:
    """Print how many planted failures and clean images are stopped."""
    of = recipe(name)
    assert isinstance(of, Simulated)
    cases = list(of.cases("test", CLEAN))
    lost = detail_lost(network(made, 1.0), cases[:N])
    print(f"\ndetail in the residual: {100 * lost:.2f} % of the truth's")
    told = {f"clean ({CLEAN})": np.mean([stopped(made, name, c) for c in cases])}
    for failure, plant in FAILURES[name].items():
        planted = [plant(c) for c in cases[:N]]
        if name == "ct_denoise":
            planted = [replace(c, noise=floored(local_noise(np.nan_to_num(c.measured)))) for c in planted]
        told[failure] = np.mean([stopped(made, name, c) for c in planted])
    planted_ = float(np.mean([v for k, v in told.items() if not k.startswith("clean")]))
    print(
        f"\nstopped of all planted: {100 * planted_:.1f} %\n\nstopped: "
        + ", ".join(f"{k} {100 * v:.0f} %" for k, v in told.items()),
        flush=True,
    )


def main() -> int:
    """Print the tables."""
    if DATA not in os.environ:
        print(f"not run: set {DATA} to the folder of the data sets")
        return 2
    for sort in SORTS:
        made = estimator(sort.name, "torch")
        if made is None:
            print(f"\n{sort.name}: no card")
            continue
        print(f"\n### {sort.name}\n\n| lesion, contrast | kept % | least % | elsewhere, sd |\n|---|---|---|---|")
        lesions(sort.name, network(made, 1.0))
        if sort.name == "ct_denoise":
            ct = recipe(sort.name)
            assert isinstance(ct, Simulated)
            rows = {f"network {s:g}": network(made, s) for s in AT} | {"NLM 0.1": nlm(0.1)}
            print("\n| water | sd left | mean frequency | peak frequency | HU |\n|---|---|---|---|---|")
            for method, f in rows.items():
                left, mean, peak, off = grain(f, ct)
                print(f"| {method} | {left:.2f} | {100 * mean:+.0f} % | {100 * peak:+.0f} % | {off:+.2f} |", flush=True)
        failures(sort.name, made)
    return 0
