"""A protocol: a list of Steps with their parameters, in a YAML file; nothing in it is executed.

::

    name: mri_cartesian
    modality: MR
    description: 2D and 3D Cartesian, GRAPPA up to 4.
    match: {trajectory: [cartesian]}       # the router takes it for scans like this
    steps:
      - mri.prewhiten: {}
      - mri.grappa: {kernel: [4, 5]}

A site's own protocols lie in folders named in its settings; one that has the name of a shipped one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from acquisition.errors import ConfigError, UnknownProtocolError
from acquisition.stream import Step
from integration import steps

SHIPPED = Path(__file__).parent / "protocols"
"""Folder of the protocols that come with the program."""


class Match(BaseModel):
    """For which scans the router takes a protocol: every criterion given must hold. Texts are regular expressions,
    searched for without regard to case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trajectory: tuple[str, ...] = ()
    """Trajectories of the first encoding: cartesian, epi, radial, goldenangle, spiral, other; of CT: axial, helical."""
    dimensions: Literal[2, 3] | None = None
    """2: slices, 3: a slab with encoding along k2."""
    name: str = ""
    """The scanner's name of its protocol."""
    sequence: str = ""
    """The sequence type."""
    body_part: str = ""
    """The body part examined."""
    min_contrasts: int = 1
    """At least so many echoes or contrasts."""
    min_repetitions: int = 1
    """At least so many repetitions."""
    min_weightings: int = 0
    """At least so many different diffusion weightings."""
    beyond_grappa: bool = False
    """Undersampled in a way that mri.grappa cannot undo: along k2, by a fraction, or by more than 4."""
    lattice: bool = False
    """Undersampled along k2 (and k1) by whole numbers up to 4: what mri.grappa_3d undoes."""
    multiband: bool = False
    """Several slices are measured together (user parameter multiband above 1)."""
    detector: Literal["", "cylindrical", "flat"] = ""
    """Shape of a CT scanner's detector."""
    parameter: str = ""
    """A vendor's parameter of this name is there and not zero."""
    never: bool = False
    """Only for scans that ask for it by name."""


class Protocol(BaseModel):
    """One protocol; validated when it is read, so that a scan never finds out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """How scanners ask for it; the name of its file."""
    modality: Literal["MR", "CT", "PT"]
    """For scans of this modality only."""
    description: str
    """What it does, for people."""
    match: Match = Match()
    """When the router takes it."""
    steps: tuple[tuple[str, dict[str, Any]], ...] = Field(min_length=1)
    """Names and parameters."""

    @field_validator("steps", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError("a list of steps is expected")
        return tuple(_pair(row) for row in value)

    @cached_property
    def step_names(self) -> tuple[str, ...]:
        """Names of the Steps, in order."""
        return tuple(name for name, _ in self.steps)

    def build(self) -> list[Step]:
        """Make the Steps.

        Raises
        ------
        ConfigError
            A Step or a parameter is wrong.
        """
        return [steps.make(name, values, where=f"protocol {self.name}") for name, values in self.steps]

    def with_changes(self, changes: Mapping[str, object]) -> Protocol:
        """Return the protocol with the values of ``step.parameter`` replaced.

        Raises
        ------
        ConfigError
            No such Step in it, no such parameter, or a wrong value.
        """
        changed = [(name, dict(values)) for name, values in self.steps]
        for key, value in changes.items():
            step, _, parameter = key.rpartition(".")
            if step not in self.step_names:
                raise ConfigError(
                    f"change {key}",
                    expected=f"step.parameter with a step of {self.name}: {', '.join(self.step_names)}",
                    got=repr(key),
                    action="for example mri.grappa.regularisation=1e-3",
                )
            for name, values in changed:
                if name == step:
                    values[parameter] = value
        result = self.model_copy(update={"steps": tuple(changed)})
        result.build()
        return result

    def summary(self) -> tuple[str, ...]:
        """Return one line per Step with the parameters given, for an image's provenance."""
        return tuple(f"{name} {_inline(values)}".strip() for name, values in self.steps)


def _pair(row: object) -> tuple[str, dict[str, Any]]:
    """Read one row: ``name`` or ``{name: {parameter: value}}``."""
    if isinstance(row, str):
        return row, {}
    if isinstance(row, tuple) and len(row) == 2:
        return row
    if not isinstance(row, Mapping) or len(row) != 1:
        raise ValueError(f"each step is a name, or a name with its parameters; got {row!r}")
    name, values = next(iter(row.items()))
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"the parameters of {name} are `name: value` pairs; got {values!r}")
    return str(name), dict(values or {})


def _inline(values: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def load(path: Path) -> Protocol:
    """Read and check one protocol.

    Raises
    ------
    ConfigError
        The file cannot be read, is no YAML, or says something unknown; the message says where.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"protocol {path}", expected="a YAML file", got=" ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise ConfigError(f"protocol {path}", expected="name, modality, description, steps", got=repr(document)[:80])
    try:
        protocol = Protocol.model_validate(document)
    except ValidationError as error:
        raise _told(path, error) from error
    if protocol.name != path.stem:
        raise ConfigError(f"protocol {path}", expected=f"the name {path.stem}, as the file", got=protocol.name)
    protocol.build()
    return protocol


def _told(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "document"
    if first["type"] == "extra_forbidden":
        known = Match.model_fields if first["loc"][0] == "match" else Protocol.model_fields
        expected = steps.one_of(str(first["loc"][-1]), known)
        return ConfigError(f"protocol {path}: {place}", expected=expected, got="an unknown key")
    return ConfigError(f"protocol {path}: {place}", expected=first["msg"], got=repr(first["input"])[:120])


class Library:
    """All protocols of a service: the shipped ones and the site's.

    Parameters
    ----------
    folders
        The site's folders of YAML files.

    Raises
    ------
    ConfigError
        A file is wrong, or a name occurs twice.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._protocols: dict[str, Protocol] = {}
        self.paths: dict[str, Path] = {}
        for folder in (SHIPPED, *folders):
            if not folder.is_dir():
                raise ConfigError(f"protocol folder {folder}", expected="a folder", got="none", action="create it")
            for path in sorted(folder.glob("*.yaml")):
                self._add(load(path), path)

    def _add(self, protocol: Protocol, path: Path) -> None:
        if protocol.name in self._protocols:
            raise ConfigError(
                f"protocol {path}",
                expected="a name of its own",
                got=f"{protocol.name}, which is {self.paths[protocol.name]}",
                action="rename the file and its `name`",
            )
        self._protocols[protocol.name], self.paths[protocol.name] = protocol, path

    def __iter__(self) -> Any:
        return iter(self._protocols.values())

    def __getitem__(self, name: str) -> Protocol:
        """Return the protocol `name`.

        Raises
        ------
        UnknownProtocolError
            There is none; the message lists those there are.
        """
        if name not in self._protocols:
            raise UnknownProtocolError(
                f"protocol {name!r}",
                expected=f"auto, or {steps.one_of(name, self._protocols)}",
                got=repr(name),
                action="correct the name at the scanner, or add the protocol",
            )
        return self._protocols[name]


__all__ = ["SHIPPED", "Library", "Match", "Protocol", "load"]
