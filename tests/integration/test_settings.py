"""Settings: a file, the command line over it, and every wrong key named."""

from __future__ import annotations

from pathlib import Path

import pytest

from acquisition.errors import ConfigError
from integration.settings import Settings, default_data, parse_archive, read_settings

FILE = """
data: /var/lib/isocenter
http_port: null
limits: {connections: 3}
destinations:
  - {name: pacs, host: pacs.example, port: 104, ae_title: PACS}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "isocenter.yaml"
    path.write_text(text)
    return path


def test_everything_has_a_default_and_listens_on_the_loopback_only() -> None:
    settings = read_settings(None)
    assert (settings.host, settings.mrd_port, settings.http_port) == ("127.0.0.1", 9002, 8080)
    assert settings.plan().destinations == ()
    assert settings.threads >= 1


def test_the_data_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data() == tmp_path / "isocenter"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data() == Path.home() / ".local" / "share" / "isocenter"


def test_the_command_line_stands_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    settings = read_settings(path, mrd_port=0, host=None)
    assert (settings.mrd_port, settings.http_port, settings.limits.connections) == (0, None, 3)
    assert settings.data == Path("/var/lib/isocenter")
    assert settings.destinations[0].ae_title == "PACS"
    plan = settings.plan()
    assert (plan.mrd_port, plan.limits.connections, plan.reserve_bytes) == (0, 3, 2 << 30)


def test_a_console_has_memory_for_pictures_and_stays_on_the_loopback(tmp_path: Path) -> None:
    assert read_settings(None).plan().picture_bytes == 0
    assert read_settings(None, console=True).plan().picture_bytes == 512 << 20
    text = "{console: true, console_mib: 64, host: localhost}"
    assert read_settings(written(tmp_path, text)).plan().picture_bytes == 64 << 20
    with pytest.raises(ConfigError, match=r"no console at 0\.0\.0\.0: it shows patients and has no password"):
        read_settings(None, console=True, host="0.0.0.0")
    with pytest.raises(ConfigError, match="needs an HTTP port"):
        read_settings(written(tmp_path, "{console: true, http_port: null}"))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, "# nothing yet\n")) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mrd_prt: 1", r"mrd_prt: expected one of .*did you mean mrd_port\?"),
        ("mrd_port: many", "mrd_port: expected .*integer"),
        ("mrd_port: 70000", "65535"),
        ("limits: {conections: 1}", "limits.conections"),
        ("destinations: [{name: a}]", r"destinations\.0\.host"),
        ("destinations: [{name: a b, host: h, port: 1, ae_title: X}]", r"destinations\.0\.name"),
        ("- list", "`key: value` pairs"),
        ("a: [", "a YAML file"),
        ("\xe9", "pairs"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(written(tmp_path, text))


def test_destinations_have_names_of_their_own(tmp_path: Path) -> None:
    twice = "destinations:\n" + "  - {name: pacs, host: h, port: 104, ae_title: P}\n" * 2
    with pytest.raises(ConfigError, match="a name of its own; got pacs, pacs"):
        read_settings(written(tmp_path, twice))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_settings(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"data: \xff\xfe")
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        read_settings(tmp_path / "latin.yaml")


def test_an_archive_is_one_word_on_the_command_line() -> None:
    first, second = parse_archive("127.0.0.1:4242:ORTHANC"), parse_archive("[::1]:104:PACS", index=1)
    assert (first.name, first.host, first.port, first.ae_title) == ("archive", "127.0.0.1", 4242, "ORTHANC")
    assert (second.name, second.host) == ("archive2", "::1")


@pytest.mark.parametrize("text", ["", "host", "host:104", "host:x:AET", "host:0:AET", "host:104:" + "A" * 17])
def test_an_archive_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT:AETITLE"):
        parse_archive(text)
