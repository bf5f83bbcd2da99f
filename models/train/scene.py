"""The magnetisation of one slice as the sequence leaves it, on cells finer than the voxels that will be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from models.train.anatomy import Lesions, Plane, draw, field_hz, random_lesions
from models.train.contrast import (
    REFOCUSED,
    TRAINS,
    Protocol,
    Signals,
    fat_phase_rad,
    fat_shift_voxels,
    flow,
    signals,
)
from models.train.fields import smooth_field, splined, texture, vessel_parts
from models.train.labels import Head
from models.train.tissue import NAMES, NUMBER, Tissues

Complex = NDArray[np.complex64]
F32 = NDArray[np.float32]

_BASIS_S = (0.04, 0.07, 0.11, 0.5)  # decay times of which each tissue's decay along a train is made up
_SHORTEST_S = 0.03  # what decays faster has no signal that late
# How much a tissue varies in itself, against white matter; small vessels lie in it with this probability
_ROUGH = {"csf": 0.2, "ventricle": 0.1, "vitreous": 0.1, "air": 0.0, "artery": 0.2, "vein": 0.2, "muscle": 2.2}
_ROUGH |= {"fat": 1.5, "skin": 2.0, "marrow": 3.5, "mucosa": 3.5, "cortical_bone": 3.0, "tumour": 3.0, "oedema": 1.8}
_ROUGH |= {"necrosis": 2.0, "haemorrhage": 3.0, "choroid": 3.0, "infarct": 2.0, "dura": 1.5}
_VESSELS = {"csf": 0.9, "cortex": 0.35, "white": 0.07, "dura": 0.4, "fat": 0.3, "muscle": 0.15, "tumour": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything that was drawn for a slice, but what its tissues are made of and what the sequence does."""

    head: Head
    """The anatomy."""
    plane: Plane
    """The slice."""
    lesions: Lesions
    """Lesions in it."""
    grain: F32
    """How tissue varies in itself, unit variance, (y, x) fine cells."""
    vessels: F32
    """Part of each cell that is a small vessel, where there are any, (y, x)."""
    phase_rad: F32
    """Phase that does not come from the main field: receivers, eddy currents, (y, x) [rad]."""
    shading: F32
    """Transmit field's effect on the signal, about 1, (y, x)."""
    end_mm: float
    """How far below the brain's middle the coils end and half of the signal is left [mm]."""
    flow: dict[str, float]
    """Factor of the signal of moving blood: artery, vein."""


def random_scene(head: Head, plane: Plane, protocol: Protocol, rng: np.random.Generator) -> Scene:
    """Return one slice of a head with lesions, texture, vessels, phase and shading."""
    shape, cell = plane.shape, plane.cell_mm
    strength = 0.06 if protocol.field_t < 2 else 0.12
    return Scene(
        head=head,
        plane=plane,
        lesions=random_lesions(head, plane, rng),
        grain=texture(shape, cell, rng) * np.float32(rng.uniform(1.0, 2.6)),
        vessels=vessel_parts(shape, cell, rng),
        phase_rad=np.float32(rng.uniform(-np.pi, np.pi))
        + _ramp(shape, rng)
        + 0.5 * smooth_field(shape, 70 / cell, rng),
        shading=(1 + strength * smooth_field(shape, 90 / cell, rng) + _bulge(shape, 0.8 * strength)).clip(0.5, 1.5),
        end_mm=float(min(rng.uniform(85, 105), head.centre[0] - 8)),  # where the map ends, so does the signal
        flow=flow(protocol, rng),
    )


def _ramp(shape: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return a linear phase of up to half a turn over the plane: an echo that is not exactly in the middle."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    a, b = rng.normal(0, 0.8, 2).astype(np.float32)
    return a * y[:, None] + b * x


def _bulge(shape: tuple[int, int], height: float) -> F32:
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    return np.float32(height) * (np.exp(-2.5 * (y[:, None] ** 2 + x**2)) - 0.4)


def magnetisation(scene: Scene, protocol: Protocol, subjects: Sequence[Tissues]) -> Complex:
    """Return the object for one or more states of the subject, e.g. before and after contrast, in the same slice.

    Signal equations on the tissues; tissue that varies in itself; small vessels; decay along the train of echoes; fat
    shifted along the readout and with its phase; off-resonance phase and loss of signal through the slice.

    Returns
    -------
    ndarray
        (state, y, x) on fine cells; fully relaxed water of density 1 gives 1.
    """
    plain = [signals(protocol, subject) for subject in subjects]
    tables = [_table(protocol, *pair, moving=scene.flow) for pair in zip(subjects, plain, strict=True)]
    n = tables[0].shape[1]
    drawn = draw(scene.head, scene.plane, np.concatenate(tables, axis=1), lesions=scene.lesions)
    states = [
        _state(drawn[n * s : n * (s + 1)], scene, protocol, fat_t2_s=found.fat_t2_s) for s, found in enumerate(plain)
    ]
    return np.stack(states) * _smooth_factor(scene, protocol)


def _table(protocol: Protocol, subject: Tissues, plain: Signals, *, moving: dict[str, float]) -> NDArray:
    """Return what each tissue gives: change with texture, vessels' excess, fat, and water by its decay time."""
    water = plain.water.copy()
    for name, factor in moving.items():
        water[NUMBER[name]] *= factor
    change = (_varied(protocol, subject, 1.0).water - _varied(protocol, subject, -1.0).water) / 2
    vessel = np.array([_VESSELS.get(name, 0.0) for name in NAMES])
    blood = 0.5 * (water[NUMBER["artery"]] + water[NUMBER["vein"]])
    excess = vessel * (blood - water - plain.fat)
    if protocol.kind not in TRAINS:
        return np.stack([change, excess, plain.fat, water], axis=1)
    shares = water[:, None] * _shares(protocol, plain.t2_s)
    return np.concatenate([np.stack([change, excess, plain.fat], axis=1), shares], axis=1)


def _varied(protocol: Protocol, subject: Tissues, by: float) -> Signals:
    """Return the signals where tissue is one standard deviation more (or less) watery."""
    amount = by * np.array([_ROUGH.get(name, 1.0) for name in NAMES])
    pd, t1, t2 = 1 + 0.012 * amount, 1 + 0.04 * amount, 1 + 0.035 * amount
    other = replace(
        subject, pd=subject.pd * pd, t1_s=subject.t1_s * t1, t2_s=subject.t2_s * t2, t2star_s=subject.t2star_s * t2
    )
    return signals(protocol, other)


def _shares(protocol: Protocol, t2_s: NDArray) -> NDArray:
    """Return how much of each basis decay makes up each tissue's, (tissue, basis): least squares over the train."""
    times = np.linspace(*(f(train_times(protocol, 64)) for f in (np.min, np.max)), 24)  # type: ignore[call-overload]
    basis = np.exp(-times[:, None] / np.array(_BASIS_S))
    basis = np.concatenate([basis, np.full((1, len(_BASIS_S)), 10.0)])  # the effective echo counts most
    out = np.empty((len(t2_s), len(_BASIS_S)))
    for n, t2 in enumerate(np.maximum(t2_s, _SHORTEST_S)):
        wanted = np.concatenate([np.exp(-times / t2), [10.0]])
        weight = 1 / np.maximum(wanted, 0.1)
        weight[-1] = 1.0
        out[n] = np.linalg.lstsq(basis * weight[:, None], wanted * weight, rcond=1e-3)[0]
    return out


def _state(drawn: F32, scene: Scene, protocol: Protocol, *, fat_t2_s: float) -> Complex:
    more = scene.grain * drawn[0] + scene.vessels * drawn[1]
    fat = drawn[2] * (1 + 0.07 * scene.grain)
    if protocol.kind in TRAINS:
        times, middle = _decays(scene.plane, protocol), len(_BASIS_S) // 2
        parts = [part + more if k == middle else part for k, part in enumerate(drawn[3:])]
        water = sum(_weighed(part, times, t2) for part, t2 in zip(parts, _BASIS_S, strict=True))
        fat = _weighed(fat, times, fat_t2_s)
    else:
        water = drawn[3] + more
    phase = np.complex64(np.exp(1j * fat_phase_rad(protocol)))
    return np.asarray(water + _shifted(fat, fat_shift_voxels(protocol) * scene.plane.fine) * phase, np.complex64)


def train_times(protocol: Protocol, n: int) -> NDArray[np.float64]:
    """Return when each of n phase-encoding lines is read, from the effective echo time on [s], shape (n,).

    Early effective echoes lie in the middle and the train goes outwards; later ones lie inside of a train that sweeps
    from one side of k-space to the other.
    """
    place = (np.arange(n) - n // 2) / n
    span = (protocol.n_echoes - 1) * protocol.spacing_s
    early = protocol.te_s - protocol.spacing_s
    if early < 0.25 * span:
        return 2 * np.abs(place) * (span - max(early, 0.0))
    return 2 * place * min(early, max(span - early, 0.25 * span))


def _decays(plane: Plane, protocol: Protocol) -> NDArray[np.float64]:
    """Return the time of each line of the fine cells' spectrum; lines that will not be measured repeat the last one."""
    n = plane.shape[0]
    band = round(n / plane.fine)
    before = n // 2 - band // 2
    times = np.pad(train_times(protocol, band), (before, n - band - before), mode="edge")
    return np.asarray(fft.ifftshift(times))


def _weighed(part: F32, times: NDArray, t2_s: float) -> NDArray:
    """Weigh the lines of k-space (y) of a part by its decay since the effective echo time."""
    decay = np.exp(-times / t2_s)[:, None].astype(np.float32)
    return fft.ifft(fft.fft(part, axis=0) * decay, axis=0)


def _shifted(image: NDArray, cells: float) -> NDArray:
    """Return an image moved along x by a number of cells, between whole ones linearly; nothing comes in at the ends."""
    n = image.shape[-1]
    at = np.arange(n) - cells
    low = np.floor(at).astype(int)
    part = (at - low).astype(np.float32)
    out = (1 - part) * image[..., low.clip(0, n - 1)] + part * image[..., (low + 1).clip(0, n - 1)]
    out[..., (low < 0) | (low >= n - 1)] = 0
    return np.asarray(out)


def _smooth_factor(scene: Scene, protocol: Protocol) -> Complex:
    """Return shading, phase and what gradient echoes lose where the field changes through the slice, (y, x)."""
    magnitude, phase = scene.shading * _fading(scene), scene.phase_rad
    if protocol.kind not in REFOCUSED:
        hz, slope = field_hz(scene.head, scene.plane, protocol.field_t)
        phase = phase + np.float32(2 * np.pi * protocol.te_s) * hz
        magnitude = magnitude * np.abs(np.sinc(slope * scene.plane.thickness_mm * protocol.te_s))
    out = np.empty(phase.shape, np.complex64)
    out.real, out.imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
    return out


def _fading(scene: Scene) -> F32:
    """Return how the signal ends in the neck, (y, x)."""
    n = 24
    z = scene.plane.room_mm(n)[..., 0]
    return np.asarray(splined((1 / (1 + np.exp(-(z + scene.end_mm) / 6))).astype(np.float32), scene.plane.shape))
