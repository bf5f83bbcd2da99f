"""``model.lowdose`` from a folder of DICOM objects to DICOM objects that say they are synthetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.items import Image, Item, Provenance
from acquisition.scan import Scan, Study
from acquisition.verdict import Level, Verdict
from integration.dicom.common import DicomInstance
from integration.dicom.mr import MrSeries
from integration.lowdose import LowDoseSeries
from integration.protocol import Library
from models import align
from recon.rigid import STILL
from tests.integration.dicom_samples import image_of, parsed, validate, written
from tests.integration.test_dicom_network import RECORD
from tests.models.lowdose import image, images, scan, slices
from tests.models.test_lowdose import card_in

SYNTHETIC = replace(RECORD, card="mr_lowdose", synthetic=True)


def objects(folder: Path, volume: Image, header: Scan | None = None) -> Path:
    """Write a volume as DICOM objects."""
    folder.mkdir(parents=True)
    for number, instance in enumerate(MrSeries(header or scan(uid="scan-before"), "job-0").instances(volume)):
        (folder / f"{number}.dcm").write_bytes(bytes(instance.data))
    return folder


def run(tmp_path: Path, low: Image, header: Scan | None = None, **values: Any) -> list[Item]:
    step = LowDoseSeries(card=str(card_in(tmp_path / "card")), engine="torch", **values)
    step.open(header or scan())
    return [i for s in slices(low) for i in step.feed(s)] + list(step.close())


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for motion: the volumes lie in one place, and their slices in one order."""

    def brought(low: Image, pre: Image, *, where: str) -> tuple[Any, Any]:
        return np.asarray(pre.data, np.float32).copy(), STILL

    monkeypatch.setattr(align, "brought", brought)


def told(items: list[Item]) -> str:
    (verdict,) = [i for i in items if isinstance(i, Verdict)]
    assert verdict.level is Level.FLAG
    return f"{verdict.check}: {verdict.advice}"


def test_a_series_before_gives_objects_that_say_what_they_are(tmp_path: Path) -> None:
    pre, low, _ = images()
    before = objects(tmp_path / "before", image(pre))
    items = run(tmp_path, image(low), before_folder=str(before))
    made = [i for i in items if isinstance(i, Image) and i.output != "conventional"]
    assert [i.output for i in made] == ["synthetic_full_dose", "synthetic_full_dose_uncertainty", "lowdose_support"]
    writer = MrSeries(scan(), "job-1")
    full, width, support = (parsed(writer.instances(i)[0]) for i in made)
    for ds in (full, width):
        assert ds.SyntheticData == "YES"
        assert ds.ImageType[0] == "DERIVED"
        assert ds.DerivationDescription.startswith("SYNTHETIC, not measured: predicted by the neural network sample")
        assert ds.ContributingEquipmentSequence[1].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        assert "ContrastBolusAgent" not in ds
    assert full.SeriesDescription == "t1_low (DL synthetic full dose 1)"
    assert "SyntheticData" not in support
    conventional = parsed(writer.instances(next(i for i in items if isinstance(i, Image)))[0])
    assert "SyntheticData" not in conventional
    assert conventional.ImageType[0] == "ORIGINAL"


def test_what_is_not_the_series_before(tmp_path: Path) -> None:
    pre, low, _ = images()
    other = scan(uid="scan-before", study=Study(instance_uid="1.2.3.5", body_part="BRAIN"))
    slow = scan(uid="scan-before", mr=replace(scan().require_mr(), te_s=(0.02,)))
    synthetic = replace(image(pre), output="synthetic", provenance=Provenance(network=SYNTHETIC))
    cases = {
        "of another exam": objects(tmp_path / "other", image(pre), other),
        "EchoTime 20, now 10": objects(tmp_path / "slow", image(pre), slow),
        "synthetic itself": objects(tmp_path / "synthetic", synthetic),
        "0 volumes": objects(tmp_path / "empty", image(pre)).parent / "nothing",
        "cannot be read": tmp_path / "missing",
    }
    (tmp_path / "nothing").mkdir()
    for why, folder in cases.items():
        assert why in told(run(tmp_path, image(low), before_folder=str(folder)))
    assert "before_folder" in told(run(tmp_path, image(low)))


def test_in_the_service_a_folder_lies_with_the_companions(tmp_path: Path) -> None:
    pre, low, _ = images()
    objects(tmp_path / "companions" / "before", image(pre))
    header = scan(companions=tmp_path / "companions")
    items = run(tmp_path, image(low), header, before_folder="before")
    assert any(isinstance(i, Image) and i.output == "synthetic_full_dose" for i in items)
    assert "within the service's folder" in told(run(tmp_path, image(low), header, before_folder="../before"))


@pytest.mark.peer("dciodvfy")
def test_a_synthetic_image_is_valid(tmp_path: Path) -> None:
    ours: DicomInstance = written(image_of(output="synthetic_full_dose", provenance=Provenance(network=SYNTHETIC)))[0]
    found = validate(ours.data, tmp_path)
    unknown = [e for e in found if "(0008,001c)" in e and "not a recognized standard attribute" in e]
    assert found == unknown  # the validator's dictionary is older than SyntheticData


def test_the_protocol_is_never_chosen_by_itself() -> None:
    library = Library()
    assert library["mri_lowdose"].match.never
    assert dict(library["mri_lowdose"].steps)["model.lowdose"]["card"] == "mr_lowdose"
