"""The doctor: healthy where it is, and each fault found when it is planted."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from acquisition.errors import SetupError
from integration import names
from integration.delivery.destination import Destination
from integration.dicom.archive import Archive, Folder
from integration.doctor import Finding, Health, examine
from integration.settings import Settings
from tests.integration.delivery_samples import settled


def settings(folder: Path, **changes: object) -> Settings:
    return Settings.model_validate({"data": folder, "mrd_port": 0, "http_port": 0} | changes)


def found(chosen: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(chosen)}


def test_a_fit_computer_has_no_fault(tmp_path: Path) -> None:
    report = found(settings(tmp_path, reserve_gib=0))
    assert [f for f in report.values() if f.health is Health.FAULT] == []
    assert "torch" in report["environment"].text
    assert report["archive"].health is Health.NOTE


def test_a_data_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = found(settings(tmp_path / "file" / "data"))
    assert report["data folder"].health is Health.FAULT
    assert "--data" in report["data folder"].text


def test_a_full_disk_is_a_fault(tmp_path: Path) -> None:
    report = found(settings(tmp_path, reserve_gib=1e9))
    assert report["data folder"].health is Health.FAULT
    assert "Make room" in report["data folder"].text


def test_a_wrong_protocol_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad")
    report = found(settings(tmp_path, protocols=[tmp_path]))
    assert report["protocols"].health is Health.FAULT
    assert "bad.yaml" in report["protocols"].text


def test_a_taken_port_is_noted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        report = found(settings(tmp_path, mrd_port=taken.getsockname()[1]))
    assert report["scanner port"].health is Health.NOTE
    assert "is running now" in report["scanner port"].text


def test_an_open_address_is_noted(tmp_path: Path) -> None:
    assert "no password" in found(settings(tmp_path, host="0.0.0.0"))["address"].text


def test_archives_are_asked(tmp_path: Path) -> None:
    archive = Archive(Folder(tmp_path / "archive", reserve_bytes=0), "PACS")
    port = archive.start("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    common = {"host": "127.0.0.1", "ae_title": "PACS"}
    try:
        report = found(
            settings(
                tmp_path,
                destinations=[
                    Destination(name="good", port=port, **common),
                    Destination(name="dead", port=free, **common),
                    Destination(name="off", port=free, enabled=False, **common),
                    Destination(name="other", port=port, **(common | {"ae_title": "SOMEONE"})),
                ],
            )
        )
    finally:
        settled()
        archive.stop()
    assert report["archive good"].health is Health.OK
    assert report["archive dead"].health is Health.FAULT
    assert "does not answer" in report["archive dead"].text
    assert report["archive off"].health is Health.NOTE
    assert report["archive other"].health is Health.FAULT


def test_our_package_names_are_ours_alone() -> None:
    assert names.clashes() == {}
    names.require_own_names()


def test_a_package_of_the_same_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"models": ["isocenter", "django-models"], "recon": ["isocenter"], "other": ["x"]}
    assert names.clashes(owners) == {"models": ["django-models"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    with pytest.raises(SetupError, match="pip uninstall django-models"):
        names.require_own_names()
