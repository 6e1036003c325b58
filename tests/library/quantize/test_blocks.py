"""Min-max blocks against loops, error bounds, the law of uniform data, and counted bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kvlib import BlockQuantizer
from kvlib.quantize import blocks


def by_loops(x, quantizer):
    """What a group's numbers decode to, one group at a time, in plain Python."""
    side = np.dtype(quantizer.side_dtype).type
    moved = np.moveaxis(np.array(x), quantizer.axis, -1)
    out = np.empty_like(moved)
    size = quantizer.size or moved.shape[-1]
    for at in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], size):
            group = moved[at][start : start + size]
            low = x.dtype.type(side(group.min()))
            step = x.dtype.type(side((group.max() - low) / x.dtype.type(2**quantizer.bits - 1)))
            codes = [round(float((g - low) / step)) if step > 0 else 0 for g in group]
            codes = np.clip(codes, 0, 2**quantizer.bits - 1)
            out[at][start : start + size] = low + max(step, 0) * codes.astype(x.dtype)
    return np.moveaxis(out, -1, quantizer.axis)


@pytest.mark.parametrize("along", blocks.ALONG)
@pytest.mark.parametrize("size", [None, 1, 5, 8, 1000])
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decoded_numbers_are_those_of_plain_loops(along, size, bits, dtype):
    x = np.random.default_rng(bits).standard_normal((2, 13, 12)).astype(dtype)
    quantizer = BlockQuantizer(bits, along=along, size=size)
    encoded = quantizer.encode(x)
    assert encoded.decode().dtype == dtype
    np.testing.assert_allclose(encoded.decode(), by_loops(x, quantizer), rtol=1e-6, atol=1e-6)


@given(
    x=arrays(np.float64, (3, 7, 6), elements=st.floats(-100, 100, width=32)),
    bits=st.integers(1, 8),
    along=st.sampled_from(blocks.ALONG),
)
def test_error_is_half_a_step_and_the_rounding_of_what_is_stored(x, bits, along):
    encoded = BlockQuantizer(bits, along=along, size=4, side_dtype="float32").encode(x)
    reach = encoded.quantizer._grouped(x)
    widest = np.ptp(reach, axis=-1).max() / (2**bits - 1)
    assert np.abs(encoded.decode() - x).max() <= widest / 2 + 1e-4


def test_uniform_numbers_leave_a_twelfth_of_the_squared_step():
    x = np.random.default_rng(1).uniform(size=(64, 4096))
    for bits in (2, 4, 6):
        encoded = BlockQuantizer(bits, side_dtype="float32").encode(x)
        error = np.square(encoded.decode() - x).mean()
        # Between the extremes of 4096 uniform numbers, which lie within 1/2000 of 0 and 1.
        assert error == pytest.approx((1 / (2**bits - 1)) ** 2 / 12, rel=0.01)
        assert error != pytest.approx((1 / 2**bits) ** 2 / 12, rel=0.01)  # not midpoints of cells


def test_bytes_are_counted():
    x = np.random.default_rng(2).standard_normal((2, 64, 128))
    whole = BlockQuantizer(4).encode(x)
    assert whole.nbytes == 2 * 64 * (128 * 4 // 8 + 2 * 2)
    assert whole.bits_per_coordinate == 4 + 32 / 128
    grouped = BlockQuantizer(2, size=32).encode(x)
    assert grouped.bits_per_coordinate == 2 + 32 / 32
    channels = BlockQuantizer(2, along="tokens", size=32).encode(x)
    assert channels.bits_per_coordinate == 2 + 32 / 32
    assert BlockQuantizer(2, size=32, side_dtype="float32").encode(x).bits_per_coordinate == 4


def test_a_channel_far_from_the_others_costs_it_alone():
    """What per-channel keys are for: an outlier channel widens no other channel's steps."""
    x = np.random.default_rng(3).standard_normal((256, 32))
    x[:, 5] = 100 + 10 * x[:, 5]
    others = np.arange(32) != 5

    def error(along):
        x_hat = BlockQuantizer(4, along=along, size=32).encode(x).decode()
        return np.square(x_hat - x)[:, others].mean()

    assert error("tokens") < 0.05 < error("coordinates")


def test_constant_groups_and_zero_vectors_are_stored_as_they_are():
    x = np.zeros((4, 8))
    x[1:] = np.array([[0.5], [-2.0], [1.0]])
    for along in blocks.ALONG:
        size = 1 if along == "tokens" else None
        np.testing.assert_array_equal(
            BlockQuantizer(3, along=along, size=size).encode(x).decode(), x
        )


def test_padded_last_group_reaches_no_other_number():
    x = np.random.default_rng(4).standard_normal((5, 10))
    alone = BlockQuantizer(4).encode(x[:, 8:]).decode()
    np.testing.assert_array_equal(BlockQuantizer(4, size=8).encode(x).decode()[:, 8:], alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits must be an integer from 1 to 8"),
        ({"bits": 4, "along": "rows"}, "along must be one of 'coordinates', 'tokens'"),
        ({"bits": 4, "size": 0}, "size must be an integer >= 1"),
        ({"bits": 4, "side_dtype": "int8"}, "side_dtype must be one of"),
    ],
)
def test_impossible_blocks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockQuantizer(**arguments)


def test_a_range_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="side_dtype='float16' cannot hold numbers from -1e\\+05"):
        BlockQuantizer(4).encode(np.array([[-1e5, 1.0]]))
    wide = BlockQuantizer(4, side_dtype="float32").encode(np.array([[-1e5, 1.0]]))
    np.testing.assert_allclose(wide.decode(), [[-1e5, 1.0]], rtol=1e-6, atol=0.1)
    with pytest.raises(ValueError, match="x must be finite"):
        BlockQuantizer(4).encode(np.array([[np.nan, 1.0]]))
