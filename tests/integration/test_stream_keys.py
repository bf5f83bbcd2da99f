"""Who may speak on the raw stream: CURVE keys, and where the door opens without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from acquisition.errors import ConfigError, SetupError
from acquisition.items import VIEW_HEAD, Projections
from integration.cli import OK, WRONG, run
from integration.doors.stream.call import StreamCall
from integration.doors.stream.client import StreamClient
from integration.doors.stream.keys import KeyPair, check_keys, make_keys, read_clients, read_keys
from integration.doors.stream.server import Keys, StreamServer
from integration.settings import Settings, read_settings
from tests.integration.doors_samples import serving
from tests.integration.stream_samples import Wire, ct, listening, mr, said


def client(port: int | None, **options: Any) -> StreamClient:
    return StreamClient(f"tcp://127.0.0.1:{port}", **options)


BLOCK = Projections(head=np.zeros(1, VIEW_HEAD), data=np.zeros((1, 8, 92), np.float32))


def keys_of(folder: Path) -> tuple[Keys, dict[str, KeyPair]]:
    pairs = {name: make_keys(folder / f"{name}.key") for name in ("service", "ct1", "stranger")}
    (folder / "clients").write_text(f"# scanners\nct1 {pairs['ct1'].public}\n")
    return Keys(own=read_keys(folder / "service.key"), clients=read_clients(folder / "clients")), pairs


def test_a_listed_key_is_let_in_by_its_name_and_others_are_not(tmp_path: Path) -> None:
    keys, pairs = keys_of(tmp_path)
    heard, names = list[Any](), list[str]()

    def handle(call: StreamCall) -> None:
        names.append(call.name)
        heard.extend(call.incoming())

    scan, _ = ct()
    with listening(handle, keys=keys) as server:
        with client(server.port, keys=pairs["ct1"], service_key=pairs["service"].public) as one:
            one.send(said(scan, [BLOCK]))
        assert names == ["ct1 at 127.0.0.1"] and len(heard) == 4
        for own, theirs in (("stranger", "service"), ("ct1", "stranger")):
            with (
                client(server.port, keys=pairs[own], service_key=pairs[theirs].public) as one,
                pytest.raises(SetupError, match=r"a service that knows our key, got (our key is refused|silence)"),
            ):
                one.send(said(scan, [BLOCK]))
        with Wire(server.port) as wire:  # no key at all
            wire.open(scan)
            assert wire.next(500) is None
    assert names == ["ct1 at 127.0.0.1"]


def test_without_keys_the_door_opens_on_the_loopback_only() -> None:
    server = StreamServer(lambda call: None, lambda: "j")
    with pytest.raises(SetupError, match=r"at 0\.0\.0\.0:0: expected keys, or a loopback address, got neither"):
        server.start("0.0.0.0", 0)


def test_a_taken_port_is_told() -> None:
    with listening(lambda call: None) as server, pytest.raises(SetupError, match="expected a free port"):
        StreamServer(lambda call: None, lambda: "j").start("127.0.0.1", server.port)


def test_key_files_are_kept_and_read_carefully(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert read_keys(tmp_path / "a.key") == pair == check_keys(pair) and pair.secret not in repr(pair)
    with pytest.raises(ConfigError, match="a new file"):
        make_keys(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(ConfigError, match="expected mode 600, got readable for others"):
        read_keys(tmp_path / "a.key")
    other = KeyPair(public=zmq.curve_keypair()[0].decode(), secret=pair.secret)
    with pytest.raises(ConfigError, match="a public key that belongs to the secret one"):
        check_keys(other)
    clients = tmp_path / "clients"
    for text, match in (
        (f"ct1 {pair.public}\nct2 {pair.public}\n", "each key once"),
        ("ct1\n", "line 1: expected a name and a key"),
        ("ct1 short\n", "line 1: expected a name and a key"),
        (f"c/t {pair.public}\n", "line 1: expected a name and a key"),
    ):
        clients.write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_clients(clients)
    with pytest.raises(ConfigError, match="a text file"):
        read_clients(tmp_path / "none")
    clients.write_text("public x\n")


def test_the_command_makes_keys_that_the_settings_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "stream.key"
    assert run(["keys", str(own)]) == OK
    public = capsys.readouterr().out.strip()
    assert run(["keys", str(own)]) == WRONG and "expected a new file" in capsys.readouterr().err
    clients = tmp_path / "clients"
    clients.write_text(f"ct1 {make_keys(tmp_path / 'ct1.key').public}\n")
    settings = Settings(data=tmp_path, stream_port=0, stream_key=own, stream_clients=clients, workers=2)
    made = settings.plan()
    assert made.stream_keys is not None and made.stream_keys.own.public == public
    assert list(made.stream_keys.clients.values()) == ["ct1"] and (made.stream_port, made.workers) == (0, 2)
    with pytest.raises(ConfigError, match="stream_key and stream_clients go together"):
        read_settings(None, stream_key=own)
    assert Settings().plan().stream_port is None


def test_a_service_with_keys_hears_its_scanners_only(tmp_path: Path) -> None:
    keys, pairs = keys_of(tmp_path)
    scan, items = mr()
    with serving(tmp_path / "data", stream_port=0, stream_keys=keys) as service:
        with client(service.stream_port, keys=pairs["ct1"], service_key=pairs["service"].public) as one:
            answers = one.send(said(scan, items))
        row = service.console.job(answers.job)
        assert row is not None and row.source == "ct1 at 127.0.0.1" and len(answers.images) == 3
        with Wire(service.stream_port or 0) as wire:
            wire.open(scan)
            assert wire.next(300) is None
