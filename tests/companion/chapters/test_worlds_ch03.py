"""The two worlds of chapter 3's claims, and the pieces of its machinery."""

import math

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch03
from worlds import about

from kvlib import laws
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.laws import sphere
from kvlib.measure import metrics
from kvlib.quantize import RotatedQuantizer, codebooks

PAGE = worlds.sizes("03")
PRINTED = dict(enumerate(ch03.PRINTED, start=1))


def distortions(holds):
    """The constants as they are printed, or all of them a tenth larger."""
    off = 1.0 if holds else 1.1
    limit = {n: value for n, (value, _) in ch03.MAX_1960.items()}
    limit |= {n: laws.GAUSSIAN_PANTER_DITE / 4**n for n in (7, 8)}
    samples = {("mse", n): about(off * value, PAGE["draws"]) for n, value in PRINTED.items()}
    return ch03.judge_t03(
        ch03.predict_t03((2, 64)),
        distortions={n: off * value for n, value in PRINTED.items()},
        limit={n: off * value for n, value in limit.items()},
        scaled=dict.fromkeys((2, 64), [1.1, 2.5] if holds else [0.5, 3.0]),
        isotropic=ch03.Isotropic(128, PRINTED, samples),
    )


def shrinkage(holds):
    """Vectors that shrink by 1 - D, with the direction errors that follow, or by something else."""
    off, samples = 1.0 if holds else 1.1, {}
    second_order = {
        n: ch03.SingleVectorErrors(1 - math.sqrt(1 - D), 0.0, D / (1 - D))
        for n, D in PRINTED.items()
    }
    for n, D in PRINTED.items():
        exact = {r: laws.direction_error_of(D, r) for r in ("angle", "chord")}
        exact |= {"alignment": 1 - D, "slope": 1 - D, "unbiased slope": 1.0}
        exact["one-minus-cosine"] = second_order[n].one_minus_cosine
        exact["unbiased mse"] = second_order[n].unbiased_mse
        found = {
            name: off * about(value, PAGE["draws"], spread=1e-4) for name, value in exact.items()
        }
        found |= {
            "mse": about(D, PAGE["draws"], spread=1e-4),
            "part mse": about(D, PAGE["draws"], spread=1e-4),
        }
        found["unbiased miss"] = [2**-12 if holds else 0.1]
        samples |= {(name, n): values for name, values in found.items()}
    return ch03.judge_t04(
        ch03.predict_t04(PRINTED, 128),
        second_order=second_order,
        isotropic=ch03.Isotropic(128, PRINTED, samples),
    )


WORLDS = {"T03": distortions, "T04": shrinkage}
test_verdict_follows_the_world = worlds.follow(WORLDS)


@pytest.mark.parametrize(("dim", "bits"), [(2, 1), (3, 2), (64, 3)])
def test_closed_form_moments_are_the_integrals(dim, bits):
    book = codebooks.lloyd_max(dim, bits)
    assert ch03.quadrature_distortion(book) == pytest.approx(book.distortion, rel=1e-9)


def test_lloyd_on_the_normal_law_finds_the_limit():
    witness = ch03.gaussian_lloyd(np.linspace(-2, 2, 4))
    assert witness.distortion == pytest.approx(ch03.gaussian_limit([2])[2], rel=1e-8)


def test_second_order_law_of_single_vectors():
    x = np.random.default_rng(5).standard_normal((20_000, 16))
    book = codebooks.lloyd_max(16, 2)
    unit = ch03.unit_vectors(x)
    x_hat = book.dequantize(book.quantize(unit))
    cosine = 1 - metrics.direction_error(unit, x_hat, "chord") ** 2 / 2
    first, second = ch03.first_order_law(book.distortion), ch03.second_order_law(book)
    measured = float(1 - cosine.mean())
    assert measured == pytest.approx(second.one_minus_cosine, rel=0.01)
    assert abs(first.one_minus_cosine / measured - 1) > 0.03


def test_isotropic_vectors_lose_d():
    quantizers = {n: RotatedQuantizer(n) for n in (1, 2)}
    unbiased = {n: RotatedQuantizer(n, scale="unbiased") for n in (1, 2)}
    found = ch03.measure_isotropic(
        quantizers, unbiased, dim=32, draws=3, tokens=512, seed=np.random.SeedSequence(1)
    )
    assert found.bits == (1, 2)
    for n in found.bits:
        assert found.distortion[n] == codebooks.lloyd_max(32, n).distortion
        assert found.relative_error(n).estimate == pytest.approx(1, abs=0.05)
        assert found.interval("unbiased slope", n).estimate == pytest.approx(1, abs=0.02)
    assert {len(values) for values in found.samples.values()} == {3}
    assert {part.shape for part in found.logits} == {(128,)}


def test_pooled_errors_are_the_mean_squared_errors():
    unit = sphere.sample(200, 8, rng=np.random.default_rng(2))
    books = [codebooks.lloyd_max(8, n) for n in (1, 4)]
    direct = [np.square(unit - b.dequantize(b.quantize(unit))).sum(-1).mean() for b in books]
    assert ch03.pooled_errors(np.sort(unit.ravel()), books) == pytest.approx(direct, rel=1e-10)


def test_errors_of_heads_have_the_shape_they_say():
    x = np.random.default_rng(3).standard_normal((1, 2, 64, 8)).astype(np.float32)
    cache = KVCache(x, x, 2 * x, causal=True, name="made up", layers=(0,), heads=(0, 1))
    turns = {"none": ch03.Turn("none", draws=1), "Hadamard": ch03.Turn("hadamard", draws=3)}
    found = ch03.measure_heads({"m": cache}, turns, range(1, 5), seeds=[1, 2, 3])
    assert found.ratio("m", "K", "Hadamard").shape == (2, 3, 4)
    assert found.at(4, "V", "none").shape == (2, 1)
    # Directions do not know of a scale, and no draw that is left out changes another.
    assert np.array_equal(found.ratio("m", "K", "Hadamard"), found.ratio("m", "V", "Hadamard"))
    through_bytes = ch03.measure_first_head(cache, [4], seed=1)
    assert found.at(4, "K", "Hadamard")[0, 0] == pytest.approx(through_bytes[0], rel=1e-3)


def test_spikes_obey_their_law():
    quantizers = {"Hadamard": {2: RotatedQuantizer(2, side_dtype="float32")}}
    found = ch03.measure_spikes(
        {"spike": synthetic.spike(0.99)},
        quantizers,
        dim=64,
        draws=2,
        tokens=256,
        seed=np.random.SeedSequence(4),
    )
    law = ch03.spike_law(codebooks.lloyd_max(64, 2), 0.99)
    assert found.mean("spike", "Hadamard", 2) == pytest.approx(law, rel=0.02)


def test_best_partition_of_few_points():
    points = np.array([0.0, 1.0, 10.0, 12.0])
    assert ch03.best_partition(points, 2) == pytest.approx((2 * 0.25 + 2 * 1.0) / 4)
    assert ch03.best_partition(points, 4) == pytest.approx(0, abs=1e-12)
