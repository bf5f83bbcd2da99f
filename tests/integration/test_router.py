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
    header = MrHeader(encodings=(encoding,), sequence_type="Flash")
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
        {"trajectory": ["cartesian"], "sequence": "fla"},
        {"trajectory": ["cartesian"], "dimensions": 2},
        {"trajectory": ["cartesian"], "body_part": "knee"},
        {"trajectory": ["cartesian"], "min_contrasts": 3},
        {"trajectory": ["cartesian"], "min_repetitions": 10},
        {"trajectory": ["cartesian"], "parameter": "fatsat"},
    ],
)
def test_more_criteria_win(tmp_path: Path, match: dict[str, object]) -> None:
    subject = scan(study=Study(body_part="KNEE"), user_parameters={"fatsat": 2.0})
    found = choose(library(tmp_path, special=match), subject)
    assert found.name == "special"


@pytest.mark.parametrize(
    "match",
    [
        {"trajectory": ["cartesian"], "name": "flair"},
        {"trajectory": ["epi"]},
        {"trajectory": ["cartesian"], "dimensions": 3},
        {"trajectory": ["cartesian"], "min_contrasts": 4},
        {"trajectory": ["cartesian"], "parameter": "fatsat"},
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
        choose(library(tmp_path, one={"trajectory": ["zigzag"]}, two={"trajectory": ["zigzag"]}), scan("zigzag"))


def test_nothing_fits_is_an_error_that_describes_the_scan() -> None:
    with pytest.raises(ConfigError, match="got MR, zigzag trajectory, 2D, protocol t2_tse_ax, sequence Flash"):
        choose(Library(), scan("zigzag"))


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


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"protocol_name": "t1_tse_sag", "sequence": "TurboSpinEcho"}, "mri_tse"),
        ({"protocol_name": "SWI_3D", "sequence": "Flash"}, "mri_swi"),
        ({"protocol_name": "TOF_3D_multi-slab", "sequence": "Flash"}, "mri_tof"),
        ({"protocol_name": "t2_map_knee", "sequence": "TurboSpinEcho"}, "mri_t2_map"),
        ({"protocol_name": "ep2d_diff", "trajectory": "epi"}, "mri_epi"),
        ({"protocol_name": "cine_realtime", "trajectory": "goldenangle"}, "mri_radial_realtime"),
        ({"protocol_name": "spiral_fmri", "trajectory": "spiral"}, "mri_spiral"),
        ({"protocol_name": "gre_ax", "sequence": "Flash"}, "mri_cartesian"),
        ({"protocol_name": "t1_mprage_sag", "dimensions": "3"}, "mri_mprage"),
        ({"protocol_name": "t1_mprage_sag", "dimensions": "3", "acceleration": "2"}, "mri_mprage_caipi"),
        ({"protocol_name": "t1_mprage_cs", "dimensions": "3", "parameter": "irregular_sampling"}, "mri_mprage_cs"),
        ({"protocol_name": "pd_tse_fs_cor", "sequence": "TurboSpinEcho", "body_part": "KNEE"}, "mri_knee"),
        ({"protocol_name": "ep2d_diff", "trajectory": "epi", "b": "yes"}, "mri_dwi"),
        ({"protocol_name": "ep2d_perf", "trajectory": "epi"}, "mri_perfusion"),
        ({"protocol_name": "flow_ao", "parameter": "venc"}, "mri_flow"),
        ({"protocol_name": "gre_field_mapping"}, "mri_field_map"),
        ({"protocol_name": "t2_me2d_sag"}, "mri_multi_echo"),
        ({"protocol_name": "cv_t1_molli"}, "mri_molli"),
        ({"protocol_name": "t1_map_ir"}, "mri_t1_map"),
        ({"protocol_name": "t2_blade_tra", "trajectory": "other"}, "mri_propeller"),
        ({"protocol_name": "grasp_vibe", "trajectory": "goldenangle"}, "mri_grasp"),
    ],
)
def test_usual_scans_get_what_is_made_for_them(changes: dict[str, str], name: str) -> None:
    subject = scan(changes.get("trajectory", "cartesian"), protocol_name=changes["protocol_name"])
    assert subject.mr is not None
    encoding = subject.mr.encodings[0]
    if "dimensions" in changes:
        limits = {**encoding.limits, "k2": Limits(0, 15, 8)}
        encoding = replace(encoding, matrix=(16, *encoding.matrix[1:]), limits=limits)
        encoding = replace(encoding, acceleration=(float(changes.get("acceleration", 1)), 2.0))
    if changes["protocol_name"] == "ep2d_perf":
        encoding = replace(encoding, limits={"repetition": Limits(0, 49, 0)})
    header = replace(subject.mr, sequence_type=changes.get("sequence", ""), encodings=(encoding,))
    if "b" in changes:
        header = replace(header, diffusion_b_s_per_mm2=(0.0, 1000.0))
    subject = replace(
        subject,
        mr=header,
        study=Study(body_part=changes.get("body_part")),
        user_parameters={changes["parameter"]: 100.0} if "parameter" in changes else {},
    )
    assert choose(Library(), subject).name == name


@pytest.mark.parametrize(("factor", "name"), [(1.0, "mri_cartesian"), (3.0, "mri_sms")])
def test_slices_measured_together_are_taken_apart(factor: float, name: str) -> None:
    assert choose(Library(), scan(protocol_name="x", user_parameters={"multiband": factor})).name == name


def test_a_sites_own_protocol_goes_first_among_equals(tmp_path: Path) -> None:
    assert choose(library(tmp_path, own={"trajectory": ["other"]}), scan("other")).name == "own"


@pytest.mark.parametrize(
    ("acceleration", "name"),
    [
        ((1.0, 4.0), "mri_cartesian"),
        ((2.0, 2.0), "mri_sense"),
        ((1.0, 2.3), "mri_sense"),
        ((1.0, 6.0), "mri_sense"),
    ],
)
def test_what_grappa_cannot_undo_goes_to_sense(acceleration: tuple[float, float], name: str) -> None:
    subject = scan(protocol_name="t1_mprage")
    assert subject.mr is not None
    encoding = replace(subject.mr.encodings[0], acceleration=acceleration)
    subject = replace(subject, mr=replace(subject.mr, encodings=(encoding,)))
    assert choose(Library(), subject).name == name
