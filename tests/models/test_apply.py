"""A network as a Step: the conventional image first and untouched, whatever becomes of the second one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ReconError
from acquisition.items import Image, Kind, Position, Waveform
from acquisition.verdict import Level, Verdict
from models.apply import blended
from models.denoise import Denoise
from models.engine import TorchCpu
from models.estimate import Estimator
from models.nets import NETS
from tests.models.samples import (
    MATRIX,
    TEST_NETS,
    card_folder,
    document,
    ellipses,
    image,
    network,
    plain_card,
    played,
    scan,
    step,
)


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in TEST_NETS.items():
        monkeypatch.setitem(NETS, name, place)


def refused(made: Denoise, *images: Image, of=None) -> Verdict:
    """Run a scan whose images are all refused: they come out as they are, and one finding says why."""
    out, (verdict,) = played(made, *images, of=of)
    assert all(a is b for a, b in zip(out, images, strict=True))
    assert verdict.level is Level.FLAG
    assert f"{len(images)} of {len(images)} images were not enhanced: " in verdict.advice
    assert "The conventional images are complete." in verdict.advice
    return verdict


# What comes out


def test_the_conventional_image_goes_first_and_as_it_came(tmp_path: Path) -> None:
    made, before = step(plain_card(tmp_path, "blur")), image()
    kept = before.data.copy()
    made.open(scan())
    feed = made.feed(before)
    assert next(feed) is before
    enhanced, uncertainty = feed
    assert np.array_equal(before.data, kept)
    assert isinstance(enhanced, Image)
    assert isinstance(uncertainty, Image)
    assert (enhanced.output, uncertainty.output) == ("denoised", "denoised_uncertainty")
    assert enhanced.position == before.position
    assert enhanced.data.shape == uncertainty.data.shape == before.data.shape
    assert enhanced.data.dtype == before.data.dtype
    assert (uncertainty.data > 0).all()


def test_the_first_image_is_out_before_the_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, ran = step(plain_card(tmp_path, "blur")), []
    monkeypatch.setattr(Estimator, "estimate", lambda self, d, n: ran.append(1))
    made.open(scan())
    next(made.feed(image()))  # type: ignore[call-overload]
    assert ran == []


def test_a_known_network_gives_what_it_should(tmp_path: Path) -> None:
    before = image()
    (_, enhanced, _), found = played(step(plain_card(tmp_path, "blur")), before)
    inner = sum(np.roll(before.data[0], (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))[1:-1, 1:-1] / 9
    np.testing.assert_allclose(enhanced.data[0, 1:-1, 1:-1], inner, rtol=1e-4, atol=1e-3)
    assert found == []


def test_strength_0_is_the_conventional_image_bit_for_bit(tmp_path: Path) -> None:
    data = ellipses(1000)
    data[0, 0] = -0.0
    (before, enhanced, uncertainty), _ = played(step(card_folder(tmp_path), strength=0.0), image(data))
    assert enhanced.data.tobytes() == before.data.tobytes()
    assert enhanced.provenance.network is not None
    assert enhanced.provenance.network.strength == 0
    np.testing.assert_allclose(uncertainty.data, 1.6449, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.25, 0.75])
def test_strength_is_the_way_between_the_two(tmp_path: Path, strength: float) -> None:
    folder = plain_card(tmp_path, "blur")
    (before, whole, _), _ = played(step(folder), image())
    (_, part, _), _ = played(step(folder, strength=strength), image())
    np.testing.assert_allclose(part.data, before.data + strength * (whole.data - before.data), atol=1e-4)
    assert np.array_equal(blended(before.data, whole.data, 0.0), before.data)


def test_a_network_that_corrects_nothing_changes_nothing(tmp_path: Path) -> None:
    (before, enhanced, _), _ = played(step(card_folder(tmp_path, network(rms=0.0))), image())
    assert np.array_equal(enhanced.data, before.data)


def test_origin_and_verdict_travel_with_the_image(tmp_path: Path) -> None:
    mine = Verdict(check="check.image", level=Level.PASS, advice="A proper image.")
    folder = plain_card(tmp_path, "blur")
    (before, enhanced, uncertainty), _ = played(step(folder, strength=0.5), image(verdicts=(mine,)))
    record = enhanced.provenance.network
    assert record is not None
    assert (record.card, record.version, record.strength, record.engine) == ("sample", "1.2.3", 0.5, "torch-f32")
    assert len(record.sha256) == 64
    assert uncertainty.provenance.network == record
    assert before.provenance.network is None
    first, own = enhanced.verdicts
    assert first == mine
    assert (own.check, own.level, own.unit) == ("model.denoise", Level.PASS, "sd of noise")
    assert own.value == pytest.approx(
        np.sqrt(np.mean(((played(step(folder), image())[0][1].data) - before.data) ** 2)), rel=1e-3
    )
    assert enhanced.attributes["DeepLearningDetails"] == "sample 1.2.3, strength 0.5"


@pytest.mark.parametrize("matrix", [(47, 48), (33, 50)])
def test_matrices_that_the_network_cannot_halve_are_padded_and_cut(tmp_path: Path, matrix: tuple[int, int]) -> None:
    folder = card_folder(tmp_path, network())
    data = ellipses(1000, 64)[: matrix[0], : matrix[1]]
    (before, enhanced, _), found = played(step(folder), image(data), of=scan(matrix=matrix))
    assert enhanced.data.shape == before.data.shape
    assert not np.array_equal(enhanced.data, before.data)
    assert found == []
    assert len(enhanced.verdicts) == 1


def test_a_volume_is_done_slice_by_slice(tmp_path: Path) -> None:
    planes = [ellipses(1000 + z) for z in range(3)]
    folder = plain_card(tmp_path, "blur")
    (_, volume, _), _ = played(step(folder), image(np.stack(planes)))
    for z, plane in enumerate(planes):
        (_, alone, _), _ = played(step(folder), image(plane))
        assert np.array_equal(volume.data[z], alone.data[0])


def test_mirror_images_are_averaged_and_their_spread_is_shown(tmp_path: Path) -> None:
    def told(members: int) -> dict[str, Any]:
        return document()["uncertainty"] | {"members": members}

    net = network()
    (before, one, flat), _ = played(step(card_folder(tmp_path / "1", net, uncertainty=told(1))), image())
    (_, four, wide), _ = played(step(card_folder(tmp_path / "4", net, uncertainty=told(4))), image())
    assert np.ptp(flat.data) < 1e-6  # nothing to compare with: the floor alone
    assert np.ptp(wide.data) > 0.01
    flipped = image(before.data[..., ::-1].copy())
    (_, turned, _), _ = played(step(card_folder(tmp_path / "4", net, uncertainty=told(4))), flipped)
    np.testing.assert_allclose(turned.data[..., ::-1], four.data, atol=1e-4)
    assert not np.allclose(one.data, four.data, atol=1e-4)


def test_complex_images_stay_complex(tmp_path: Path) -> None:
    input_ = document()["input"] | {"kinds": ["complex"]}
    named = {"name": "unet", "parameters": {"levels": 2, "image_channels": 2, "corrected_channels": 2}}
    net = network(**named["parameters"])  # type: ignore[arg-type]
    ood = {"threshold": 1e3, "quantile": 0.99, "items": 40}  # the sample's figures are of real images
    folder = card_folder(tmp_path, net, input=input_, network=named, ood=ood)
    data = (ellipses(1000) * np.exp(0.3j)).astype(np.complex64)
    (before, enhanced, uncertainty), _ = played(step(folder), image(data, kind=Kind.COMPLEX))
    assert enhanced.data.dtype == np.complex64
    assert np.abs((enhanced.data - before.data).imag).max() > 0
    assert uncertainty.data.dtype == np.float32
    assert uncertainty.kind is Kind.MAGNITUDE


def test_a_network_for_volumes_takes_them_as_a_whole(tmp_path: Path) -> None:
    input_ = document()["input"] | {"dimensions": 3, "matrix": [4, MATRIX, MATRIX]}
    named: dict[str, Any] = {"name": "unet", "parameters": {"levels": 2, "dimensions": 3}}
    folder = card_folder(tmp_path, network(**named["parameters"]), input=input_, network=named)
    made, data = step(folder), np.stack([ellipses(1000)] * 3)
    out, found = played(made, image(data), of=_slab(3))
    assert [i.output for i in out] == ["conventional", "denoised", "denoised_uncertainty"]
    assert not np.allclose(out[1].data[0], out[1].data[1], atol=1e-4)  # the edge of the slab is another place
    assert found == []
    assert len(out[1].verdicts) == 1  # it was ready
    assert "single slice" in refused(made, image(ellipses(1000))).advice


def _slab(n_z: int):
    flat = scan()
    assert flat.mr is not None
    encoding = replace(flat.mr.encodings[0], recon_matrix=(n_z, MATRIX, MATRIX))
    return replace(flat, mr=replace(flat.mr, encodings=(encoding,)))


def test_other_items_and_other_outputs_pass(tmp_path: Path) -> None:
    made = step(card_folder(tmp_path))
    made.open(scan())
    others = [Waveform(id=0, time_stamp=0, sample_time_us=1.0, data=np.zeros((1, 1), np.uint32)), image(output="adc")]
    for other in others:
        assert list(made.feed(other)) == [other]
    assert list(made.close()) == []


# When it is refused


@pytest.mark.parametrize(
    ("changes", "of", "cause"),
    [
        ({}, {"body_part": "KNEE"}, "anatomy"),
        ({}, {"body_part": None}, "anatomy"),
        ({"modality": "CT"}, {}, "modality"),
        ({"sequences": ["flair"]}, {}, "sequence"),
        ({"input": document()["input"] | {"ranges": {"acceleration": [3, 4]}}}, {}, "range.acceleration"),
        ({"input": document()["input"] | {"ranges": {"voxel_mm": [2, 3]}}}, {}, "range.voxel_mm"),
        ({"input": document()["input"] | {"ranges": {"snr": [300, 400]}}}, {}, "range.snr"),
        ({"input": document()["input"] | {"units": ["HU"]}}, {}, "unit"),
        ({"ood": {"threshold": 0.01, "quantile": 0.99, "items": 40}}, {}, "ood"),
        ({"network": {"name": "unet", "parameters": {"levels": 3}}}, {}, "setup"),
    ],
)
def test_what_the_card_does_not_cover_stays_conventional(tmp_path: Path, changes, of, cause: str) -> None:
    verdict = refused(step(card_folder(tmp_path, **changes)), image(), image(), of=scan(**of))
    assert verdict.check == f"model.denoise.{cause}"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_stay_conventional(tmp_path: Path, value: float) -> None:
    data = ellipses(1000)
    data[7, 7] = value
    assert refused(step(card_folder(tmp_path)), image(data)).check == "model.denoise.nan"


def test_weights_that_were_changed_stay_unused(tmp_path: Path) -> None:
    folder = card_folder(tmp_path)
    made = step(folder)
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-3] ^= 8
    (folder / "weights.safetensors").write_bytes(data)
    verdict = refused(made, image())
    assert verdict.check == "model.denoise.setup"
    assert "expected sha256" in verdict.advice


@pytest.mark.parametrize(("name", "told"), [("broken", "no such kernel"), ("notanumber", "NaN or infinite")])
def test_a_network_that_fails_costs_the_second_image_only(tmp_path: Path, name: str, told: str) -> None:
    verdict = refused(step(plain_card(tmp_path, name)), image())
    assert verdict.check == "model.denoise.engine"
    assert told in verdict.advice


def test_an_engine_that_cannot_be_made_ready_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TorchCpu, shape: tuple[int, ...]) -> None:
        raise ReconError("engine torch-f32", got="no memory")

    monkeypatch.setattr(TorchCpu, "prepare", fail)
    assert refused(step(card_folder(tmp_path)), image()).check == "model.denoise.setup"


def test_what_the_fast_engine_cannot_run_goes_to_the_next_and_the_image_says_so(tmp_path: Path) -> None:
    folder = plain_card(tmp_path, "bessel")
    (_, enhanced, _), found = played(step(folder, engine="auto"), image())
    assert enhanced.provenance.network is not None
    assert enhanced.provenance.network.engine == "torch-f32"
    assert found == []
    assert "openvino" in refused(step(folder, engine="openvino"), image()).advice


def test_an_invented_lesion_is_not_shown(tmp_path: Path) -> None:
    verdict = refused(step(plain_card(tmp_path, "lesion")), image())
    assert verdict.check == "model.denoise.consistency"
    assert verdict.value == pytest.approx(6 * 36 / 8, rel=0.01)
    assert verdict.limit == 8.0
    assert "in one place" in verdict.advice


def test_a_change_between_the_limits_is_shown_and_marked(tmp_path: Path) -> None:
    limits = {"rms": {"flag_above": 0.1, "refuse_above": 9}, "peak": {"flag_above": 90, "refuse_above": 90}}
    (_, enhanced, _), found = played(step(plain_card(tmp_path, "blur", consistency=limits)), image())
    (verdict,) = enhanced.verdicts
    assert verdict.level is Level.FLAG
    assert "compare with the conventional image" in verdict.advice
    assert found == []


def test_refusals_of_a_scan_are_counted_by_cause(tmp_path: Path) -> None:
    bad = ellipses(1)
    bad[0, 0] = np.nan
    images = [image(), image(bad), image(bad), image(unit="a.u.")]
    out, found = played(step(plain_card(tmp_path, "blur")), *images)
    assert [i.output for i in out].count("denoised") == 1
    assert {v.check: v.advice.split(" images")[0] for v in found} == {
        "model.denoise.nan": "2 of 3",
        "model.denoise.unit": "1 of 2",
    }


def test_a_network_that_is_late_is_used_once(tmp_path: Path) -> None:
    out, (verdict,) = played(step(plain_card(tmp_path, "blur"), longest_s=1e-9), image(), image(), image())
    assert [i.output for i in out].count("denoised") == 1
    assert [i.output for i in out].count("conventional") == 3
    assert verdict.check == "model.denoise.late"
    assert verdict.limit == 1e-9


# The g-factor


def test_an_image_waits_for_the_map_of_its_slice_but_the_conventional_one_does_not(tmp_path: Path) -> None:
    folder = plain_card(tmp_path, "blur", input=document()["input"] | {"noise": "gfactor"})
    made = step(folder)
    made.open(scan())
    one, two = (image(ellipses(1000 + z), position=Position(slice=z)) for z in range(2))
    assert list(made.feed(one)) == [one]
    assert list(made.feed(two)) == [two]
    flat = np.full((1, MATRIX, MATRIX), 1.25, np.float32)
    map_ = image(flat, output="gfactor", position=Position(slice=1))
    first, enhanced, uncertainty = made.feed(map_)
    assert first is map_
    assert enhanced.position.slice == uncertainty.position.slice == 1  # type: ignore[attr-defined]
    assert enhanced.verdicts[0].value == pytest.approx(residual_of(folder, two) / 1.25, rel=1e-3)  # type: ignore[attr-defined]
    again = image(ellipses(1000), position=Position(slice=1, repetition=1))
    assert [i.output for i in made.feed(again)][1] == "denoised"  # type: ignore[attr-defined]
    (verdict,) = made.close()
    assert verdict.check == "model.denoise.gfactor"  # type: ignore[attr-defined]
    assert "set gfactor: true" in verdict.advice  # type: ignore[attr-defined]


def test_an_image_waits_for_the_map_of_its_own_noise(tmp_path: Path) -> None:
    units = {"units": ["HU"], "kinds": ["magnitude"], "noise": "noise"}
    made = step(plain_card(tmp_path, "blur", input=document()["input"] | units))
    made.open(scan())
    one, two = (image(20 * ellipses(1000), unit="HU", position=Position(repetition=n)) for n in range(2))
    assert list(made.feed(one)) == [one]
    assert list(made.feed(two)) == [two]
    map_ = image(np.full((1, MATRIX, MATRIX), 20.0, np.float32), unit="HU", output="noise", position=two.position)
    _, enhanced, _ = made.feed(map_)
    assert enhanced.position.repetition == 1  # type: ignore[attr-defined]
    assert enhanced.verdicts[0].evidence.endswith("noise from its map")  # type: ignore[attr-defined]
    none = replace(map_, data=0 * map_.data, position=one.position)
    assert list(made.feed(none)) == [none]
    causes = {v.check: v.advice for v in made.close()}  # type: ignore[attr-defined]
    assert "without any noise" in causes["model.denoise.empty"]


def test_the_map_of_the_noise_that_never_came_is_named(tmp_path: Path) -> None:
    folder = plain_card(tmp_path, "blur", input=document()["input"] | {"noise": "noise"})
    out, (verdict,) = played(step(folder), image())
    assert [i.output for i in out] == ["conventional"]
    assert "put image.noise before" in verdict.advice


def residual_of(folder: Path, of: Image) -> float:
    (_, enhanced, _), _ = played(step(plain_card(folder.parent / "flat", "blur")), of)
    return float(np.sqrt(np.mean((enhanced.data - of.data) ** 2)))


# What is paid when


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_nothing_is_prepared_after_the_header(tmp_path: Path, name: str) -> None:
    made = step(card_folder(tmp_path), engine=name)
    made.open(scan())
    engine = made._ready.engine  # type: ignore[union-attr]
    assert engine.preparations == 1
    out = [i for _ in range(2) for i in made.feed(image())]
    assert len(out) == 6
    assert engine.preparations == 1
    assert all(v.check != "model.denoise.prepare" for i in out for v in i.verdicts)  # type: ignore[attr-defined]


def test_a_matrix_the_header_did_not_name_is_done_late_and_said_so(tmp_path: Path) -> None:
    (_, enhanced, _), _ = played(step(plain_card(tmp_path, "blur")), image(), of=scan(matrix=(64, 64)))
    late = enhanced.verdicts[-1]
    assert (late.check, late.level) == ("model.denoise.prepare", Level.FLAG)


def test_a_protocol_that_changes_the_matrix_says_so(tmp_path: Path) -> None:
    made = step(plain_card(tmp_path, "blur"), matrix=(MATRIX, MATRIX))
    (_, enhanced, _), _ = played(made, image(), of=scan(matrix=(64, 64)))
    assert len(enhanced.verdicts) == 1


def test_a_new_scan_begins_with_nothing(tmp_path: Path) -> None:
    made = step(plain_card(tmp_path, "blur"))
    assert len(played(made, image(), of=scan(body_part="KNEE"))[1]) == 1
    out, found = played(made, image())
    assert len(out) == 3
    assert found == []
