from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train.anatomy import (
    LESIONS,
    ORIENTATIONS,
    Lesions,
    Plane,
    draw,
    field_hz,
    no_lesions,
    random_lesions,
    random_plane,
)
from models.train.contrast import Protocol, random_protocol
from models.train.encode import image_of, kspace_of, random_coils
from models.train.fields import smooth_field, splined, texture, vessel_parts
from models.train.motion import MOVEMENTS, Movement, moving_kspace, random_movement, shots_of
from models.train.scene import Scene, magnetisation, random_scene, train_times
from models.train.tissue import NAMES, NUMBER, tissues
from tests.models.train.simulated import axial_plane, small_head


def straight(cells: int = 72, **changes: object) -> Plane:
    """A plane along the head's own axes, nothing stretched."""
    plane = Plane(
        shape=(cells, cells),
        cell_mm=1.4,
        thickness_mm=1.0,
        centre_mm=np.zeros(3),
        directions=np.eye(3),
        stretch=np.eye(3),
        warp_mm=np.zeros((3, 5, 5), np.float32),
        ripple_mm=np.zeros((3, 5, 5), np.float32),
    )
    return replace(plane, **changes)  # type: ignore[arg-type]


def only(*names: str) -> np.ndarray:
    """1 for these tissues."""
    return np.isin(np.arange(len(NAMES)), [NUMBER[n] for n in names]).astype(float)[:, None]


def plain_scene(plane: Plane, protocol: Protocol, seed: int = 0) -> Scene:
    """Without lesions, texture, vessels and phase."""
    scene = random_scene(small_head(), plane, protocol, np.random.default_rng(seed))
    zero = np.zeros(plane.shape, np.float32)
    return replace(
        scene,
        lesions=no_lesions(),
        grain=zero,
        vessels=zero,
        phase_rad=zero,
        shading=zero + 1,
        end_mm=1000.0,
        flow={"artery": 1.0, "vein": 1.0},
    )


def test_a_straight_plane_shows_the_label_map() -> None:
    head, plane = small_head(), straight(cells=41, cell_mm=1.0)
    z, y, x = (round(c) for c in head.centre)
    exact = replace(plane, centre_mm=np.array([z, y, x]) - head.centre)
    for name in ("white", "cortex", "csf", "ventricle"):
        drawn = draw(head, exact, only(name))[0]
        assert drawn == pytest.approx(
            (head.tissue[z, y - 20 : y + 21, x - 20 : x + 21] == NUMBER[name]) * 1.0, abs=1e-5
        )


def test_what_is_drawn_adds_up_to_one_inside_of_the_head() -> None:
    plane = axial_plane(thickness_mm=4.0)
    whole = draw(small_head(), plane, np.ones((len(NAMES), 1)))[0]
    assert whole.max() == pytest.approx(1, abs=1e-5)
    parts = draw(small_head(), plane, np.eye(len(NAMES)))
    assert parts.sum(0) == pytest.approx(whole, abs=1e-5)
    assert ((parts[1:].max(0) > 0.02) & (parts[1:].max(0) < 0.98)).any()  # partial volume


def test_sharpness_makes_surfaces_sharper() -> None:
    soft, sharp = (draw(small_head(), straight(cell_mm=0.5, sharpness=s), only("white"))[0] for s in (1.0, 6.0))
    between = [((d > 0.05) & (d < 0.95)).sum() for d in (soft, sharp)]
    assert between[0] > 1.3 * between[1] > 0


def test_orientations_cut_along_their_axes() -> None:
    for name, axes in ORIENTATIONS.items():
        plane = random_plane(
            small_head(), (32, 32), 3.0, rng=np.random.default_rng(0), thickness_mm=2, orientation=name
        )
        assert np.abs(plane.directions[0]).argmax() == axes[0]
        assert np.abs(plane.directions[1]).argmax() == axes[1]
        assert plane.directions @ plane.directions.T == pytest.approx(np.eye(3), abs=1e-12)
        assert abs(plane.centre_mm[axes[0]]) <= 0.9 * small_head().half[axes[0]]


def test_a_lesion_lies_where_it_was_put() -> None:
    head, plane = small_head(), straight(cells=41, cell_mm=1.0)
    middle = head.centre + np.array([0, 6, 12])
    lesion = Lesions(
        middles=middle[None],
        inverse=np.eye(3)[None] / 4.0,
        waves=np.zeros((1, 4, 5)),
        what=np.array([NUMBER["tumour"]]),
    )
    drawn = draw(head, plane, only("tumour"), lesions=lesion)[0]
    assert drawn.sum() == pytest.approx(np.pi * 16, rel=0.08)
    y, x = np.indices(drawn.shape) - 20
    assert (drawn * y).sum() / drawn.sum() == pytest.approx(6, abs=0.3)
    assert (drawn * x).sum() / drawn.sum() == pytest.approx(12, abs=0.3)


def test_lesions_lie_in_the_brain_only() -> None:
    kinds = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plane = axial_plane(seed=seed)
        lesions = random_lesions(small_head(), plane, rng)
        kinds |= {NAMES[n] for n in lesions.what}
        drawn = draw(small_head(), plane, only("fat", "skin", "cortical_bone", "air"), lesions=lesions)[0]
        assert drawn == pytest.approx(
            draw(small_head(), plane, only("fat", "skin", "cortical_bone", "air"))[0], abs=1e-5
        )
    assert {"oedema", "tumour", "necrosis", "plaque", "infarct", "haemorrhage", "calcification"} <= kinds
    assert len(LESIONS) == 8


def test_the_field_changes_from_slice_to_slice_as_its_slope_says() -> None:
    head = small_head()
    hz, slope = field_hz(head, straight(), 3.0)
    above, _ = field_hz(head, straight(centre_mm=np.array([2.0, 0, 0])), 3.0)
    below, _ = field_hz(head, straight(centre_mm=np.array([-2.0, 0, 0])), 3.0)
    assert slope == pytest.approx((above - below) / 4, abs=2.0)
    assert (above + below) / 2 == pytest.approx(hz, abs=12)
    assert field_hz(head, straight(), 1.5)[0] == pytest.approx(hz / 2, abs=1e-3)


def test_fields_are_smooth_and_of_unit_variance() -> None:
    many = np.stack([smooth_field((64, 64), 8, np.random.default_rng(s)) for s in range(40)])
    assert many.std() == pytest.approx(1, abs=0.15)
    assert np.abs(np.diff(many, axis=1)).mean() < 0.25
    grain = np.stack([texture((64, 64), 1.0, np.random.default_rng(s)) for s in range(40)])
    assert grain.std() == pytest.approx(1, abs=0.2)
    knots = np.outer(np.linspace(0, 1, 5), np.ones(6))
    assert splined(knots, (21, 30)) == pytest.approx(np.outer(np.linspace(0, 1, 21), np.ones(30)), abs=1e-5)


def test_vessels_are_few_and_thin() -> None:
    parts = np.stack([vessel_parts((160, 160), 0.8, np.random.default_rng(s)) for s in range(20)])
    assert 0.002 < parts.mean() < 0.08
    assert parts.max() == pytest.approx(1)


def test_the_magnetisation_is_the_signal_equation_on_the_tissues() -> None:
    from models.train.contrast import signals

    protocol = random_protocol(np.random.default_rng(0), name="t1_spin_echo", field_t=3.0)
    subject = tissues(3.0)
    plane = straight(cells=60)
    image = magnetisation(plain_scene(plane, protocol), protocol, [subject])[0]
    inside = draw(small_head(), plane, only("white"))[0] > 0.999
    assert np.abs(image[inside]) == pytest.approx(float(signals(protocol, subject).water[NUMBER["white"]]), rel=1e-4)


@pytest.mark.parametrize("t2_s", [0.05, 0.08, 0.3])
def test_lines_decay_along_the_train(t2_s: float) -> None:
    """Each line has lost ``exp(-t / T2)`` of the time between it and the effective echo; earlier ones have more."""
    protocol = replace(
        random_protocol(np.random.default_rng(0), name="t2_tse", field_t=3.0),
        tr_s=100.0,
        te_s=0.1,
        n_echoes=20,
        spacing_s=0.01,
        fat_left=0.0,
    )
    plane = straight(cells=60)
    subject = replace(tissues(3.0), t2_s=np.full(len(NAMES), t2_s))
    at_once = replace(protocol, n_echoes=1, spacing_s=0.0)
    lines = [
        np.abs(kspace_of(magnetisation(plain_scene(plane, p), p, [subject])[0]))[10:50].sum(1)
        for p in (protocol, at_once)
    ]
    times = train_times(protocol, 40)
    assert times[20] == 0
    assert times[0] < -0.08 < 0.08 < times[-1]
    assert lines[0] / lines[1] == pytest.approx(np.exp(-times / t2_s), rel=0.06)


def test_fat_moves_along_the_readout_by_its_chemical_shift() -> None:
    protocol = Protocol(
        name="p", kind="spin_echo", field_t=3.0, tr_s=0.5, te_s=0.01, bandwidth_hz=3.4e-6 * 42.577e6 * 3 / 4
    )
    plane = straight(cells=72)
    scene = plain_scene(plane, protocol)
    subject = replace(tissues(3.0), pd=only("fat")[:, 0], fat=np.ones(len(NAMES)))
    moved = np.abs(magnetisation(scene, protocol, [subject])[0])
    still = np.abs(magnetisation(scene, replace(protocol, bandwidth_hz=1e12), [subject])[0])
    assert still.max() > 0.1
    assert moved[:, :-6] == pytest.approx(still[:, 6:], abs=1e-5)  # four voxels of one and a half cells
    assert not moved[:, -6:].any()


def test_early_echoes_go_outwards_from_the_middle() -> None:
    protocol = replace(random_protocol(np.random.default_rng(0), name="pd_tse"), te_s=0.01, n_echoes=8, spacing_s=0.01)
    times = train_times(protocol, 64)
    assert times.argmin() == 32
    assert times[0] == pytest.approx(0.07, rel=0.05)


def test_head_turned_by_the_patient_turns_the_picture() -> None:
    """A shift of two cells along the readout shifts the picture by two cells; so a scan of poses is what it says."""
    protocol = random_protocol(np.random.default_rng(1), name="t1_spin_echo", field_t=1.5)
    protocol = replace(protocol, fat_left=1.0, bandwidth_hz=1e9)
    plane = straight(cells=72)
    scene = plain_scene(plane, protocol)
    coils = random_coils(plane, 4, np.random.default_rng(0))
    flat = replace(coils, maps=np.full((1, 72, 72), 1, np.complex64), profile=np.ones((72, 72), np.float32))

    def seen(rotation: tuple, shift: tuple) -> np.ndarray:
        movement = Movement(rotation_deg=np.array([rotation] * 3), shift_mm=np.array([shift] * 3))
        kspace = moving_kspace(scene, protocol, tissues(1.5), coils=flat, movement=movement, matrix=(48, 48))
        return np.abs(image_of(kspace)[0])

    still, shifted, turned = seen((0, 0, 0), (0, 0, 0)), seen((0, 0, 0), (0, 0, 4.2)), seen((90, 0, 0), (0, 0, 0))
    assert shifted == pytest.approx(np.roll(still, 2, axis=1), abs=0.05 * float(still.max()))
    assert np.abs(shifted - still).max() > 0.3 * still.max()
    best = min(np.abs(np.rot90(still, k) - turned)[2:-2, 2:-2].mean() for k in (1, 3))
    assert best < 0.3 * np.abs(still - turned)[2:-2, 2:-2].mean()


def test_motion_between_shots_makes_ghosts_and_stillness_none() -> None:
    protocol = random_protocol(np.random.default_rng(2), name="t2_tse", field_t=3.0)
    plane = axial_plane()
    scene = random_scene(small_head(), plane, protocol, np.random.default_rng(2))
    coils = random_coils(plane, 2, np.random.default_rng(0))
    n = int(shots_of(48, protocol).max()) + 1
    still = Movement(rotation_deg=np.zeros((n, 3)), shift_mm=np.zeros((n, 3)))
    shift = np.zeros((n, 3))
    shift[n // 2 :, 1] = 3.0
    moved = replace(still, shift_mm=shift)
    a, b = (
        moving_kspace(scene, protocol, tissues(3.0), coils=coils, movement=m, matrix=(48, 48)) for m in (still, moved)
    )
    first = np.isin(shots_of(48, protocol), np.arange(n // 2))
    assert a[:, first] == pytest.approx(b[:, first])
    assert np.abs(a[:, ~first] - b[:, ~first]).max() > 0.05 * np.abs(a).max()
    assert still.score_mm == 0
    assert moved.score_mm == pytest.approx(1.5, rel=0.2)


def test_movements_are_of_their_kind() -> None:
    for kind in MOVEMENTS:
        score = np.mean([random_movement(24, np.random.default_rng(s), kind=kind).score_mm for s in range(30)])
        assert (score == 0) == (kind == "still")
        strong = random_movement(24, np.random.default_rng(1), kind=kind, severity=3).score_mm
        assert strong == pytest.approx(3 * random_movement(24, np.random.default_rng(1), kind=kind).score_mm)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: draw(small_head(), straight(), np.ones((3, 1))), "channels"),
        (
            lambda: random_plane(
                small_head(), (8, 8), 1.0, rng=np.random.default_rng(0), thickness_mm=1, orientation="odd"
            ),
            "axial",
        ),
        (lambda: random_movement(4, np.random.default_rng(0), kind="dance"), "'dance'"),
    ],
)
def test_what_makes_no_sense_is_refused(call, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        call()


def test_a_movement_of_another_scan_is_refused() -> None:
    protocol = random_protocol(np.random.default_rng(2), name="t2_tse", field_t=3.0)
    plane = axial_plane()
    scene = plain_scene(plane, protocol)
    coils = random_coils(plane, 2, np.random.default_rng(0))
    movement = Movement(rotation_deg=np.zeros((1, 3)), shift_mm=np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="one per shot"):
        moving_kspace(scene, protocol, tissues(3.0), coils=coils, movement=movement, matrix=(48, 48))
