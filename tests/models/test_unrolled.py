"""``model.unrolled``: CG-SENSE's image first and unchanged, the network's behind it, held against the k-space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Flag, Image, Readouts
from acquisition.scan import Scan
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from models import load as loading
from models.card import read_card
from models.load import Loaded, load
from models.problem import Reconstructor, estimator_of, halved
from models.verify import compared
from tests.models.samples import card_folder, network
from tests.models.samples import statistics as figures
from tests.models.unrolled import SMALL, Lesion, measured, small_network, truth_of
from tests.phantoms import small_simulation

LIBRARY = Library()
METHOD, OUTPUT = "model.unrolled", "unrolled"


def folder_of(folder: Path, net: nn.Module | None = None, **changes: Any) -> Path:
    """A card that covers everything, of a small network."""
    bound = {"flag_above": 20.0, "refuse_above": 40.0}
    fields: dict[str, Any] = {
        "anatomy": ["ANY"],
        "input": {"units": ["1", "a.u."], "kinds": ["complex"], "matrix": [64, 64], "ranges": {}},
        "network": {"name": "unrolled", "parameters": SMALL},
        "ood": {"threshold": 1e6, "quantile": 0.99, "items": 40},
        "consistency": {"rms": bound, "peak": bound},
    }
    return card_folder(folder, net or small_network(size=0.005), **(fields | changes))


def chain(method: str, **parameters: Any) -> Chain:
    steps = (
        ("mri.prewhiten", {}),
        ("mri.readout", {}),
        ("mri.assemble", {"sampling": "any"}),
        (method, parameters),
        ("mri.combine", {}),
    )
    return Chain(LIBRARY["mri_sense"].model_copy(update={"steps": steps}).build())


def played(made: Chain, scan: Scan, blocks: Iterable[Readouts]) -> tuple[list[Image], list[Verdict]]:
    made.open(scan)
    items = [item for block in blocks for item in made.feed(block)] + list(made.close())
    return [i for i in items if isinstance(i, Image)], [
        i for i in items if isinstance(i, Verdict) and i.check.startswith(METHOD)
    ]


def noisy(**changes: Any) -> Any:
    fields = {"matrix": (1, 64, 64), "n_coils": 6, "acceleration": 2, "n_acs": 20, "snr": 30, "n_noise": 16}
    return small_simulation(**(fields | changes))


def enhanced(folder: Path, simulation: Any = None, **parameters: Any) -> tuple[list[Image], list[Verdict]]:
    simulation = simulation or noisy()
    made = chain(METHOD, **({"card": str(folder), "engine": "torch", "strength": 1.0} | parameters))
    return played(made, simulation.scan, simulation.readouts())


# The image beside the k-space


def test_a_reconstruction_is_what_the_network_was_trained_as(tmp_path: Path) -> None:
    for matrix in (32, 37):
        problem, net = measured(truth_of(matrix)), small_network()
        loaded = Loaded(read_card(folder_of(tmp_path / str(matrix), net) / "card.yaml"), net, figures())
        correction = net(problem.packed())[0]
        made = estimator_of(loaded, "torch")
        assert isinstance(made, Reconstructor)
        wanted = problem.sparse() + torch.complex(correction[0], correction[1])
        torch.testing.assert_close(made.reconstruct(problem), wanted, rtol=1e-3, atol=1e-3)


def test_the_unit_of_the_k_space_goes_through(tmp_path: Path) -> None:
    made = estimator_of(load(folder_of(tmp_path) / "card.yaml"), "torch")
    assert isinstance(made, Reconstructor)
    one = made.reconstruct(measured(truth_of(32)))
    many = made.reconstruct(measured(1000 * truth_of(32), noise=1000.0, level=1000.0))
    torch.testing.assert_close(many / 1000, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["lines", "discs"])
def test_the_truth_leaves_noise_unexplained_and_least_squares_less(kind: str) -> None:
    truth = truth_of()
    problem = measured(truth, kind=kind)
    assert problem.unexplained(truth) == pytest.approx(1, abs=0.05)
    assert problem.unexplained(problem.start) < 0.95
    assert 0.2 < problem.residual(truth).rms < 1
    assert problem.residual(truth).peak < 6
    assert problem.residual(problem.start).rms == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_lesion_invented_or_lost_stands_out(sign: int) -> None:
    truth = truth_of()
    problem, changed = measured(truth), truth.clone()
    changed[20:28, 20:28] += sign * 4
    assert problem.residual(changed).peak > 2 * problem.residual(truth).peak
    assert problem.residual(changed).peak > 12


def test_engines_agree_and_other_networks_are_refused(tmp_path: Path) -> None:
    rows = list(compared(folder_of(tmp_path / "a") / "card.yaml", ("openvino", "torch")))
    assert [r.engine for r in rows][1] == "torch-f32"
    assert all(r.agrees for r in rows)
    assert rows[1].apart == 0
    other = load(card_folder(tmp_path / "b", network()) / "card.yaml")
    with pytest.raises(ReconError, match="card sample: expected an unrolled network, got UNet"):
        Reconstructor(other, "torch")


def test_a_result_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    made = estimator_of(load(folder_of(tmp_path) / "card.yaml"), "torch")
    assert isinstance(made, Reconstructor)
    with pytest.raises(ReconError, match="NaN or infinite"):
        made.reconstruct(halved(np.full((16, 16), np.nan), 1.0))


# The Step


def test_the_conventional_image_is_cg_senses_and_comes_first(tmp_path: Path) -> None:
    simulation = noisy(matrix=(2, 64, 64))
    plain, _ = played(chain("mri.cg_sense"), simulation.scan, simulation.readouts())
    both, found = enhanced(folder_of(tmp_path), simulation)
    assert [i.output for i in both] == ["conventional", OUTPUT] * 2
    assert found == []
    for before, conventional, image in zip(plain, both[::2], both[1::2], strict=True):
        assert conventional.data.tobytes() == before.data.tobytes()
        assert conventional.verdicts == before.verdicts
        assert conventional.provenance.network is None
        assert "DeepLearning" not in conventional.attributes
        assert (image.grid, image.unit, image.position) == (before.grid, before.unit, before.position)
        assert not np.array_equal(image.data, before.data)


def test_the_conventional_image_is_out_before_the_network_runs(tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[int] = []
    monkeypatch.setattr(Reconstructor, "reconstruct", lambda self, problem: ran.append(1) or problem.start)
    simulation, made = noisy(), chain(METHOD, card=str(folder_of(tmp_path)), engine="torch")
    made.open(simulation.scan)
    for block in simulation.readouts():
        for item in made.feed(block):
            if isinstance(item, Image) and item.output == "conventional":
                assert ran == []
    assert ran == [1]


def test_origin_and_verdict_travel_with_the_image(tmp_path: Path) -> None:
    (_, image), _ = enhanced(folder_of(tmp_path), strength=0.5)
    record = image.provenance.network
    assert record is not None
    assert (record.card, record.strength, record.engine) == ("sample", 0.5, "torch-f32")
    assert image.attributes["DeepLearningDetails"] == "sample 1.2.3, strength 0.5"
    (own,) = [v for v in image.verdicts if v.check == METHOD]
    assert (own.level, own.unit) == (Level.PASS, "sd of noise")
    assert "unexplained k-space" in own.evidence
    assert image.provenance.notes["method"] == METHOD


def test_strength_0_is_the_conventional_image_bit_for_bit(tmp_path: Path) -> None:
    (conventional, image), found = enhanced(folder_of(tmp_path), strength=0.0)
    assert image.output == OUTPUT
    assert image.data.tobytes() == conventional.data.tobytes()
    assert found == []


def test_strength_is_the_way_between_the_two(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    distances = []
    for strength in (0.25, 0.5, 1.0):
        (conventional, image), _ = enhanced(folder, strength=strength)
        distances.append(float(np.linalg.norm(image.data - conventional.data)))
    assert distances[0] < distances[1] < distances[2]
    assert distances[1] / distances[2] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("brightness", "is_refused"), [(0.0, False), (8.0, True), (-8.0, True)])
def test_a_network_that_invents_or_hides_a_lesion_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brightness: float, is_refused: bool
) -> None:
    bound = {"flag_above": 6.0, "refuse_above": 8.0}
    folder = folder_of(tmp_path, consistency={"rms": bound, "peak": bound})
    net = small_network()
    net.steps.zero_()  # type: ignore[union-attr]
    net.stages = nn.ModuleList([Lesion(brightness)])
    net.steps = nn.Parameter(torch.zeros(1), requires_grad=False)
    monkeypatch.setattr(loading, "_built", lambda card, data: Loaded(card, net, figures()))
    loading._BUILT.clear()
    images, found = enhanced(folder)
    loading._BUILT.clear()
    assert [i.output for i in images] == (["conventional"] if is_refused else ["conventional", OUTPUT])
    assert [v.check for v in found] == (["model.unrolled.consistency"] if is_refused else [])
    if is_refused:
        assert "1 of 1 images were not enhanced" in found[0].advice
        assert "in one place" in found[0].advice


def test_without_calibration_the_network_is_not_used(tmp_path: Path) -> None:
    simulation = noisy(acceleration=1, n_acs=0)
    blocks = [b for b in simulation.readouts() if int(b.head["k1"][0]) % 2 == 0]
    blocks[-1].head["flags"] |= np.uint64(Flag.LAST_IN_SLICE)
    made = chain(METHOD, card=str(folder_of(tmp_path)), engine="torch")
    images, found = played(made, simulation.scan, blocks)
    assert [i.output for i in images] == ["conventional"]
    assert [v.level for v in images[0].verdicts if v.check == "mri.cg_sense"] == [Level.HOLD]
    assert [v.check for v in found] == ["model.unrolled.calibration"]
    assert "no usable calibration" in found[0].advice


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"anatomy": ["KNEE"]}, "anatomy"),
        ({"modality": "CT"}, "modality"),
        ({"ood": {"threshold": 1e-6, "quantile": 0.99, "items": 40}}, "ood"),
    ],
)
def test_what_the_card_does_not_cover_stays_conventional(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    images, found = enhanced(folder_of(tmp_path, **changes))
    assert [i.output for i in images] == ["conventional"]
    assert [v.check for v in found] == [f"model.unrolled.{cause}"]


def test_an_engine_that_fails_costs_the_second_image_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Reconstructor, problem: object) -> None:
        raise ReconError("engine", expected="work", got="none")

    monkeypatch.setattr(Reconstructor, "reconstruct", fails)
    images, found = enhanced(folder_of(tmp_path))
    assert [i.output for i in images] == ["conventional"]
    assert [v.check for v in found] == ["model.unrolled.engine"]


def test_a_network_that_is_late_is_not_used_again(tmp_path: Path) -> None:
    images, found = enhanced(folder_of(tmp_path), noisy(matrix=(2, 64, 64)), longest_s=1e-6)
    assert [i.output for i in images] == ["conventional", OUTPUT, "conventional"]
    assert [v.check for v in found] == ["model.unrolled.late"]


@pytest.mark.parametrize(("matrix", "is_late"), [((), False), ((64, 64), False), ((32, 64), True)])
def test_what_the_header_says_is_made_ready_before_the_scan(
    tmp_path: Path, matrix: tuple[int, ...], is_late: bool
) -> None:
    simulation = noisy(matrix=(1, 64, 48)) if not matrix else noisy()
    (_, image), _ = enhanced(folder_of(tmp_path), simulation, matrix=matrix)
    assert ("model.unrolled.prepare" in [v.check for v in image.verdicts]) == is_late


def test_a_volume_is_reconstructed_along_its_readout(tmp_path: Path) -> None:
    simulation = small_simulation(matrix=(12, 40, 18), kind="3D", n_coils=4, gap_mm=0.0, snr=30, n_noise=16)
    plain, _ = played(chain("mri.cg_sense"), simulation.scan, simulation.readouts())
    (conventional, image), found = enhanced(folder_of(tmp_path), simulation)
    assert found == []
    assert image.data.shape == (12, 40, 18)
    assert conventional.data.tobytes() == plain[0].data.tobytes()
    assert np.corrcoef(image.data.ravel(), conventional.data.ravel())[0, 1] > 0.5


def test_wrong_parameters_are_found_when_the_protocol_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.unrolled strength: expected 0 to 1, got 1\.5"):
        chain(METHOD, card=str(folder_of(tmp_path)), strength=1.5)
