"""The one comparison of outputs: nothing that is not a number, constant, swapped or of another shape passes it."""

import math

import numpy as np
import pytest

from bestow_edge.core.comparison import finite, relative_error

RNG = np.random.default_rng(0)
WANT = {
    "logits": RNG.normal(size=(2, 7)).astype(np.float32),
    "new_keys_0": RNG.normal(size=(2, 3)).astype(np.float32),
    "new_values_0": RNG.normal(size=(2, 3)).astype(np.float32),
}
WANT["token_id"] = WANT["logits"].argmax(-1)


def test_equal_outputs_have_no_error() -> None:
    assert relative_error(WANT, WANT) == 0
    close = WANT | {"new_keys_0": WANT["new_keys_0"] + np.float32(1e-3)}
    assert 0 < relative_error(close, WANT) < 2e-3


@pytest.mark.parametrize("name", ["logits", "new_keys_0"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_an_error_without_bound(name: str, value: float) -> None:
    bad = WANT[name].copy()
    bad[0, 0] = value
    for got, want in ((WANT | {name: bad}, WANT), (WANT, WANT | {name: bad}), (WANT | {name: bad}, WANT | {name: bad})):
        assert math.isinf(relative_error(got, want))
    assert not finite({name: bad})


def test_a_constant_and_a_swap_are_errors() -> None:
    constant = np.full_like(WANT["new_keys_0"], WANT["new_keys_0"].mean())
    assert math.isinf(relative_error(WANT | {"new_keys_0": constant}, WANT))
    swapped = WANT | {"new_keys_0": WANT["new_values_0"], "new_values_0": WANT["new_keys_0"]}
    assert relative_error(swapped, WANT) > 0.7


@pytest.mark.parametrize("shape", [(6,), (2, 1), (1, 3), (2, 3, 1), (0, 3)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    assert math.isinf(relative_error(WANT | {"new_keys_0": np.zeros(shape, np.float32)}, WANT))


@pytest.mark.parametrize("token", [-1, 7, 10**9])
def test_a_token_beyond_the_vocabulary_is_an_error(token: int) -> None:
    assert math.isinf(relative_error(WANT | {"token_id": np.array([0, token])}, WANT))


def test_no_outputs_and_unknown_ones_are_errors() -> None:
    assert math.isinf(relative_error({}, WANT))
    assert math.isinf(relative_error({"other": np.zeros(1)}, WANT))


def test_suppressed_tokens_hide_no_difference() -> None:
    """Their logits are the least number there is, beside which every other difference would be nothing."""
    want = WANT["logits"].copy()
    want[:, 3] = np.finfo(np.float32).min
    got = want.copy()
    got[:, 0] += 5
    assert relative_error({"logits": got}, {"logits": want}) > 1
    assert relative_error({"logits": want}, {"logits": want}) == 0
    got = want.copy()
    got[0, 3] = 0
    assert math.isinf(relative_error({"logits": got}, {"logits": want}))


ENDS = np.array([[2, 3, 7, 0, 0, 0, 0, 0], [1, 8, 0, 0, 0, 0, 0, 0]])
EMBEDS = np.arange(2 * 8 * 3, dtype=np.float32).reshape(2, 8, 3)


def test_positions_of_a_compressor() -> None:
    """A label that rounding changed moves a border; embeddings are compared where all borders are the same."""
    want = {"speech_embeds": EMBEDS, "position_ends": ENDS}
    assert relative_error(want, want) == 0
    moved = np.array([[2, 4, 7, 0, 0, 0, 0, 0], [1, 8, 0, 0, 0, 0, 0, 0]])  # two steps of sixteen
    other = EMBEDS.copy()
    other[0] = -1
    assert relative_error({"speech_embeds": other, "position_ends": moved}, want) == pytest.approx(2 / 16)
    assert relative_error({"speech_embeds": other, "position_ends": ENDS}, want) > 0.5
    assert relative_error({"speech_embeds": EMBEDS, "position_ends": ENDS + 8}, want) == math.inf
    assert relative_error({"speech_embeds": EMBEDS, "position_ends": ENDS[:, :4]}, want) == math.inf
