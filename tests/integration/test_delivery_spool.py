"""The spool loses nothing, replaces nothing, and says when it is full."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acquisition.errors import DeliveryError, StorageFullError
from integration.delivery import spool as module
from integration.delivery.spool import Spool, digest, sop_uid_of, write_durably

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def test_what_was_written_is_read_back(spool: Spool) -> None:
    path = spool.write("1.2.3", b"image")
    assert path.read_bytes() == b"image"
    assert sop_uid_of(path) == "1.2.3"
    assert spool.write("1.2.3", b"image") == path


def test_other_bytes_of_the_same_uid_never_replace_the_first(spool: Spool) -> None:
    first, second = spool.write("1.2.3", b"one"), spool.write("1.2.3", b"two")
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2/3", "", "1..2", "1.2.", "a.b", "1" * 65, "1.2\n"])
def test_a_uid_that_is_none_cannot_become_a_path(spool: Spool, uid: str) -> None:
    with pytest.raises(DeliveryError, match="expected a DICOM UID"):
        spool.write(uid, b"x")
    assert list(spool.directory.iterdir()) == []


def test_below_the_reserve_it_refuses_and_writes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=1 << 62)
    with pytest.raises(StorageFullError, match=r"MB free.*Free disk space"):
        spool.write("1.2.3", b"image")
    assert list(spool.directory.iterdir()) == []


def test_the_watermark_moves_with_the_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.reserve_bytes = 1000

    class Disk:
        f_frsize, f_bavail = 1, 1500

    monkeypatch.setattr(module.os, "statvfs", lambda _: Disk)
    spool.write("1.2.3", b"x" * 500)
    with pytest.raises(StorageFullError):
        spool.write("1.2.4", b"x" * 501)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError), (errno.EIO, DeliveryError)]
)
def test_a_disk_that_fails_in_the_middle_leaves_nothing_half(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[DeliveryError]
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "fdatasync", fail)
    with pytest.raises(kind, match=os.strerror(code)):
        spool.write("1.2.3", b"image")
    assert list(spool.directory.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", reserve_bytes=0)
    spool.require = lambda n: None  # type: ignore[method-assign]
    kept = []
    with pytest.raises(StorageFullError, match="No space left"):
        for i in range(20):
            kept.append(spool.write(f"1.2.{i}", bytes([i]) * 10_000))
    assert 3 <= len(kept) <= 6
    assert all(p.read_bytes() == bytes([i]) * 10_000 for i, p in enumerate(kept))
    assert sorted(spool.directory.iterdir()) == sorted(kept)


def test_remove_takes_only_its_own_files(spool: Spool, tmp_path: Path) -> None:
    path = spool.write("1.2.3", b"image")
    spool.remove(path)
    spool.remove(path)
    assert not path.exists()
    (other := tmp_path / "other.dcm").write_bytes(b"keep")
    with pytest.raises(DeliveryError, match="a file of this spool"):
        spool.remove(other)
    assert other.exists()


def test_sweep_finds_orphans_and_clears_only_old_fragments(spool: Spool) -> None:
    known, orphan = spool.write("1.2.3", b"known"), spool.write("1.2.4", b"orphan")
    old, new = spool.directory / ".1.2.5.x.dcm.1.1.tmp", spool.directory / ".1.2.6.x.dcm.1.1.tmp"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 1000, time.time() - 1000))
    assert spool.sweep([str(known)]) == [orphan]
    assert orphan.read_bytes() == b"orphan"
    assert (old.exists(), new.exists()) == (False, True)


_WRITER = """
import sys, pathlib
from integration.delivery.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]), reserve_bytes=0)
for i in range(100000):
    path = spool.write(f"1.2.{i}", bytes([i % 251]) * (20000 + i))
    print(path.name, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_every_acknowledged_file_is_whole(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "spool"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, folder], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as writer:
        assert writer.stdout
        names = [writer.stdout.readline().strip()]
        time.sleep(random.Random(seed).uniform(0.02, 0.2))
        os.kill(writer.pid, signal.SIGKILL)
        names += writer.stdout.read().split()
    for path in folder.glob("*.dcm"):
        assert digest(path.read_bytes()).startswith(path.name.split(".")[-2])
    whole = [n for n in names if n.endswith(".dcm")]
    assert whole and all((folder / n).exists() for n in whole)


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    write_durably(path, b"old")
    monkeypatch.setattr(module.os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
