"""The next series of the head, planned on a localizer: landmarks, planes, how sure they are; or that there is no plan.

The mid-sagittal plane is that of the whole brain's fit, AC and PC are each fitted with what lies around them: a rigid
fit of the whole brain to a template cannot say the pitch better than 1.4 degrees. What speaks against a plan are
figures (`LIMITS`): the largest of them over its limit makes the confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from acquisition.errors import ConfigError, DataError, one_of
from acquisition.geometry import Vector
from acquisition.items import Image, Kind, SlicePlan
from acquisition.verdict import Level, Verdict
from models.plan_fit import Fit, Floats
from models.plan_pose import Fits, Pose, found
from models.template import Template, load_template

LEAST = 0.5
"""Confidence below which there is no plan."""
LIMITS: Mapping[str, float] = {
    "unexplained": 0.75,
    "size": 0.10,
    "ac_moved_mm": 5.0,
    "pc_moved_mm": 5.0,
    "left_out_deg": 2.5,
    "left_out_mm": 1.5,
    "length_mm": 4.0,
    "unseen": 1.0,
    "flat": 1.0,
}
"""Figure -> its limit. Variance that the tissues do not explain; the head's sizes against the template's (logarithm);
how far AC and PC are from where the whole brain puts them; how far planes and points move when a quarter of the image
is left out; how far the distance of AC and PC is from the usual 27 mm; what is missing of the voxels near AC and PC;
whether they lie in too thin a layer, for one slice fits more than one pose."""
_LENGTH_MM, _ENOUGH, _DEEP_MM = 27.0, 1500.0, 6.0
_MARGIN_MM = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What was found in one head; LPS [mm]."""

    ac: Floats
    """Anterior commissure."""
    pc: Floats
    """Posterior commissure."""
    left: Floats
    """Unit normal of the mid-sagittal plane, towards the left."""
    whole: Fit
    """Of the whole brain, for everything else."""

    @property
    def posterior(self) -> Floats:
        """Unit vector from AC to PC within the mid-sagittal plane."""
        return _unit(_within(self.pc - self.ac, self.left))

    @property
    def superior(self) -> Floats:
        """Unit normal of the axial AC-PC plane."""
        return np.asarray(np.cross(self.left, self.posterior))


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What planning gave."""

    plan: SlicePlan | None
    """None: not sure enough."""
    verdict: Verdict
    """Why, or why not."""
    landmarks: Landmarks
    """What was found, sure or not."""


Direction = Callable[[Landmarks, Template], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One usual prescription."""

    title: str
    """What it is for."""
    normal: Direction
    """Slice normal; the slices' number grows along it."""
    in_plane: Direction
    """Direction of growing x."""
    about: tuple[str, ...]
    """Template landmarks that the slab is centred on; none: the brain."""
    covers_mm: float
    """Height of the slab [mm]; 0: all of the brain."""
    distance_mm: float
    """Distance of slice centres [mm]."""
    fov_mm: float = 0.0
    """Field of view [mm]; 0: that of the brain with some margin."""
    validated: bool = True
    """Whether its angle held when it was measured on labelled heads."""


def _along(first: tuple[str, ...], last: tuple[str, ...]) -> Direction:
    """Return the direction between two means of template landmarks, within the mid-sagittal plane."""

    def direction(marks: Landmarks, template: Template) -> Floats:
        ends = [np.mean([marks.whole.patient(template.landmarks[n]) for n in names], axis=0) for names in (first, last)]
        return _unit(_within(ends[1] - ends[0], marks.left))

    return direction


def _left(marks: Landmarks, template: Template) -> Floats:
    return marks.left


_HIPPOCAMPUS = _along(("HIP_L_A", "HIP_R_A"), ("HIP_L_P", "HIP_R_P"))
_NERVE = _along(("EYE_L", "EYE_R"), ("CHIASM",))
TARGETS: Mapping[str, Target] = {
    "brain-acpc": Target(
        title="axial slices of the brain along AC-PC",
        normal=lambda marks, template: marks.superior,
        in_plane=_left,
        about=(),
        covers_mm=0.0,
        distance_mm=4.0,
    ),
    "brain-sagittal": Target(
        title="sagittal slices of the brain, the middle one between the hemispheres",
        normal=lambda marks, template: -marks.left,
        in_plane=lambda marks, template: marks.posterior,
        about=("AC", "PC"),
        covers_mm=0.0,
        distance_mm=4.0,
    ),
    "hippocampus": Target(
        title="oblique coronal slices across the hippocampi",
        normal=_HIPPOCAMPUS,
        in_plane=_left,
        about=("HIP_L_A", "HIP_R_A", "HIP_L_P", "HIP_R_P"),
        covers_mm=66.0,
        distance_mm=3.0,
        fov_mm=200.0,
    ),
    "orbit": Target(
        title="axial slices along the optic nerves",
        normal=lambda marks, template: np.cross(marks.left, _NERVE(marks, template)),
        in_plane=_left,
        about=("EYE_L", "EYE_R", "CHIASM"),
        covers_mm=45.0,
        distance_mm=3.0,
        fov_mm=180.0,
        validated=False,
    ),
    "iac": Target(
        title="thin axial slices along AC-PC through the internal auditory canals",
        normal=lambda marks, template: marks.superior,
        in_plane=_left,
        about=("IAC",),
        covers_mm=40.0,
        distance_mm=2.0,
        fov_mm=180.0,
        validated=False,
    ),
}
"""By name, as the command line and protocols give it."""


def target_of(name: str, *, where: str) -> Target:
    """Return a prescription.

    Raises
    ------
    ConfigError
        There is none of this name.
    """
    if name not in TARGETS:
        raise ConfigError(f"{where}: target {name!r}", expected=one_of(name, TARGETS), got=repr(name))
    return TARGETS[name]


def planned(
    images: Sequence[Image], name: str, *, starts: Sequence[Fit] = (), frame_of_reference_uid: str | None = None
) -> Planned:
    """Plan a series on a localizer.

    Parameters
    ----------
    images
        Its stacks, magnitudes of the head in one frame of reference.
    name
        One of `TARGETS`.
    starts
        Poses to try beside the usual ones.
    frame_of_reference_uid
        Of the localizer.

    Raises
    ------
    ConfigError
        There is no such target.
    DataError
        There is nothing to plan on.
    """
    target_of(name, where="plan")
    usable = [i for i in images if i.kind is not Kind.COMPLEX and min(i.data.shape[-2:]) > 1]
    if not usable:
        raise DataError("plan", expected="magnitude images of a localizer", got="none", action="check the series")
    template = load_template()
    made = plan_of_pose(found(usable, template, starts=starts), template, name)
    if made.plan is None:
        return made
    return replace(made, plan=replace(made.plan, frame_of_reference_uid=frame_of_reference_uid))


def plan_of_pose(pose: Pose, template: Template, name: str) -> Planned:
    """Return the plan that follows from a pose, or why there is none."""
    marks = landmarks_of(pose.fits, template)
    figures = evidence(pose, template, marks)
    worst = max(LIMITS, key=lambda k: figures[k] / LIMITS[k])
    confidence = float(np.exp(-np.log(2) * (figures[worst] / LIMITS[worst]) ** 2))
    if confidence < LEAST:
        return Planned(None, _refused(worst, figures[worst]), marks)
    made = replace(prescribed(name, marks, template), confidence=confidence, evidence=figures)
    return Planned(made, _made(made, TARGETS[name]), marks)


def landmarks_of(fits: Fits, template: Template) -> Landmarks:
    """Return AC, PC and the mid-sagittal plane."""
    ac, pc = fits.ac.patient(template.landmarks["AC"]), fits.pc.patient(template.landmarks["PC"])
    return Landmarks(ac, pc, _unit(fits.whole.matrix[0]), fits.whole)


def evidence(pose: Pose, template: Template, marks: Landmarks) -> dict[str, float]:
    """Return the figures that `LIMITS` names."""
    whole = pose.fits.whole
    sizes = np.linalg.svd(whole.matrix)[1] / np.linalg.svd(template.prior.stretch)[1]
    others = [landmarks_of(fits, template) for fits in pose.parts]
    moved = {n: float(np.linalg.norm(whole.patient(template.landmarks[n]) - p)) for n, p in _points(marks).items()}
    turned = [_angle_deg(a, b) for o in others for a, b in ((o.left, marks.left), (o.superior, marks.superior))]
    shifted = [float(np.linalg.norm(_points(o)[n] - p)) for o in others for n, p in _points(marks).items()]
    return {
        "unexplained": 1 - whole.explained,
        "size": float(np.abs(np.log(sizes)).max()),
        "ac_moved_mm": moved["AC"],
        "pc_moved_mm": moved["PC"],
        "left_out_deg": max(turned),
        "left_out_mm": max(shifted),
        "length_mm": abs(float(np.linalg.norm(marks.pc - marks.ac)) - _LENGTH_MM),
        "unseen": max(0.0, 1.5 - pose.seen / _ENOUGH),
        "flat": _DEEP_MM / max(pose.depth_mm, 0.1),
    }


def prescribed(name: str, marks: Landmarks, template: Template) -> SlicePlan:
    """Return one of `TARGETS` for a head, its confidence not yet known."""
    target = TARGETS[name]
    normal, x_dir = target.normal(marks, template), target.in_plane(marks, template)
    y_dir = np.cross(normal, x_dir)
    brain = marks.whole.patient(template.surface_mm)
    frame = np.stack([normal, y_dir, x_dir])
    low, high = (brain @ frame.T).min(axis=0), (brain @ frame.T).max(axis=0)
    middle = (low + high) / 2
    if target.about:
        at = np.mean([_place(n, marks, template) for n in target.about], axis=0)
        middle = np.where([True, target.fov_mm > 0, target.fov_mm > 0], frame @ at, middle)
    height = target.covers_mm or 2 * float(max(high[0] - middle[0], middle[0] - low[0])) + _MARGIN_MM
    sides = [target.fov_mm or 10 * np.ceil((high[k] - low[k] + 3 * _MARGIN_MM) / 10) for k in (1, 2)]
    return SlicePlan(
        name=name,
        centre_mm=_vector(middle @ frame),
        normal=_vector(normal),
        in_plane=_vector(x_dir),
        fov_mm=(float(sides[0]), float(sides[1])),
        n_slices=int(np.ceil(height / target.distance_mm)),
        slice_distance_mm=target.distance_mm,
        landmarks_mm={"AC": _vector(marks.ac), "PC": _vector(marks.pc)},
    )


def _place(name: str, marks: Landmarks, template: Template) -> Floats:
    known = _points(marks)
    return known[name] if name in known else marks.whole.patient(template.landmarks[name])


def _points(marks: Landmarks) -> dict[str, Floats]:
    return {"AC": marks.ac, "PC": marks.pc}


def _made(plan: SlicePlan, target: Target) -> Verdict:
    told = "confirm the lines on the localizer" if target.validated else "its angle is not validated: look closely"
    return Verdict(
        check="plan.brain",
        level=Level.PASS if target.validated else Level.FLAG,
        advice=f"Planned {target.title}: {told}.",
        value=plan.confidence,
        limit=LEAST,
        evidence=", ".join(f"{k} {v:.3g}" for k, v in plan.evidence.items()),
    )


def _refused(figure: str, value: float) -> Verdict:
    return Verdict(
        check="plan.brain",
        level=Level.FLAG,
        advice="No plan: the localizer is not understood well enough; plan by hand.",
        value=value,
        limit=LIMITS[figure],
        unit="mm" if figure.endswith("_mm") else "degrees" if figure.endswith("_deg") else "1",
        evidence=f"{figure} {value:.3g}, limit {LIMITS[figure]:g}",
    )


def _within(vector: Floats, normal: Floats) -> Floats:
    return np.asarray(vector - (vector @ normal) * normal)


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / np.linalg.norm(vector))


def _angle_deg(a: Floats, b: Floats) -> float:
    return float(np.rad2deg(np.arccos(np.clip(a @ b, -1, 1))))


def _vector(values: Floats) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


__all__ = [
    "LEAST",
    "LIMITS",
    "TARGETS",
    "Landmarks",
    "Planned",
    "Target",
    "landmarks_of",
    "planned",
    "prescribed",
    "target_of",
]
