"""Gadolinium: what a dose does to the tissues, and images of one head before, after a tenth and after all of it.

``1/T1 = 1/T1_0 + r1 C`` and ``1/T2 = 1/T2_0 + r2 C`` (and T2*). Relaxivities in blood at 37 degrees: Shen et al.,
Invest Radiol 2015;50:330, DOI 10.1097/RLI.0000000000000132 (r1); r2 is 1.2 to 1.4 times r1 at 1.5 T, more at 3 T
(Pintaske et al., Invest Radiol 2006;41:213, DOI 10.1097/01.rli.0000197668.44926.f7). Concentrations are those some
minutes after 0.1 mmol/kg: about 0.5 mM in blood (that dose in 0.2 l/kg of extracellular fluid), less where the agent
leaks. None passes the blood-brain barrier of normal brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from models.train.contrast import Protocol
from models.train.scene import Complex, Scene, magnetisation
from models.train.tissue import NAMES, Tissues

Floats = NDArray[np.float64]

AGENTS: dict[str, tuple[float, float, float, float]] = {
    "gadobutrol": (4.6, 4.5, 5.8, 6.5),
    "gadoterate": (3.9, 3.4, 4.6, 4.9),
    "gadobenate": (6.2, 5.4, 8.0, 9.0),
    "gadoteridol": (4.4, 3.5, 5.0, 5.0),
}
"""Agent -> r1 at 1.5 T, r1 at 3 T, r2 at 1.5 T, r2 at 3 T [1/(mM s)]."""
FULL_DOSE_MM_PER_KG = 0.1
"""The usual dose [mmol/kg]; doses here are parts of it."""

# tissue: lowest and highest concentration after the full dose [mM]; what is not named takes up none
_UPTAKE_MM: dict[str, tuple[float, float]] = {
    "artery": (0.40, 0.75),
    "vein": (0.40, 0.75),
    "tumour": (0.12, 0.65),
    "necrosis": (0.0, 0.03),
    "infarct": (0.0, 0.12),
    "plaque": (0.0, 0.15),
    "dura": (0.20, 0.45),
    "choroid": (0.25, 0.50),
    "mucosa": (0.25, 0.50),
    "muscle": (0.04, 0.09),
    "eye_muscle": (0.10, 0.25),
    "skin": (0.06, 0.15),
    "marrow": (0.02, 0.08),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptake:
    """How one subject takes up one agent."""

    agent: str
    """One of `AGENTS`."""
    full_mm: Floats
    """Concentration in each tissue after the full dose [mM], over `tissue.NAMES`."""


def random_uptake(rng: np.random.Generator, *, agent: str = "") -> Uptake:
    """Return how a subject takes up an agent; lesions of one kind enhance alike in one subject.

    Raises
    ------
    ConfigError
        The agent is unknown.
    """
    agent = agent or str(rng.choice(list(AGENTS)))
    if agent not in AGENTS:
        raise ConfigError("contrast agent", expected=f"one of {', '.join(AGENTS)}", got=repr(agent))
    full = np.zeros(len(NAMES))
    for number, name in enumerate(NAMES):
        low, high = _UPTAKE_MM.get(name, (0.0, 0.0))
        full[number] = rng.uniform(low, high)
    return Uptake(agent=agent, full_mm=full)


def relaxivity(agent: str, field_t: float) -> tuple[float, float]:
    """Return r1 and r2 [1/(mM s)] of an agent; between 1.5 and 3 T linear in the field's logarithm."""
    low1, high1, low2, high2 = AGENTS[agent]
    part = float(np.clip(np.log(field_t / 1.5) / np.log(2), 0, 1))
    return low1 + part * (high1 - low1), low2 + part * (high2 - low2)


def enhanced(subject: Tissues, uptake: Uptake, dose: float) -> Tissues:
    """Return the tissues some minutes after a dose.

    Parameters
    ----------
    subject
        The tissues before.
    uptake
        How they take up the agent.
    dose
        Part of the full dose.

    Raises
    ------
    ConfigError
        The dose is negative.
    """
    if dose < 0:
        raise ConfigError("dose", expected="0 or more of the full dose", got=f"{dose:g}")
    r1, r2 = relaxivity(uptake.agent, subject.field_t)
    c = dose * uptake.full_mm
    return replace(
        subject,
        t1_s=1 / (1 / subject.t1_s + r1 * c),
        t2_s=1 / (1 / subject.t2_s + r2 * c),
        t2star_s=1 / (1 / subject.t2star_s + r2 * c),
    )


def dose_series(
    scene: Scene, protocol: Protocol, subject: Tissues, *, uptake: Uptake, doses: Sequence[float] = (0.0, 0.1, 1.0)
) -> Complex:
    """Return the slice after each dose, same anatomy and texture, no noise, (dose, y, x)."""
    return magnetisation(scene, protocol, [enhanced(subject, uptake, dose) for dose in doses])
