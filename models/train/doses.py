"""Slabs of a head before, after a part and after all of the dose: neighbouring slices without noise, and noise.

The anatomy goes on from slice to slice; its texture turns slowly into another and small vessels run obliquely. The
earlier image was taken with the head elsewhere and brought back: what registration leaves over (some tenths of a
millimetre), the blur of interpolating, and another gain are in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from models.train.anatomy import Lesions, draw, no_lesions, random_lesions
from models.train.contrast import random_protocol
from models.train.encode import cropped_kspace, image_of, reference_level, unfolding
from models.train.enhance import Uptake, dose_series, random_uptake
from models.train.fields import smooth_field, texture
from models.train.labels import Head
from models.train.motion import moved_scene
from models.train.mr import T1_WEIGHTED, MrSpec, Slice, random_slice
from models.train.scene import Scene, magnetisation
from models.train.tissue import NAMES, NUMBER, PARENCHYMA, tissues

F32 = NDArray[np.float32]

SPEC = MrSpec(protocols=T1_WEIGHTED, thickness_mm=(1.0, 4.0))
"""What is drawn where nothing else is said."""
DOSES = (0.08, 0.33)
"""Smallest and largest part of the dose."""
_UNMOVED, _UNENHANCED, _TIGHT = 0.25, 0.08, 0.15
_TURN_MM = 6.0  # over which texture becomes another
_LESION_MM = 8.0  # of the slab for one draw of lesions
_BRAIN = (
    *PARENCHYMA,
    "csf",
    "ventricle",
    "choroid",
    "tumour",
    "oedema",
    "necrosis",
    "infarct",
    "plaque",
    "haemorrhage",
)
_REST_MM, _REST_DEG = 0.1, 0.08  # what registration leaves over, standard deviation


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Slab:
    """Neighbouring slices of one head; magnitudes without noise, the middle brightness is 1."""

    pre: F32
    """Before the agent (z, y, x), as far off its place as `back` and registration's rest say."""
    low: F32
    """After the part of the dose (z, y, x)."""
    full: F32
    """After all of it, where the head lay for `low` (z, y, x)."""
    tumour: F32
    """Part of each voxel that is enhancing lesion (z, y, x)."""
    brain: F32
    """Part of each voxel that is brain, its fluid and its lesions (z, y, x)."""
    sigma: F32
    """Noise relative to that of the whole scan (y, x)."""
    back: tuple[float, float]
    """How far `pre` has to be moved back (y, x) [voxels]."""
    dose: float
    """Part of the full dose."""
    field_t: float
    """Field strength [T]."""
    voxel_mm: tuple[float, float, float]
    """Sides of a voxel (z, y, x) [mm]."""

    def noisy(self, snr: float, rng: np.random.Generator, *, name: str = "low") -> F32:
        """Return one of the images, pre (moved back), low or full, with noise of standard deviation `sigma`."""
        clean = np.float32(snr) * getattr(self, name)
        real, imaginary = rng.standard_normal((2, *clean.shape), np.float32) * self.sigma
        seen = np.hypot(clean + real, imaginary)
        if name != "pre" or not any(self.back):
            return seen
        return np.asarray(shift(seen, (0, *self.back), order=1, mode="nearest"), np.float32)

    def cut(self, corner: tuple[int, int], side: int) -> Slab:
        """Return a square of the slab."""
        part = (..., slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))
        names = ("pre", "low", "full", "tumour", "brain", "sigma")
        return replace(self, **{name: getattr(self, name)[part] for name in names})


def dose_slab(
    head: Head,
    rng: np.random.Generator,
    spec: MrSpec = SPEC,
    *,
    n_slices: int = 5,
    lesions: float = 3.0,
    earlier: str = "",
) -> Slab:
    """Draw a slab.

    Parameters
    ----------
    head
        The anatomy.
    rng, spec
        Draws everything; matrix, sequences, field of view, thickness.
    n_slices
        Slices, without gaps.
    lesions
        How many there are on average per 8 mm; 0: none at all.
    earlier
        Another sequence of `contrast.PROTOCOLS` for the image before; empty: the same one.
    """
    middle = random_slice(head, spec, rng)
    plane, voxel = middle.scene.plane, spec.fine * middle.scene.plane.cell_mm
    subject, uptake = tissues(middle.protocol.field_t, rng), _uptake(rng)
    dose = float(rng.choice([0.1, 0.1, 0.1, rng.uniform(*DOSES)]))
    back, turn_deg, away_mm = _motion(plane.directions[1:], voxel, rng)
    first_by = random_protocol(rng, name=earlier, field_t=middle.protocol.field_t) if earlier else middle.protocol
    states, parts = [], []
    for scene in _scenes(middle, head, rng, n_slices=n_slices, lesions=lesions):
        first = magnetisation(moved_scene(scene, turn_deg, away_mm), first_by, [subject])
        later = dose_series(scene, middle.protocol, subject, uptake=uptake, doses=(dose, 1.0))
        states.append(_measured(np.concatenate([first, later]), middle, spec))
        parts.append(_measured(_parts(scene), None, spec))
    pre, low, full = np.stack(states, axis=1) / reference_level(np.stack(states)[:, 0])
    return Slab(
        pre=np.asarray(pre * _gain(spec, rng), np.float32),
        low=low,
        full=full,
        tumour=np.stack(parts)[:, 0],
        brain=np.stack(parts)[:, 1],
        sigma=unfolding(middle.maps, int(rng.choice([1, 1, 2, 3])))[0],
        back=back,
        dose=dose,
        field_t=middle.protocol.field_t,
        voxel_mm=(plane.thickness_mm, voxel, voxel),
    )


def _motion(
    in_plane: NDArray, voxel_mm: float, rng: np.random.Generator
) -> tuple[tuple[float, float], list[float], list[float]]:
    """Return how far an image has to be moved back (y, x) [voxels]; the head's turn [degrees] and shift [mm], which
    are that and what registration leaves over."""
    unmoved = rng.random() < _UNMOVED
    y, x = (0.0, 0.0) if unmoved else rng.uniform(-0.5, 0.5, 2).tolist()
    rest = rng.normal(0, [_REST_DEG] * 3 + [_REST_MM] * 3)
    return (y, x), rest[:3].tolist(), (rest[3:] - np.array([y, x]) * voxel_mm @ in_plane).tolist()


def _gain(spec: MrSpec, rng: np.random.Generator) -> NDArray:
    """Return what levelling leaves of the gain of the earlier image (y, x)."""
    whole = np.exp(rng.normal(0, 0.004))
    return np.asarray(whole * (1 + 0.004 * smooth_field(spec.matrix, spec.matrix[0] / 3, rng)))


def _uptake(rng: np.random.Generator) -> Uptake:
    """Return how a subject takes up the agent; in some nothing arrives, in some lesions have a tight barrier."""
    uptake = random_uptake(rng)
    full, chance = uptake.full_mm.copy(), rng.random()
    if chance < _UNENHANCED:
        full[:] = 0
    elif chance < _UNENHANCED + _TIGHT:
        full[NUMBER["tumour"]] = 0
    return replace(uptake, full_mm=full)


def _scenes(middle: Slice, head: Head, rng: np.random.Generator, *, n_slices: int, lesions: float) -> list[Scene]:
    """Return the scene of each slice."""
    plane = middle.scene.plane
    steps = (np.arange(n_slices) - (n_slices - 1) / 2) * plane.thickness_mm
    planes = [replace(plane, centre_mm=plane.centre_mm + step * plane.directions[0]) for step in steps]
    draws = max(1, round(n_slices * plane.thickness_mm / _LESION_MM)) if lesions else 0
    found = [random_lesions(head, planes[int(rng.integers(n_slices))], rng, mean=lesions) for _ in range(draws)]
    other = texture(plane.shape, plane.cell_mm, rng) * np.float32(middle.scene.grain.std())
    slope = rng.normal(0, 0.5, 2) / plane.cell_mm  # cells per mm that small vessels run aside
    scenes = []
    for step, at in zip(steps, planes, strict=True):
        angle, aside = step / _TURN_MM, np.round(slope * step).astype(int)
        grain = np.cos(angle) * middle.scene.grain + np.sin(angle) * other
        vessels = np.roll(middle.scene.vessels, tuple(aside.tolist()), (0, 1))
        scene = replace(middle.scene, plane=at, grain=grain.astype(np.float32), vessels=vessels)
        scenes.append(replace(scene, lesions=_joined(found)))
    return scenes


def _joined(found: list[Lesions]) -> Lesions:
    if not found:
        return no_lesions()
    parts = {
        name: np.concatenate([getattr(f, name) for f in found]) for name in ("middles", "inverse", "waves", "what")
    }
    return Lesions(**parts)


def _parts(scene: Scene) -> F32:
    """Return which part of each fine cell is enhancing lesion, and which is brain (2, y, x)."""
    values = np.zeros((len(NAMES), 2), np.float32)
    values[NUMBER["tumour"], 0] = 1
    values[[NUMBER[name] for name in _BRAIN], 1] = 1
    return draw(scene.head, scene.plane, values, lesions=scene.lesions)


def _measured(images: NDArray, under: Slice | None, spec: MrSpec) -> F32:
    """Return images on fine cells as magnitudes on voxels, seen by an array or evenly."""
    seen = images if under is None else images * under.profile
    return np.abs(image_of(cropped_kspace(seen, spec.matrix))).astype(np.float32)
