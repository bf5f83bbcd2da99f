"""Protocols: what is wrong in a file is found when it is read, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from acquisition.errors import ConfigError, UnknownProtocolError
from integration.protocol import SHIPPED, Library, Protocol, load

GOOD = {
    "name": "good",
    "modality": "MR",
    "description": "A test.",
    "steps": ["mri.readout", "mri.assemble", {"mri.grappa": {"kernel": [2, 5]}}, "mri.combine"],
}


def written(folder: Path, document: object, name: str = "good") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_protocols_are_right(path: Path) -> None:
    protocol = load(path)
    assert len(protocol.build()) == len(protocol.steps)
    assert len(protocol.description) > 20


def test_a_protocol_builds_its_steps(tmp_path: Path) -> None:
    steps = load(written(tmp_path, GOOD)).build()
    assert [type(s).__name__ for s in steps] == ["ReadoutTransform", "Assemble", "Grappa", "Combine"]
    assert steps[2].kernel == (2, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": []}, r"stepz: expected one of .*did you mean steps\?.*unknown key"),
        ({"match": {"trajectry": ["epi"]}}, r"match.trajectry: expected one of .*did you mean trajectory"),
        ({"modality": "US"}, "modality"),
        ({"name": "other"}, "expected the name good, as the file, got other"),
        ({"name": "no/path"}, "name"),
        ({"steps": []}, "steps"),
        ({"steps": "mri.readout"}, "a list of steps"),
        ({"steps": [{"mri.readout": {}, "mri.assemble": {}}]}, "each step is a name"),
        ({"steps": [{"mri.grappa": 3}]}, "parameters of mri.grappa"),
        ({"steps": ["mri.magic"]}, "step 'mri.magic'"),
        ({"steps": [{"mri.grappa": {"lambda": 1}}]}, "mri.grappa.lambda: expected one of"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, GOOD | change))


@pytest.mark.parametrize(
    "text", ["", "- a list", "just text", "name: [", "\x00", "!!python/object/apply:os.system ['true']"]
)
def test_what_is_no_protocol_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"good\.yaml"):
        load(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load(tmp_path / "absent.yaml")


def test_a_library_holds_shipped_and_own_protocols(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    library = Library([tmp_path])
    assert {"mri_cartesian", "good"} <= {p.name for p in library}
    assert library.paths["good"] == tmp_path / "good.yaml"


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownProtocolError, match=r"auto, or one of .*mri_cartesian.*did you mean mri_cartesian\?"):
        Library()["mri_cartesain"]


def test_a_name_occurs_once(tmp_path: Path) -> None:
    written(tmp_path, GOOD | {"name": "mri_cartesian"}, "mri_cartesian")
    with pytest.raises(ConfigError, match="a name of its own"):
        Library([tmp_path])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protocol folder"):
        Library([tmp_path / "absent"])


def changed(**changes: object) -> Protocol:
    return Protocol.model_validate(GOOD).with_changes({k.replace("__", "."): v for k, v in changes.items()})


def test_changes_replace_values_and_leave_the_original() -> None:
    assert changed(mri__grappa__kernel="4, 3").build()[2].kernel == (4, 3)  # type: ignore[attr-defined]
    assert Protocol.model_validate(GOOD).build()[2].kernel == (2, 5)  # type: ignore[attr-defined]
    assert (
        "mri.grappa kernel=4, 3 flag_above=0.2"
        in changed(mri__grappa__kernel="4, 3", mri__grappa__flag_above=0.2).summary()
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mri.espirit.kernel", "a step of good"),
        ("kernel", "step.parameter"),
        ("mri.grappa.krnl", "did you mean kernel"),
    ],
)
def test_a_change_of_what_is_not_there_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Protocol.model_validate(GOOD).with_changes({key: 1})
