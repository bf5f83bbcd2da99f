"""The Steps that a protocol may name, and their parameters.

A row is ``name: "module:Class"``; the module is imported when a protocol uses the Step, never before. The class is a
dataclass: its fields are the parameters, their types are checked, their docstrings are the help text.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from acquisition.errors import ConfigError, one_of
from acquisition.stream import Step

STEPS: dict[str, str] = {
    "mri.repair": "acquisition.mri_repair:Repair",
    "mri.prewhiten": "acquisition.mri:Prewhiten",
    "mri.readout": "recon.mri.readout:ReadoutTransform",
    "mri.epi_readout": "recon.mri.epi:EpiReadout",
    "mri.epi_ghost": "recon.mri.epi_ghost:EpiGhost",
    "mri.assemble": "recon.mri.assemble:Assemble",
    "mri.compress": "recon.mri.compress:Compress",
    "mri.compress_geometric": "recon.mri.compress:CompressGeometric",
    "mri.slice_grappa": "recon.mri.sms:SliceGrappa",
    "mri.split_slice_grappa": "recon.mri.sms:SplitSliceGrappa",
    "mri.grappa": "recon.mri.grappa:Grappa",
    "mri.grappa_3d": "recon.mri.grappa_3d:Grappa3d",
    "mri.pocs": "recon.mri.partial_fourier:Pocs",
    "mri.homodyne": "recon.mri.partial_fourier:Homodyne",
    "mri.filter": "recon.mri.kfilter:KspaceFilter",
    "mri.sense": "recon.mri.sense:Sense",
    "mri.cg_sense": "recon.mri.iterative:CgSense",
    "mri.l1_wavelet": "recon.mri.iterative:L1Wavelet",
    "mri.tv": "recon.mri.iterative:TvSense",
    "mri.kt_tv": "recon.mri.dynamic:KtVariation",
    "mri.kt_sparse": "recon.mri.dynamic:KtSparse",
    "mri.kt_low_rank": "recon.mri.dynamic:KtLowRank",
    "mri.low_rank_sparse": "recon.mri.dynamic:LowRankSparse",
    "mri.radial_stream": "recon.mri.radial_stream:RadialStream",
    "mri.gather": "recon.mri.gather:Gather",
    "mri.field_map": "recon.mri.field_map:FieldMap",
    "mri.propeller": "recon.mri.propeller:Propeller",
    "mri.gridding": "recon.mri.noncartesian:Gridding",
    "mri.nufft_sense": "recon.mri.noncartesian:NufftSense",
    "mri.grasp": "recon.mri.grasp:Grasp",
    "mri.combine": "recon.mri.combine:Combine",
    "mri.combine_rss": "recon.mri.combine:CombineRss",
    "ct.air": "acquisition.ct:Air",
    "ct.beam_hardening": "acquisition.ct:BeamHardening",
    "ct.channels": "acquisition.ct_channels:Channels",
    "ct.scatter": "acquisition.ct_scatter:Scatter",
    "ct.scatter_constant": "acquisition.ct_scatter:ConstantScatter",
    "ct.rings": "acquisition.ct_rings:Rings",
    "ct.fbp": "recon.ct.fbp:Axial",
    "ct.helical": "recon.ct.fbp:Helical",
    "ct.fdk": "recon.ct.cone:Cone",
    "ct.sirt": "recon.ct.iterative:Sirt",
    "ct.pwls": "recon.ct.iterative:Pwls",
    "ct.tv": "recon.ct.iterative:TotalVariationCt",
    "ct.metal": "recon.ct.metal:Metal",
    "pet.gate": "acquisition.pet_gate:Gate",
    "pet.normalisation": "integration.pet_companions:NormalisationFile",
    "pet.attenuation": "integration.pet_companions:AttenuationFile",
    "pet.preview": "recon.pet.preview:Preview",
    "pet.osem": "recon.pet.osem:Osem",
    "pet.bsrem": "recon.pet.osem:Bsrem",
    "pet.svrg": "recon.pet.osem:Svrg",
    "pet.osem_motion": "recon.pet.motion:OsemMotion",
    "image.gibbs": "recon.mri.gibbs:Gibbs",
    "image.interpolate": "recon.mri.interpolate:Interpolate",
    "image.echoes": "recon.mri.echoes:CombineEchoes",
    "image.prescan": "integration.prescan:Prescan",
    "image.bias": "recon.mri.bias:Bias",
    "image.unwarp": "recon.mri.unwarp:Unwarp",
    "image.mpr": "recon.reformat:Reformat",
    "image.subtract": "recon.register:Subtract",
    "image.prior": "integration.prior:Prior",
    "plan.brain": "models.plan_step:PlanBrain",
    "image.outputs": "recon.mri.outputs:Outputs",
    "image.swi": "recon.mri.swi:Swi",
    "image.projection": "recon.mri.projection:Projection",
    "image.noise": "recon.noise:NoiseMap",
    "image.nlm": "recon.nlm:NonLocalMeans",
    "image.mppca": "recon.mri.mppca:MpPca",
    "image.nordic": "recon.mri.mppca:Nordic",
    "map.dixon": "recon.mri.dixon:Dixon",
    "map.relaxation": "recon.mri.relaxation:RelaxationMap",
    "map.diffusion": "recon.mri.diffusion:DiffusionMap",
    "map.t1_inversion": "recon.mri.t1:InversionMap",
    "map.t1_flip": "recon.mri.t1:FlipAngleMap",
    "map.velocity": "recon.mri.velocity:VelocityMap",
    "map.field": "recon.mri.echoes:FieldHz",
    "map.perfusion": "recon.mri.perfusion:PerfusionMap",
    "model.denoise": "models.denoise:Denoise",
    "model.unrolled": "models.unrolled:Unrolled",
    "model.lowdose": "integration.lowdose:LowDoseSeries",
    "check.ghost": "recon.mri.epi:CheckGhost",
    "check.image": "recon.checks:CheckImage",
    "check.mri_order": "acquisition.mri_order:CheckOrder",
    "check.mri_overflow": "acquisition.mri_overflow:CheckOverflow",
    "check.mri_noise": "acquisition.mri_noise_level:CheckNoise",
    "check.mri_interference": "acquisition.mri_interference:CheckInterference",
    "check.mri_drift": "acquisition.mri_drift:CheckDrift",
    "check.mri_waveform": "acquisition.mri_waveform:CheckWaveform",
    "check.mri_motion": "recon.mri.motion:CheckMotion",
    "check.mri_quality": "recon.mri.quality:CheckQuality",
    "check.mri_series": "recon.mri.quality_series:CheckSeries",
    "check.ct_quality": "recon.uniform_noise:CheckCtQuality",
    "check.pet_quality": "recon.uniform_noise:CheckPetQuality",
    "check.centre": "recon.plausible:CheckCentre",
    "check.plausible": "recon.plausible:CheckPlausible",
    "check.protocol": "integration.conformity:CheckProtocol",
    "check.ct_centre": "acquisition.ct_checks:CheckCentre",
    "check.ct_motion": "acquisition.ct_checks:CheckMotion",
    "check.ct_metal": "acquisition.ct_checks:CheckMetal",
    "check.ct_turn": "acquisition.ct_checks:CheckTurn",
    "check.ct_rings": "acquisition.ct_rings:CheckRings",
    "check.ct_range": "recon.ct.checks:CheckRange",
    "check.pet_motion": "acquisition.pet_motion:CheckMotion",
    "check.pet_blocks": "acquisition.pet_checks:CheckBlocks",
    "check.pet_rate": "acquisition.pet_checks:CheckRate",
    "check.pet_dose": "acquisition.pet_checks:CheckDose",
    "check.pet_ct": "recon.pet.alignment:CheckAlignment",
}
"""Where each Step lives."""

_EXTRAS = {"SimpleITK": "registration"}
"""Packages that only some Steps need, and the extra that brings them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a Step."""

    name: str
    """Its name."""
    type: Any
    """Its type."""
    default: object
    """Its value where a protocol is silent; MISSING where it must be given."""
    doc: str
    """What it means, with its unit."""

    @property
    def type_name(self) -> str:
        """Return the type in words."""
        return self.type.__name__ if inspect.isclass(self.type) else str(self.type).replace("typing.", "")


def step_class(name: str, *, where: str = "protocol") -> type:
    """Return the class behind a Step's name.

    Raises
    ------
    ConfigError
        No Step has this name.
    """
    if name not in STEPS:
        raise ConfigError(f"{where}: step {name!r}", expected=one_of(name, STEPS), got=repr(name))
    module, _, attribute = STEPS[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise ConfigError(
            f"{where}: step {name}",
            expected=f"the package {error.name}",
            got="not installed",
            action=f"pip install 'isocenter[{_EXTRAS[error.name]}]'",
        ) from error
    assert isinstance(found, type)
    return found


@cache
def parameters(name: str) -> dict[str, Parameter]:
    """Return the parameters of the Step `name`, in order."""
    cls = step_class(name)
    types, docs = get_type_hints(cls), _field_docs(cls)
    return {
        f.name: Parameter(name=f.name, type=types[f.name], default=_default(f), doc=docs.get(f.name, ""))
        for f in fields(cls)
        if f.init
    }


def make(name: str, values: Mapping[str, object], *, where: str = "protocol") -> Step:
    """Make the Step `name` with its parameters checked.

    Parameters
    ----------
    name
        One of `STEPS`.
    values
        Parameters by name; text is read as YAML, so that ``"4, 5"`` is a pair.
    where
        Named in errors.

    Raises
    ------
    ConfigError
        The Step or a parameter is unknown, a value is of the wrong type or out of range, or one is missing.
    """
    cls, known = step_class(name, where=where), parameters(name)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {name}.{key}", expected=one_of(key, known), got=repr(key))
    missing = [p.name for p in known.values() if p.default is MISSING and p.name not in values]
    if missing:
        raise ConfigError(f"{where}: {name}", expected=f"a value for {', '.join(missing)}", got="none")
    step: Step = cls(**{key: _checked(known[key], value, f"{where}: {name}") for key, value in values.items()})
    return step


def _checked(parameter: Parameter, value: object, where: str) -> object:
    adapter: TypeAdapter[object] = TypeAdapter(parameter.type)
    problem = ""
    for candidate in _readings(value):
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"]
    raise ConfigError(
        f"{where}.{parameter.name}", expected=parameter.type_name, got=f"{value!r} ({problem})", action=parameter.doc
    )


def _readings(value: object) -> list[object]:
    """Return what a value may mean: text from a command line or a console has no type of its own."""
    if isinstance(value, bool) or not isinstance(value, str):
        return [value]
    try:
        return [value, yaml.safe_load(value), yaml.safe_load(f"[{value}]")]
    except yaml.YAMLError:
        return [value]


def _default(field: Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _field_docs(cls: type) -> dict[str, str]:
    """Return the text under each field of a class."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
                docs[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return docs


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
