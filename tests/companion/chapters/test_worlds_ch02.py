"""Negative controls of chapter 2, and its pieces by themselves."""

from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
import worlds
from kvbook.experiments import ch02
from kvbook.figures import ch02 as figures
from worlds import about

from kvlib import laws
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.laws import sphere
from kvlib.quantize.rotations import Rotation

SIZES = worlds.sizes("02")
KINDS = ("none", "hadamard", "haar")
FAMILIES = {
    "gaussian": synthetic.GAUSSIAN,
    "Student-t ν=3": synthetic.student_t(3),
    "Student-t ν=1.05": synthetic.student_t(1.05),
    **{f"rank {rank}": synthetic.low_rank(rank) for rank in (1, 4, 32)},
}


def one_hot(count, dim):
    """The vectors farthest from uniform."""
    return np.eye(dim)[np.arange(count) % dim]


def made_histograms(draw, coordinates=None, repetitions=None):
    """Histograms of made-up vectors at the page's sizes; Haar is rotated by nothing."""
    haar = {d: np.broadcast_to(np.eye(d), (2, d, d)) for d in ch02.DIMS}
    return ch02.measure_histograms(
        FAMILIES,
        haar,
        coordinates=coordinates or SIZES["coordinates"],
        repetitions=repetitions or SIZES["rotations"],
        compared=2,
        stream=np.random.SeedSequence(2).spawn(4)[3],
        draw=draw,
    )


def coordinate_law(holds):
    """Unit vectors that are uniform, or coordinates of another law and another size."""
    rng, size = np.random.default_rng(2), 1.0 if holds else 1.2
    counts = {d: ch02.HAAR_ROTATIONS[d] for d in ch02.DIMS}
    haar = {d: size * sphere.sample(n * d, d, rng=rng).reshape(n, d, d) for d, n in counts.items()}
    measured = ch02.measure_t01(
        haar,
        batches=SIZES["rotations"],
        rng=rng,
        draw=lambda count, d, rng: size * sphere.sample(count, d, rng=rng),
    )
    distance = ch02.distance_to_normal(
        1024, cdf=lambda x, d: sphere.coordinate_cdf(x, d if holds else d // 2)
    )
    return ch02.judge_t01(ch02.predict_t01(), measured, distance)


@lru_cache
def uniform_or_one_hot(holds):
    """Histograms of families that are all uniform, or all one-hot."""

    def draw(family, count, dim, rng):
        return sphere.sample(count, dim, rng=rng) if holds else one_hot(count, dim)

    return made_histograms(draw)


def histograms(holds):
    """The law's distance to the normal likewise."""
    distance = (0.14 if holds else 140.0) / 1024
    return ch02.judge_c01(ch02.predict_c01(), uniform_or_one_hot(holds), distance)


@lru_cache
def null_ceiling():
    """The 99% point of the null at the page's sizes."""
    sizes = {"repetitions": SIZES["null_draws"], "rng": np.random.default_rng(5)}
    return ch02.null_ceiling(ch02.null_distances(SIZES["coordinates"], **sizes))


def hidden_rank(holds):
    """Low rank that shows at d = 8 and nowhere else, or everywhere else."""

    def draw(family, count, dim, rng):
        shows = holds == (dim == 8)
        return one_hot(count, dim) if shows else sphere.sample(count, dim, rng=rng)

    return ch02.judge_c02(ch02.predict_c02(), made_histograms(draw), null_ceiling())


INPUTS = ("one-hot", "spike", "ν=1.05", "ν=3")


def made_vectors(holds):
    """A Hadamard round that leaves a lattice and further ones that repair it, or the reverse."""
    page = {"1 round": 3.0 if holds else 1.0, "Haar": 1.0 if holds else 3.0}
    later = 1.0 if holds else 3.0
    before = {"spike": 128 * (0.99**2 + 3 * 0.01**2 / 129)}
    before |= {f"ν={nu:g}": laws.student_t_kurtosis(nu, 128) for nu in (1.05, 3)}
    after = {name: laws.hadamard_kurtosis(kurtosis, 128) for name, kurtosis in before.items()}
    rotations = SIZES["vector_rotations"]
    # Single rotations scatter by a quarter, kurtosis by a tenth; more rotations of spiky vectors.
    counts = {name: rotations * (8 if name in ("one-hot", "spike") else 1) for name in INPUTS}
    return ch02.VectorByVector(
        ratio={
            (name, d, turn): about(
                page.get(turn, later), counts[name] if d < 1024 else rotations, 0.25
            )
            for name in INPUTS
            for d in ch02.VECTOR_DIMS
            for turn in ch02.ROTATIONS
        },
        kurtosis={
            (name, 128, "1 round"): about(
                k if holds else 0.8 * k, counts[name], 0.01 if name == "spike" else 0.1
            )
            for name, k in after.items()
        },
        before={(name, 128): np.full(counts[name], kurtosis) for name, kurtosis in before.items()},
        one_hot_error=0.0 if holds else 0.1,
    )


def rounds(holds):
    """Verdict on those vectors."""
    return ch02.judge_t02(ch02.predict_t02(), made_vectors(holds))


WORLDS = {
    "T01": coordinate_law,
    **{f"C01/{reading}": histograms for reading in ch02.READINGS},
    "C02": hidden_rank,
    "T02": rounds,
}
test_verdict_follows_the_world = worlds.follow(WORLDS)


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_tabulated_law_is_the_law(dim):
    x = np.linspace(-1, 1, 1001)
    off = np.abs(ch02.coordinate_law(dim)(x) - sphere.coordinate_cdf(x, dim))
    assert off.max() < 1 / 8192  # a step of the table


def test_haar_matrices_are_orthogonal_and_fixed_by_their_stream():
    first, again = (ch02.haar_matrices({4: 3}, np.random.SeedSequence(7))[4] for _ in range(2))
    assert np.array_equal(first, again)
    assert np.allclose(first @ first.transpose(0, 2, 1), np.eye(4))


def test_rank_one_histogram_is_as_far_off_as_derived():
    rng = np.random.default_rng(6)
    found = ch02.measure_subspaces([(1, 64)], tokens=128, draws=2, rng=rng)[1, 64]
    # Channels hold two values each: 3/8 in the mean.
    assert found.channel.mean() == pytest.approx(ch02.channel_distance(1, 64, 128), rel=0.1)
    assert ch02.effective_directions(found.before) == pytest.approx(1)
    assert np.allclose(found.before, found.after, atol=1e-12)
    d = 256
    assert ch02.rank_one_distance(d, rng=rng) == pytest.approx(0.4 / np.sqrt(d), rel=0.1)


def test_spike_kurtosis_is_that_of_drawn_spikes():
    x = ch02.draw_directions(synthetic.spike(0.9), 4000, 16, np.random.default_rng(8))
    assert 16 * (x**4).sum(-1).mean() == pytest.approx(ch02.spike_kurtosis(0.9, 16), rel=0.01)


def test_vectors_are_rotated_batch_by_batch():
    x = [np.eye(8)[:2], np.eye(8)[2:4]]
    haar = ch02.haar_matrices({8: 1}, np.random.SeedSequence(1))[8]
    assert ch02.rotated(x, "Haar", [1, 2], haar).shape == (1, 2, 8)
    assert np.array_equal(ch02.rotated(x, "none", [1, 2], haar), np.stack(x))
    twice = ch02.rotated(x, "2 rounds", [1, 2], haar)
    assert np.array_equal(twice[1], Rotation("hadamard", 8, 2, rounds=2).apply(x[1]))


def test_surprise_is_measured_less_foretold():
    made = made_vectors(True)
    surprises = ch02.kurtosis_surprises(made)
    assert set(surprises) == set(made.kurtosis)
    assert max(abs(i.estimate) for i in surprises.values()) < 0.01
    wrong = ch02.kurtosis_surprises(made_vectors(False))
    assert all(i.high < -0.1 for i in wrong.values())


def test_captured_heads_share_of_a_common_mean():
    rng = np.random.default_rng(10)
    x = rng.standard_normal((1, 1, 2, 64, 16))
    shifted = x + 10.0
    cache = KVCache(x, shifted, x, causal=True, name="made up", layers=(0,), heads=(0,))
    keys, values = ch02.measure_captured({"made up": cache}, bits=3, seeds=[1, 2])
    assert (keys.which, values.which) == ("K", "V")
    assert keys.share > 0.98
    assert values.share < 0.05
    assert keys.channel_centred < keys.channel
    assert keys.channel_centred == pytest.approx(values.channel_centred)
    assert list(ch02.select([keys, values], "made up", "V")) == [values]


@pytest.fixture(scope="module")
def of_uniform_vectors():
    """Histograms of families that are all uniform."""
    return made_histograms(
        lambda family, count, dim, rng: sphere.sample(count, dim, rng=rng),
        coordinates=2**14,
        repetitions=6,
    )


def test_the_figure_shows_arithmetic_means(of_uniform_vectors):
    # seaborn averages in the scale of the axis: on a logarithmic one the mean would be geometric.
    measured, ceiling = of_uniform_vectors, dict.fromkeys(ch02.DIMS, 0.01)
    fig = figures.histogram_distances(measured, list(FAMILIES), ceiling, heavy_tails={})
    for ax, name in zip(fig.axes, FAMILIES, strict=True):
        drawn = {round(float(y), 12) for line in ax.lines for y in line.get_ydata()}
        cells = [(name, d, kind) for d in ch02.DIMS if (name, d) in measured for kind in KINDS]
        assert {round(measured.interval(*cell).estimate, 12) for cell in cells} <= drawn
    plt.close(fig)


def test_a_histogram_is_empty_where_the_rank_exceeds_the_dimension(of_uniform_vectors):
    assert ("rank 32", 8) not in of_uniform_vectors
    fig = figures.histograms(of_uniform_vectors, ("gaussian", "rank 4", "rank 32"))
    shown = np.array([ax.axison for ax in fig.axes]).reshape(4, 3)
    assert shown[:, 2].tolist() == [False, False, True, True]
    assert [ax.get_ylabel() for ax in fig.axes[::3]] == [f"$d={d}$" for d in ch02.DIMS]
    assert all(ax.yaxis.label.get_visible() for ax in fig.axes[::3])
    plt.close(fig)
