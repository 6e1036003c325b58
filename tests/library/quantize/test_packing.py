"""Packed codes: exact round trip, the documented bit order, and bytes that can be counted."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kvlib.quantize import packing


@st.composite
def codes_and_bits(draw):
    bits = draw(st.integers(0, 8))
    leading = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    dim = draw(st.integers(1, 70))
    codes = draw(hnp.arrays(np.uint8, (*leading, dim), elements=st.integers(0, 2**bits - 1)))
    return codes, bits


@given(codes_and_bits())
def test_round_trip_and_size(case):
    codes, bits = case
    dim = codes.shape[-1]
    packed = packing.pack(codes, bits)
    expected = int(np.ceil(dim * bits / 8))
    assert packed.dtype == np.uint8
    assert packed.shape == (*codes.shape[:-1], expected)
    assert packed.nbytes == codes.size // dim * expected
    assert packing.bytes_per_vector(dim, bits) == expected
    restored = packing.unpack(packed, bits, dim)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, codes)


@given(codes_and_bits())
def test_bit_order_is_the_documented_one(case):
    codes, bits = case
    packed = packing.pack(codes, bits)
    for index in np.ndindex(codes.shape[:-1]):
        assert oracle.read_bits(packed[index], bits, codes.shape[-1]) == codes[index].tolist()


def test_by_hand():
    # 3-bit codes 1, 2, 7, least significant bit first: 100 010 11|1 -> 0xD1, 0x01.
    packed = packing.pack(np.array([1, 2, 7], dtype=np.uint8), 3)
    assert packed.tolist() == [0b11010001, 0b00000001]


@pytest.mark.parametrize("bits", range(9))
def test_non_contiguous_input_and_unaliased_output(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, (6, 5, 4), dtype=np.uint8)
    view = codes.transpose(2, 0, 1)[::-1, ::2]
    packed = packing.pack(view, bits)
    np.testing.assert_array_equal(packed, packing.pack(np.ascontiguousarray(view), bits))
    restored = packing.unpack(packed, bits, 5)
    np.testing.assert_array_equal(restored, view)
    packed[...] = 0
    np.testing.assert_array_equal(restored, view)
    assert not np.shares_memory(packing.pack(codes, bits), codes)


def test_each_token_stands_alone():
    codes = np.random.default_rng(0).integers(0, 8, (7, 5), dtype=np.uint8)
    packed = packing.pack(codes, 3)
    np.testing.assert_array_equal(packing.unpack(packed[3:4], 3, 5), codes[3:4])


def test_bad_input_is_refused():
    codes = np.array([[0, 4]], dtype=np.uint8)
    with pytest.raises(ValueError, match=r"codes must be below 4 for bits=2, got 4"):
        packing.pack(codes, 2)
    with pytest.raises(ValueError, match=r"codes must be below 1 for bits=0, got 4"):
        packing.pack(codes, 0)
    with pytest.raises(TypeError, match=r"codes must have dtype uint8, got int64"):
        packing.pack(codes.astype(np.int64), 3)
    with pytest.raises(TypeError, match=r"packed must have dtype uint8, got int64"):
        packing.unpack(codes.astype(np.int64), 3, 5)
    for dim in (4, 11):  # one byte too many, one too few
        with pytest.raises(ValueError, match=rf"packed must hold {-(-dim // 4)} bytes.*got 2"):
            packing.unpack(np.zeros((3, 2), dtype=np.uint8), 2, dim)
    for bits in (-1, 9):
        with pytest.raises(ValueError, match=rf"bits must be an integer from 0 to 8, got {bits}"):
            packing.pack(codes, bits)
    with pytest.raises(ValueError, match="dim must be an integer >= 1, got 0"):
        packing.bytes_per_vector(0, 3)
