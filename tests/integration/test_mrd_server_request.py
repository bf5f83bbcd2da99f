"""What a client asks for, in every form that clients send it, and the box between two threads."""

from __future__ import annotations

import json
import threading
import time

import pytest

from acquisition.errors import ConfigError
from integration.doors.mailbox import Mailbox
from integration.doors.request import AUTO, Request, from_name, from_remark, from_text


@pytest.mark.parametrize("name", ["mri_cartesian", "mri_cartesian.xml", "  mri_cartesian \n"])
def test_a_config_file_names_a_protocol(name: str) -> None:
    assert from_name(name) == Request(protocol="mri_cartesian")


def test_auto_is_a_name_like_any_other_here() -> None:
    assert from_name("auto").protocol == AUTO


@pytest.mark.parametrize("name", ["", "   ", ".xml", "a" * 201, "bad\x07name"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name of a protocol"):
        from_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mri_cartesian", Request(protocol="mri_cartesian")),
        ('{"protocol": "p"}', Request(protocol="p")),
        ('{"protocol": "p", "set": {"a.b": 3}}', Request(protocol="p", changes={"a.b": 3})),
        ('{"version": "1", "parameters": {"config": "p"}}', Request(protocol="p")),
        ('{"parameters": {"config": "p", "customconfig": ""}}', Request(protocol="p")),
        ('{"parameters": {"config": "p", "customconfig": "q.xml"}}', Request(protocol="q")),
        (
            '{"parameters": {"config": "p", "a.b": "1", "sendOriginal": true}}',
            Request(protocol="p", changes={"a.b": "1"}, unused=("sendOriginal",)),
        ),
    ],
)
def test_config_texts(text: str, expected: Request) -> None:
    assert from_text(text) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<gadgetronStreamConfiguration/>", "Gadgetron"),
        ("{not json", "JSON"),
        ('{"protocol": "p", "sett": {}}', "protocol, sett"),
        ('{"set": {}}', "keys set"),
        ('{"protocol": 3}', "keys protocol"),
        ('{"protocol": "p", "set": []}', "step.parameter"),
        ('{"parameters": {"other": 1}}', "`config`"),
        ('{"parameters": []}', "an object"),
        ("{" * 100_000, "JSON"),
    ],
)
def test_broken_config_texts_say_what_was_expected(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        from_text(text)


def test_what_the_console_set_in_vain_is_flagged() -> None:
    (verdict,) = from_text('{"parameters": {"config": "p", "denoise": "on"}}').verdicts()
    assert (verdict.check, verdict.level) == ("scan.parameters", "FLAG")
    assert "denoise" in verdict.evidence
    assert Request(protocol="p").verdicts() == ()


@pytest.mark.parametrize(
    "text", ["patient moved", "{half a line", '{"a": 1}', '{"parameters": {}}', '{"parameters": 1}', ""]
)
def test_other_remarks_are_for_the_log(text: str) -> None:
    assert from_remark(text) is None


def test_a_remark_may_name_the_protocol() -> None:
    assert from_remark(json.dumps({"parameters": {"config": "q"}})) == Request(protocol="q")


def test_the_box_is_first_in_first_out_and_ends_when_closed() -> None:
    box: Mailbox[int] = Mailbox(100)
    assert all(box.put(i, 10) for i in range(5))
    box.close()
    assert not box.put(9)
    assert list(box) == [0, 1, 2, 3, 4]
    assert box.held_bytes == 0


def test_the_box_makes_its_giver_wait() -> None:
    box: Mailbox[int] = Mailbox(10)
    assert box.put(1, 10)
    assert not box.offer(2, 1)
    assert box.offer(3)  # of no size: always let in
    waiting = threading.Thread(target=box.put, args=(2, 10))
    waiting.start()
    time.sleep(0.05)
    assert waiting.is_alive()
    assert next(iter(box)) == 1
    assert next(iter(box)) == 3
    waiting.join(5)
    assert next(iter(box)) == 2


def test_one_large_item_is_let_into_an_empty_box() -> None:
    box: Mailbox[int] = Mailbox(10)
    assert box.offer(1, 1000)
    assert not box.offer(2, 1)


def test_discarding_frees_who_waits() -> None:
    box: Mailbox[int] = Mailbox(10)
    box.put(1, 10)
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(box.put(2, 10)))
    waiting.start()
    assert box.discard() == 1
    waiting.join(5)
    assert told == [False]
    assert list(box) == []
