"""A network in a protocol, from raw data to files: two series more, and every object of them says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from acquisition.items import Enhancement, Image, Provenance
from acquisition.sources.mrd_image import decode_image, image_parts
from integration.dicom.enhanced_ct import enhanced_ct
from integration.export import FolderExporter
from integration.protocol import Library, Protocol
from integration.runner import Run
from models.nets import NETS
from tests.integration.dicom_ct_samples import ct_image, ct_scan, ct_writer
from tests.integration.dicom_samples import image_of, parsed, validate, written
from tests.models.samples import TEST_NETS, document, plain_card
from tests.phantoms import small_simulation

RECORD = Enhancement(card="mr_denoise", version="1.2.3", sha256="ab" * 32, strength=0.75, engine="openvino-bf16")


def enhanced(**changes: Any) -> Image:
    provenance = Provenance(protocol="gre", steps=tuple(f"step-{i} a=1" for i in range(200)), network=RECORD)
    return image_of(**{"output": "denoised", "provenance": provenance} | changes)


def told(ds: Dataset) -> None:
    """Assert that an object says what changed it."""
    assert ds.ImageType[0] == "DERIVED"
    for text in (ds.DerivationDescription, ds.ContributingEquipmentSequence[1].ContributionDescription):
        assert text.startswith("Enhanced by the neural network mr_denoise 1.2.3, strength 0.75, on openvino-bf16")
        assert "ab" * 32 in text
    assert "mr_denoise 1.2.3, strength 0.75" in ds.ImageComments
    ours, network = ds.ContributingEquipmentSequence
    assert (ours.ManufacturerModelName, network.ManufacturerModelName) == ("Isocenter", "network mr_denoise")
    assert network.SoftwareVersions == "1.2.3"
    assert network.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_an_mr_image_says_which_network_changed_it() -> None:
    ds = parsed(written(enhanced())[0])
    told(ds)
    assert ds.SeriesDescription == "brain_gre_ax (DL denoised 0.75)"
    assert ds.ImageType == ["DERIVED", "PRIMARY", "OTHER", "M"]


def test_the_conventional_image_says_nothing_of_it() -> None:
    ds = parsed(written(image_of())[0])
    assert ds.ImageType[0] == "ORIGINAL"
    assert "neural" not in ds.ImageComments + ds.DerivationDescription
    assert len(ds.ContributingEquipmentSequence) == 1


@pytest.mark.parametrize("output", ["denoised", "denoised_uncertainty"])
@pytest.mark.peer("dciodvfy")
def test_an_enhanced_image_is_valid(output: str, tmp_path: Path) -> None:
    assert validate(written(enhanced(output=output))[0].data, tmp_path) == []


def test_a_long_protocol_name_leaves_room(tmp_path: Path) -> None:
    from tests.integration.dicom_samples import full_scan

    text = written(enhanced(output="denoised_uncertainty"), full_scan(protocol_name="x" * 80))[0].description
    assert text.endswith(" (DL denoised uncertainty 0.75)")
    assert len(text) == 64


def test_ct_images_say_it_too_single_and_multi_frame() -> None:
    image = ct_image(output="denoised", provenance=Provenance(network=RECORD))
    ds = parsed(ct_writer().instances(image)[0])
    told(ds)
    assert ds.SeriesDescription == "abdomen (DL denoised 0.75)"
    whole = parsed(enhanced_ct(ct_scan(), "job-1", [image]))
    told(whole)
    assert whole.SeriesDescription == "abdomen (DL denoised 0.75) enhanced"
    plain = parsed(enhanced_ct(ct_scan(), "job-1", [ct_image()]))
    assert plain.SeriesDescription == "abdomen enhanced"


def test_the_scanner_is_told_and_the_record_comes_back() -> None:
    head, attributes, data = image_parts(enhanced(attributes={"DeepLearning": "true"}))
    assert b"DeepLearning" in attributes
    assert decode_image(head, attributes, data).provenance.network == RECORD


# From raw data to files


def protocol(card: Path, **values: Any) -> Protocol:
    shipped = Library()["mri_cartesian"]
    step = ("model.denoise", {"card": str(card), "engine": "torch", **values})
    return shipped.model_copy(update={"steps": (*shipped.steps, step)})


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(NETS, "blur", TEST_NETS["blur"])
    bounds = {name: {"flag_above": 90.0, "refuse_above": 99.0} for name in ("rms", "peak")}
    everything = {
        "anatomy": ["ANY"],
        "ood": {"threshold": 1e6, "quantile": 0.99, "items": 40},
        "consistency": bounds,
        "input": document()["input"] | {"ranges": {}},
    }
    return plain_card(tmp_path / "card", "blur", **everything)


def exported(of: Protocol, folder: Path) -> tuple[Run, dict[str, list[Dataset]]]:
    """Play a small exam; return the run and its objects by series, in the order of their files."""
    simulation = small_simulation(snr=20.0, n_noise=8)
    run, exporter = Run(simulation.scan, of), FolderExporter(folder, simulation.scan, job="job-1")
    run.open()
    images = [i for block in simulation.readouts() for i in run.feed(block)] + list(run.close())
    for image in images:
        exporter.send(image)
    series: dict[str, list[Dataset]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        series.setdefault(path.parent.name, []).append(dcmread(path))
    return run, series


def test_a_protocol_with_a_network_gives_both_and_the_conventional_one_is_the_same(card: Path, tmp_path: Path) -> None:
    run, series = exported(protocol(card, strength=0.5), tmp_path / "with")
    assert run.summary.images == {"conventional": 3, "denoised": 3, "denoised_uncertainty": 3}
    _, without = exported(Library()["mri_cartesian"], tmp_path / "without")
    (plain,) = without.values()
    names = [s[0].SeriesDescription.removeprefix(plain[0].SeriesDescription).strip() for s in series.values()]
    assert sorted(names) == ["", "(DL denoised 0.5)", "(DL denoised uncertainty 0.5)"]
    conventional = series[next(iter(without))]
    for a, b in zip(conventional, plain, strict=True):
        assert np.array_equal(a.pixel_array, b.pixel_array)
    numbers = {s[0].SeriesNumber % 100 for s in series.values()}
    assert numbers == {0, 1, 2}
    assert len({s[0].SeriesInstanceUID for s in series.values()}) == 3


def test_a_network_that_is_refused_is_a_finding_of_the_scan(card: Path, tmp_path: Path) -> None:
    weights = card / "weights.safetensors"
    of = protocol(card)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\1")
    run, series = exported(of, tmp_path / "out")
    assert run.summary.images == {"conventional": 3}
    assert len(series) == 1
    (verdict,) = [v for v in run.verdicts if v.check == "model.denoise.setup"]
    assert "3 of 3 images were not enhanced" in verdict.advice
