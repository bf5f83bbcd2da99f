"""A card: what a network is for, what it was trained on, what it may be given, how well it does, where it ends.

::

    name: mr_denoise
    version: 1.2.0
    ...
    input: {units: ["1"], kinds: [magnitude], noise: image, ranges: {snr: [5, 200]}}
    weights: {file: weights.safetensors, sha256: ..., size: 1234}

Nothing has a silent default that widens what the network may be used for. After Mitchell et al., Model Cards for Model
Reporting, FAT* 2019, DOI 10.1145/3287560.3287596.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from acquisition.errors import ConfigError, one_of

MAX_WEIGHTS = 20_000_000
"""Largest file of weights [bytes]."""
FILE = "card.yaml"
"""Name of a card within its folder."""
ANY = "ANY"
"""The anatomy of a network for every body part."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] <= pair[1]:
        raise ValueError("the smaller value comes first")
    return pair


def _sources(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        try:
            re.compile(name)
        except re.error as error:
            raise ValueError(f"a regular expression is expected, {name!r} is none: {error}") from error
    return names


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""Smallest and largest value, both included."""
Text = Annotated[str, Field(min_length=1)]


class Ranges(_Part):
    """What the network was shown in training; a quantity that is not named does not limit it."""

    snr: Range | None = None
    """Image's 95th percentile over its noise."""
    noise: Range | None = None
    """Standard deviation of the noise, in the image's unit."""
    voxel_mm: Range | None = None
    """Voxel size in the plane [mm]."""
    slice_mm: Range | None = None
    """Slice thickness [mm]."""
    acceleration: Range | None = None
    """Undersampling, all directions together."""
    field_strength_t: Range | None = None
    """Main field [T]."""
    ctdi_mgy: Range | None = None
    """CTDIvol [mGy]."""
    kvp: Range | None = None
    """Tube voltage [kV]."""
    activity_mbq: Range | None = None
    """Injected activity [MBq]."""


class Input(_Part):
    """What the network takes."""

    units: tuple[Text, ...] = Field(min_length=1)
    """Units of images: ``1`` (noise has standard deviation 1), a.u., HU, Bq/mL."""
    kinds: tuple[Literal["magnitude", "complex", "real"], ...] = Field(min_length=1)
    """Components of the complex image."""
    noise: Literal["image", "gfactor", "noise"] = "image"
    """Where the noise map comes from: one level for the image; or a series of this name, for which the image waits: a
    map of the g-factor, or of the noise itself."""
    dimensions: Literal[2, 3] = 2
    """2: slice by slice; 3: images that are volumes, as a whole."""
    figures: Literal["image", "object"] = "image"
    """What the score of foreign images looks at: all of an image, or the box around the object, where fields of view
    are far larger than it."""
    matrix: tuple[int, ...] = Field(default=(512, 512), min_length=2, max_length=3)
    """Matrix (y, x) or (z, y, x) that is prepared for where the scan's header names none."""
    ranges: Ranges
    """What it was shown in training."""

    @model_validator(mode="after")
    def _as_many(self) -> Input:
        if len(self.matrix) != self.dimensions:
            raise ValueError(f"matrix has {len(self.matrix)} numbers, dimensions says {self.dimensions}")
        return self


class Network(_Part):
    """The architecture."""

    name: Text
    """One of `models.nets.NETS`."""
    parameters: dict[str, int | float | str] = {}
    """Of its class."""
    precision: Literal["bf16", "f32"] = "bf16"
    """Precision of the fast engines."""
    tolerance: float = Field(gt=0, le=1, default=0.25)
    """How far engines may be apart: root mean square, in standard deviations of the noise."""


class Weights(_Part):
    """The numbers."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")
    """Beside the card."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole file."""
    size: int = Field(gt=0, le=MAX_WEIGHTS)
    """Of the file [bytes]."""


class Data(_Part):
    """A data set that was used."""

    name: Text
    """What it is, and where it comes from."""
    licence: Text
    """Its licence."""
    used_for: Literal["training", "calibration", "test"]
    """What it was used for; no item is used for two of them."""
    items: int = Field(gt=0)
    """Slices or volumes."""


class Training(_Part):
    """How the weights were made."""

    recipe: Text
    """Name of the recipe; ``isocenter models train RECIPE`` makes the weights again."""
    setting: Text
    """The recipe's setting: small fits two CPU cores and two hours."""
    seed: int
    """Of all chance."""
    steps: int = Field(gt=0)
    """Steps of the optimiser."""
    minutes: float = Field(gt=0)
    """Time it took [min]."""
    machine: Text
    """What it ran on."""
    data: tuple[Data, ...] = Field(min_length=1)
    """Everything that was used."""


class Metric(_Part):
    """One figure, measured on data that training never saw."""

    name: Text
    """What was measured, and where, e.g. PSNR in the object."""
    unit: str
    """Its unit."""
    value: float
    """Mean over the items."""
    ci95: Range
    """95 % confidence interval of the mean."""
    conventional: float | None = None
    """The same of the conventional image."""
    items: int = Field(gt=1)
    """How many the mean is of."""
    data: Text
    """Measured on."""

    @model_validator(mode="after")
    def _inside(self) -> Metric:
        if not self.ci95[0] <= self.value <= self.ci95[1]:
            raise ValueError(f"{self.name}: the value lies outside its confidence interval")
        return self


class Ood(_Part):
    """When an image is unlike those of the training; the statistics lie with the weights."""

    threshold: float = Field(gt=0)
    """Score above which the network is refused."""
    quantile: float = Field(gt=0.5, lt=1)
    """Part of the calibration data that lies below."""
    items: int = Field(gt=1)
    """Images of the calibration data."""


class Bound(_Part):
    """Limits of one figure."""

    flag_above: float = Field(gt=0)
    """Above it the image is marked."""
    flag_below: float = Field(default=0.0, ge=0)
    """Below it the image is marked, too: a network that finds hardly any noise was told of too much."""
    refuse_above: float = Field(gt=0)
    """Above it only the conventional image goes out."""


class Consistency(_Part):
    """What the network may have changed, in standard deviations of the noise."""

    rms: Bound
    """Root mean square of the change."""
    peak: Bound
    """Largest mean of the change in blocks of 8 x 8, times 8: for white noise a normal variable."""


class Uncertainty(_Part):
    """The half-width of an interval around each pixel, conformal on calibration data (see `models.uncertainty`)."""

    members: Literal[1, 2, 4] = 4
    """Mirror images that are averaged, and whose spread is used."""
    coverage: float = Field(gt=0.5, lt=1)
    """Part of the pixels of the calibration data whose truth lies in it."""
    factor: float = Field(gt=0)
    """Half-width over the scale."""
    floor: float = Field(gt=0)
    """Smallest scale, in standard deviations of the noise."""
    items: int = Field(gt=1)
    """Images of the calibration data."""


class Card(_Part):
    """Everything a person or a program must know before the network is used."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    """How protocols ask for it; the name of its folder."""
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    """Changes whenever the weights do."""
    title: Text
    """One line."""
    intended_use: Text
    """What for, for whom, and that it is research software."""
    modality: Literal["MR", "CT", "PT"]
    """DICOM modality."""
    anatomy: tuple[str, ...] = Field(min_length=1)
    """DICOM body parts it was trained on; ANY: all."""
    sequences: tuple[str, ...]
    """Regular expressions of which one is found in the scanner's names of protocol and sequence; empty: any."""
    input: Input
    """What it takes."""
    network: Network
    """The architecture."""
    weights: Weights
    """The numbers."""
    training: Training
    """How they were made."""
    metrics: tuple[Metric, ...] = Field(min_length=1)
    """How well it does."""
    ood: Ood
    """When an image is foreign."""
    consistency: Consistency
    """What it may change."""
    uncertainty: Uncertainty
    """How sure it is."""
    limits: tuple[Text, ...] = Field(min_length=1)
    """Where it ends: what is known to go wrong."""

    @field_validator("sequences")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _sources(value)

    def text(self) -> str:
        """Return the card as YAML."""
        document = self.model_dump(mode="json", exclude_none=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def read_card(path: Path) -> Card:
    """Read and check a card.

    Raises
    ------
    ConfigError
        It cannot be read, is no YAML, says something twice or unknown, or lacks something; the message says where.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"card {path}", expected="a YAML file", got=" ".join(str(error).split())) from error
    return parse_card(document, where=f"card {path}")


def parse_card(document: object, *, where: str) -> Card:
    """Check what a card says.

    Raises
    ------
    ConfigError
        Something is unknown, missing or out of range; the message says where.
    """
    if not isinstance(document, dict):
        raise ConfigError(where, expected=", ".join(Card.model_fields), got=repr(document)[:80])
    try:
        return Card.model_validate(document)
    except ValidationError as error:
        raise _told(where, error) from error


class _Strict(yaml.SafeLoader):
    """YAML in which no key comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _told(where: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "document"
    if first["type"] == "extra_forbidden":
        expected = one_of(str(first["loc"][-1]), _fields(first["loc"][:-1]))
        return ConfigError(f"{where}: {place}", expected=expected, got="an unknown key")
    if first["type"] == "missing":
        return ConfigError(f"{where}: {place}", expected="a value", got="none", action="a card says everything")
    return ConfigError(f"{where}: {place}", expected=first["msg"], got=repr(first["input"])[:120])


def _fields(place: Iterable[int | str]) -> Iterable[str]:
    """Return the known keys at a place within the card."""
    part: type[BaseModel] = Card
    for name in place:
        found = list(_parts(part.model_fields[name].annotation)) if name in part.model_fields else []
        part = found[0] if found else part
    return part.model_fields


def _parts(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _parts(inner)
