"""The table of Steps: every row is there, every parameter has a type, a meaning and a guard."""

from __future__ import annotations

from dataclasses import MISSING

import pytest

from acquisition.errors import ConfigError
from integration.steps import STEPS, make, one_of, parameters, step_class


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_can_be_made_and_explained(name: str) -> None:
    for method in ("open", "feed", "close"):
        assert callable(getattr(step_class(name), method))
    for parameter in parameters(name).values():
        assert len(parameter.doc) > 10, f"{name}.{parameter.name} has no meaning written under it"
        assert parameter.type_name
    if all(p.default is not MISSING for p in parameters(name).values()):
        make(name, {})


@pytest.mark.parametrize(("given", "made"), [([2, 3], (2, 3)), ("2, 3", (2, 3)), ("[2,3]", (2, 3)), ((4, 5), (4, 5))])
def test_a_pair_may_come_as_list_or_text(given: object, made: tuple[int, int]) -> None:
    assert make("mri.grappa", {"kernel": given}).kernel == made  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", [1e-3, "1e-3", "0.001"])
def test_a_number_may_come_as_text(given: object) -> None:
    assert make("mri.grappa", {"regularisation": given}).regularisation == 1e-3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("mri.grapa", {}, r"step 'mri.grapa': expected one of .*did you mean mri.grappa\?"),
        ("mri.grappa", {"kernl": 1}, r"mri.grappa.kernl: expected one of .*did you mean kernel\?"),
        ("mri.grappa", {"kernel": "wide"}, r"mri.grappa.kernel: expected tuple\[int, int\], got 'wide'.*lines"),
        ("mri.grappa", {"kernel": [1, 2, 3]}, "kernel"),
        ("mri.grappa", {"kernel": [3, 5]}, "an even number of lines"),
        ("mri.grappa", {"regularisation": "much"}, "expected float"),
        ("mri.combine", {"kind": "nice"}, "kind"),
        ("mri.readout", {"x": 1}, "expected none, got 'x'"),
        ("mri.grappa", {"kernel": "[1, 2"}, "kernel"),
    ],
)
def test_what_is_wrong_is_named(name: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, values)


def test_a_value_that_must_be_given_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "test.needy", "tests.integration.wiring_samples:Needy")
    with pytest.raises(ConfigError, match=r"test\.needy: expected a value for threshold, got none"):
        make("test.needy", {})


def test_known_names_come_with_the_closest() -> None:
    assert one_of("brain", ["brian", "knee"]) == "one of brian, knee (did you mean brian?)"
    assert one_of("x", []) == "none"
