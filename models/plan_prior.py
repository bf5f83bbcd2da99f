"""The same angulation as an earlier exam: both localizers are registered, the earlier plan is carried over.

The head's own frame (AC, mid-sagittal plane, AC-PC line) is found in both; the motion between the two frames carries
the plan. Both must be sure. Where one of them is not, there is no plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from acquisition.geometry import Vector
from acquisition.items import Image, SlicePlan
from acquisition.verdict import Level, Verdict
from models.plan import Landmarks, landmarks_of, plan_of_pose
from models.plan_fit import Floats
from models.plan_pose import found
from models.template import load_template
from recon.rigid import Rigid


def transferred(images: Sequence[Image], earlier: Sequence[Image], plan: SlicePlan) -> tuple[SlicePlan | None, Verdict]:
    """Return an earlier exam's plan in today's coordinates, or None, and the verdict.

    Parameters
    ----------
    images
        Today's localizer.
    earlier
        The earlier exam's localizer.
    plan
        The plan made on that.

    Raises
    ------
    DataError
        There is nothing to see in one of them.
    """
    template = load_template()
    poses = [found(list(stacks), template) for stacks in (earlier, images)]
    sure = [plan_of_pose(pose, template, "brain-acpc") for pose in poses]
    for which, one in zip(("earlier", "today's"), sure, strict=True):
        if one.plan is None:
            return None, replace(one.verdict, evidence=f"{which} localizer: {one.verdict.evidence}")
    motion = _frame(landmarks_of(poses[1].fits, template)).after(_frame(landmarks_of(poses[0].fits, template)).inverse)
    moved = carried(plan, motion)
    confidence = min(one.plan.confidence for one in sure if one.plan is not None)
    result = replace(moved, confidence=confidence, evidence={"turned_deg": motion.angle_deg})
    verdict = Verdict(
        check="plan.prior",
        level=Level.PASS,
        advice="The earlier exam's slices were carried over: confirm the lines on the localizer.",
        value=confidence,
        evidence=f"the head is turned by {motion.angle_deg:.1f} degrees against the earlier exam",
    )
    return result, verdict


def carried(plan: SlicePlan, motion: Rigid) -> SlicePlan:
    """Return a plan after a motion of the head: ``p -> rotation p + shift``."""
    return replace(
        plan,
        centre_mm=_vector(motion.rotation @ np.asarray(plan.centre_mm) + motion.shift_mm),
        normal=_vector(motion.rotation @ np.asarray(plan.normal)),
        in_plane=_vector(motion.rotation @ np.asarray(plan.in_plane)),
        landmarks_mm={
            k: _vector(motion.rotation @ np.asarray(v) + motion.shift_mm) for k, v in plan.landmarks_mm.items()
        },
        frame_of_reference_uid=None,
    )


def _frame(marks: Landmarks) -> Rigid:
    """Return the motion that takes the patient's axes to the head's: left, posterior, superior, AC at the origin."""
    rotation = np.stack([marks.left, marks.posterior, marks.superior], axis=1)
    return Rigid(rotation, (marks.ac + marks.pc) / 2)


def _vector(values: Floats) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


__all__ = ["carried", "transferred"]
