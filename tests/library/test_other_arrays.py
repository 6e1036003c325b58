"""Arrays that are not numpy's own: bfloat16, torch tensors, masked arrays.

Neither ml_dtypes nor torch is needed. Where they are installed they are tried; a stand-in behaves
as a tensor does in what numpy can and cannot read.
"""

import numpy as np
import pytest

from kvlib import (
    BlockQuantizer,
    KVCache,
    RotatedQuantizer,
    attention_kl,
    attention_output,
    attention_weights,
    named,
    relative_mse,
)
from kvlib.checks import as_array, as_booleans, as_integers
from kvlib.data import captured, heads


def rounded(x):
    """float32 numbers that bfloat16 holds: the upper 16 bits."""
    bits = np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


X = rounded(np.random.default_rng(0).standard_normal((2, 3, 40, 16)))


class Tensor:
    """A torch tensor: numpy reads it unless it is bfloat16, has a gradient, or is elsewhere."""

    def __init__(self, values, dtype="float32", *, grad=False, device="cpu"):
        self.values, self.dtype, self.grad, self.device = values, f"torch.{dtype}", grad, device

    def detach(self):
        return Tensor(self.values, self.dtype[6:], device=self.device)

    def float(self):
        return Tensor(self.values.astype(np.float32), grad=self.grad, device=self.device)

    def numpy(self):
        if self.device != "cpu":
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values

    def __array__(self, dtype=None, copy=None):
        return self.numpy()


def of_torch(x, dtype):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(x).to(getattr(torch, dtype)).requires_grad_()


def of_ml_dtypes(x, dtype):
    return x.astype(getattr(pytest.importorskip("ml_dtypes"), dtype))


MAKE = {
    "stand-in bfloat16": lambda x: Tensor(x, "bfloat16", grad=True),
    "stand-in float32": lambda x: Tensor(x, grad=True),
    "torch bfloat16": lambda x: of_torch(x, "bfloat16"),
    "torch float32": lambda x: of_torch(x, "float32"),
    "ml_dtypes": lambda x: of_ml_dtypes(x, "bfloat16"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_other_arrays_are_the_numbers_they_hold(make):
    other = make(X)
    array = as_array(other, "x")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, X)
    for quantizer in (
        RotatedQuantizer(4),
        RotatedQuantizer(3, "haar", sketch="gaussian", center=True),
        BlockQuantizer(4, along="tokens", size=8),
    ):
        mine, theirs = quantizer.encode(other), quantizer.encode(X)
        assert (mine.codes == theirs.codes).all()
        np.testing.assert_array_equal(mine.decode(), theirs.decode())
        cache = quantizer.grow()
        cache.append(other)
        np.testing.assert_array_equal(cache.decode(), theirs.decode())
    for function in (attention_weights, attention_output, attention_kl, relative_mse):
        count = {attention_output: 3, attention_kl: 3}.get(function, 2)
        np.testing.assert_array_equal(function(*[other] * count), function(*[X] * count))
    k_hat, _ = named("C-EDEN", 4).encode(other, other, mean=(make(X[..., :1, :]), None)).decode()
    assert k_hat.shape == X.shape


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_caches_take_other_arrays_and_store_numpys(make, tmp_path):
    cache = KVCache(make(X), make(X[:, :1]), make(X[:, :1]), name="other")
    assert {cache.q.dtype, cache.k.dtype, cache.v.dtype} == {np.dtype(np.float32)}
    captured.save(tmp_path / "x.npz", cache)
    np.testing.assert_array_equal(captured.load(tmp_path / "x.npz").q, X)
    assert next(heads.heads(cache)).q.shape == (1, 3, 40, 16)


def test_tensors_that_numpy_cannot_read_are_named():
    far = Tensor(X, device="cuda:0")
    for call in (
        lambda: as_array(far, "x"),
        lambda: RotatedQuantizer(3).encode(far),
        lambda: RotatedQuantizer(3).grow().append(far),
    ):
        with pytest.raises(
            TypeError, match=r"x must be .* such as x\.cpu\(\), got a tensor of torch"
        ):
            call()
    with pytest.raises(TypeError, match=r"k must be an array, or .* on cuda:0 \(can't convert"):
        KVCache(X, far, X)


def test_types_that_are_no_numbers_stay_refused():
    for bad in (Tensor(X > 0, "bool"), Tensor(X.astype(complex), "complex64")):
        with pytest.raises(TypeError, match="x must hold real numbers, got dtype"):
            RotatedQuantizer(3).encode(bad)
        with pytest.raises(TypeError, match="q must be an array of float16, float32 or float64"):
            KVCache(bad, X, X)
    with pytest.raises(TypeError, match=r"q must be an array of float16, .* got list"):
        KVCache(X.tolist(), X, X)


def test_float16_tensors_stay_float16():
    half = X.astype(np.float16)
    assert KVCache(Tensor(half, "float16"), half, half).q.dtype == np.float16
    cache = BlockQuantizer(4, along="tokens", size=64).grow()
    cache.append(Tensor(half, "float16"))
    assert cache.nbytes == half.nbytes


def test_masks_and_indices_may_be_tensors():
    mask = Tensor(np.arange(40) < 30, "bool")
    np.testing.assert_array_equal(as_booleans(mask, "mask"), mask.values)
    np.testing.assert_array_equal(as_integers(Tensor(np.arange(5), "int64"), "ids"), np.arange(5))
    p = attention_weights(X, X, mask=mask)
    assert (p[..., 30:] == 0).all()
    assert KVCache(X, X, X, mask=mask).mask.sum() == 30


MASKED = np.ma.masked_array(X, mask=np.zeros(X.shape, bool))
FLAGS = np.ma.masked_array(np.ones(40, bool))
NUMBERS = np.ma.masked_array(np.arange(40))
REFUSALS = {
    "encode": lambda: RotatedQuantizer(3).encode(MASKED),
    "encode mean": lambda: RotatedQuantizer(3, center=True).encode(X, mean=MASKED[..., :1, :]),
    "encode mask": lambda: RotatedQuantizer(3, center=True).encode(X, mask=FLAGS),
    "blocks": lambda: BlockQuantizer(3).encode(MASKED),
    "blocks mask": lambda: BlockQuantizer(3).encode(X, mask=FLAGS),
    "grow": lambda: RotatedQuantizer(3).grow().append(MASKED),
    "grow blocks": lambda: BlockQuantizer(3).grow().append(MASKED),
    "grow scheme": lambda: named("WHT", 3).grow().append(X, MASKED),
    "scheme mask": lambda: named("C-EDEN", 3).encode(X, X, mask=FLAGS),
    "attention mask": lambda: attention_kl(X, X, X, mask=FLAGS),
    "attention tokens": lambda: attention_kl(X, X, X, causal=True, query_tokens=NUMBERS),
    "cache q": lambda: KVCache(MASKED, X, X),
    "cache k": lambda: KVCache(X, MASKED, X),
    "cache v": lambda: KVCache(X, X, MASKED),
    "cache ids": lambda: KVCache(X, X, X, ids=NUMBERS),
    "cache mask": lambda: KVCache(X, X, X, mask=FLAGS),
    "cache positions": lambda: KVCache(X, X, X, positions=NUMBERS),
    "cache query_tokens": lambda: KVCache(X, X, X, query_tokens=NUMBERS),
}


@pytest.mark.parametrize("call", REFUSALS.values(), ids=REFUSALS)
def test_masked_arrays_are_refused_everywhere(call):
    with pytest.raises(TypeError, match="must not be a masked array"):
        call()
