"""Which protocol a scan gets by itself, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from acquisition.errors import ConfigError, UnknownProtocolError
from acquisition.scan import Encoding, Limits, MrHeader, Scan, Study
from integration.protocol import Library
from integration.router import choose, explain


def scan(trajectory: str = "cartesian", *, matrix: tuple[int, int, int] = (1, 64, 128), **changes: object) -> Scan:
    encoding = Encoding(
        matrix=matrix,
        fov_mm=(5, 200, 400),
        recon_matrix=(matrix[0], 64, 64),
        recon_fov_mm=(5, 200, 200),
        trajectory=trajectory,
        limits={"contrast": Limits(0, 2, 0), "repetition": Limits(0, 9, 0)},
    )
    header = MrHeader(encodings=(encoding,), sequence_type="TurboSpinEcho")
    fields = {"uid": "s1", "modality": "MR", "mr": header, "protocol_name": "t2_tse_ax"} | changes
    return Scan(**fields)  # type: ignore[arg-type]


def library(folder: Path, **matches: dict[str, object]) -> Library:
    for name, match in matches.items():
        document = {"name": name, "modality": "MR", "description": "d", "match": match, "steps": ["mri.readout"]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return Library([folder])


def test_a_cartesian_scan_gets_the_cartesian_protocol() -> None:
    assert choose(Library(), scan()).name == "mri_cartesian"


@pytest.mark.parametrize(
    "match",
    [
        {"trajectory": ["cartesian"], "name": "tse"},
        {"trajectory": ["cartesian"], "sequence": "turbospin"},
        {"trajectory": ["cartesian"], "dimensions": 2},
        {"trajectory": ["cartesian"], "body_part": "knee"},
        {"trajectory": ["cartesian"], "min_contrasts": 3},
        {"trajectory": ["cartesian"], "min_repetitions": 10},
        {"trajectory": ["cartesian"], "parameter": "multiband"},
    ],
)
def test_more_criteria_win(tmp_path: Path, match: dict[str, object]) -> None:
    subject = scan(study=Study(body_part="KNEE"), user_parameters={"multiband": 2.0})
    found = choose(library(tmp_path, special=match), subject)
    assert found.name == "special"


@pytest.mark.parametrize(
    "match",
    [
        {"trajectory": ["cartesian"], "name": "flair"},
        {"trajectory": ["epi"]},
        {"trajectory": ["cartesian"], "dimensions": 3},
        {"trajectory": ["cartesian"], "min_contrasts": 4},
        {"trajectory": ["cartesian"], "parameter": "multiband"},
        {"trajectory": ["cartesian"], "dimensions": 2, "never": True},
    ],
)
def test_a_criterion_that_fails_excludes(tmp_path: Path, match: dict[str, object]) -> None:
    chosen = library(tmp_path, special=match)
    assert choose(chosen, scan()).name == "mri_cartesian"
    (special,) = [c for c in explain(chosen, scan()) if c.protocol.name == "special"]
    assert not special.fits
    assert special.objections


def test_a_tie_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one and two, equally well"):
        choose(library(tmp_path, one={"trajectory": ["spiral"]}, two={"trajectory": ["spiral"]}), scan("spiral"))


def test_nothing_fits_is_an_error_that_describes_the_scan() -> None:
    with pytest.raises(ConfigError, match="got MR, other trajectory, 2D, protocol t2_tse_ax, sequence TurboSpinEcho"):
        choose(Library(), scan("other"))


def test_a_name_is_never_replaced() -> None:
    assert choose(Library(), scan("other"), "mri_cartesian").name == "mri_cartesian"
    with pytest.raises(UnknownProtocolError):
        choose(Library(), scan(), "mri_fancy")
    with pytest.raises(ConfigError, match="a scan of modality MR, got CT"):
        choose(Library(), replace(scan(), modality="CT"), "mri_cartesian")


def test_the_best_comes_first_in_the_explanation(tmp_path: Path) -> None:
    found = explain(library(tmp_path, special={"trajectory": ["cartesian"], "name": "tse"}), scan())
    assert found[0].protocol.name == "special"
    assert found[0].reasons == ("modality MR", "trajectory cartesian: cartesian", "name tse: t2_tse_ax")
