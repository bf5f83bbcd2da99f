"""The small promises of the contract: errors read well, verdicts rank, blocks select, chains flow."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from acquisition import errors
from acquisition.errors import HeaderError, InputError, IsocenterError
from acquisition.items import NOT_IMAGING, READOUT_HEAD, Flag, Readouts
from acquisition.scan import Encoding, Limits, Scan
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict, worst


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = HeaderError("encodedSpace/matrixSize/x", expected="1..65535", got="0", action="Mend the converter.")
    assert str(error) == "encodedSpace/matrixSize/x: expected 1..65535, got 0. Mend the converter."
    assert str(InputError("line 3", got="NaN")) == "line 3: got NaN"
    assert str(InputError("line 3")) == "line 3"


def test_the_drawn_tree_is_the_real_tree() -> None:
    classes = {n for n, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, IsocenterError)}
    drawn = {w for w in errors.__doc__.replace("─", " ").split() if w.endswith("Error") and w[0].isupper()}
    assert drawn == classes


def test_the_worst_verdict_wins() -> None:
    flag = Verdict(check="a", level=Level.FLAG, advice="look")
    hold = Verdict(check="b", level=Level.HOLD, advice="ask", value=3.0, limit=1.0, unit="%")
    assert worst([]) is Level.PASS
    assert worst([flag]) is Level.FLAG
    assert worst([hold, flag]) is Level.HOLD
    assert json.loads(json.dumps(hold.as_dict()))["level"] == "HOLD"


def test_the_head_has_the_layout_of_the_wire() -> None:
    assert READOUT_HEAD.itemsize == 340
    offsets = {name: READOUT_HEAD.fields[name][1] for name in READOUT_HEAD.names}
    assert (offsets["flags"], offsets["n_samples"], offsets["channel_mask"]) == (2, 34, 40)
    assert (offsets["center_sample"], offsets["position"], offsets["k1"], offsets["user_int"]) == (172, 182, 242, 276)


def test_readouts_select_by_flag() -> None:
    head = np.zeros(3, READOUT_HEAD)
    head["flags"] = [int(Flag.NOISE), 0, int(Flag.NOISE | Flag.LAST_IN_MEASUREMENT)]
    block = Readouts(head=head, data=np.arange(12, dtype=np.complex64).reshape(3, 2, 2))
    noise = block.select(block.has(Flag.NOISE))
    assert len(noise) == 2
    np.testing.assert_array_equal(noise.data[1], block.data[2])
    assert not (NOT_IMAGING & Flag.CALIBRATION_AND_IMAGING)


def test_a_scan_of_another_modality_is_refused() -> None:
    with pytest.raises(HeaderError, match="expected an MR scan, got modality CT"):
        Scan(uid="1", modality="CT").require_mr()


def test_missing_limits_mean_a_single_index() -> None:
    encoding = Encoding(matrix=(1, 8, 8), fov_mm=(5, 8, 8), recon_matrix=(1, 8, 8), recon_fov_mm=(5, 8, 8))
    assert encoding.limit("slice") == Limits(0, 0, 0)


class Doubler:
    """Gives every number twice, and its total at the end."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.total = log, 0

    def open(self, scan: Scan) -> None:
        self.log.append(f"open {scan.uid}")

    def feed(self, item):
        self.total += item
        return (item, item)

    def close(self):
        return (self.total,)


def test_a_chain_pushes_each_item_through_and_closes_in_order() -> None:
    log: list[str] = []
    chain = Chain([Doubler(log), Doubler(log)])
    chain.open(Scan(uid="7", modality="MR"))
    assert log == ["open 7", "open 7"]
    assert list(chain.feed(1)) == [1, 1, 1, 1]
    # the first step's total (1) goes through the second one, whose own total is then 1 + 1 + 1
    assert list(chain.close()) == [1, 1, 3]


def test_an_empty_chain_passes_everything() -> None:
    assert list(Chain([]).feed("x")) == ["x"]
    assert list(Chain([]).close()) == []
