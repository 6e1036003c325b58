"""Chapter 11: every verdict follows its world, and a search counts and matches as it says."""

import math

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch11
from kvbook.experiments.ch11 import c04, c08, c16, c18
from kvbook.experiments.ch11.baselines import RAW_METHODS, on_raw_keys
from kvbook.experiments.ch11.breadth import KV_BITS, OVER, wide_baselines
from kvbook.experiments.ch11.c15 import as_directions
from kvbook.experiments.ch11.errors import (
    ANGLE,
    ONE_MINUS_COSINE,
    errors,
    jackknife_interval,
    rank_correlation,
)
from kvbook.experiments.ch11.planes import FAT, RANK_32
from kvbook.experiments.ch11.summary import Reproduction, outcome

from kvlib import laws, named, stats
from kvlib.measure import metrics
from kvlib.quantize import RotatedQuantizer, codebooks

SCHEMES = ("KV", "KQV", "KQV, orthogonal", *(f"QKQV, {name}" for name in ch11.SKETCHES))
ARMS = ("KV", "KQV", "KQV, Gaussian")
KV, KQV = 0, 1
SIZES = worlds.sizes("11")


def four_bits_ahead(holds):
    """A sketch that costs as its closed form says in every panel, or saves as much."""
    rng, kl = np.random.default_rng(7), {}
    # A head of few dimensions is noisy; at d=2 the logs of the page's ratios scatter by two.
    for dim, spread in {2: 2.0, 8: 0.6, 128: 0.2}.items():
        draws = SIZES["draws" if dim == 128 else "small_draws"]
        log = spread / math.sqrt(2) * rng.standard_normal((draws, 3, 3))
        log[:, 1:] += math.log(4.0 if dim == 2 else 5.0) * (1 if holds else -1)
        kl[dim] = np.exp(log)
    return ch11.judge_c03(ch11.predict_c03(), ch11.Boxes(kl))


def low_rank_far_above(reading):
    """The world in which one reading gives the published size and ratio, or none does."""

    def world(holds):
        rng, draws = np.random.default_rng(8), SIZES["wide_draws"]

        def noise(*shape):
            return np.exp(0.3 * rng.standard_normal(shape))

        panel, kl = 0.2 * noise(draws, 3, 3), noise(draws, 3, len(ch11.LENGTHS))
        heavy, extreme, unit, product, full = (
            list(ch11.LENGTHS).index(name)
            for name in (c04.HEAVY, c04.EXTREME, c04.UNIT, c04.PRODUCT, c04.AS_LONG)
        )
        kl[..., [unit, product]] *= 0.2
        kl[..., [heavy, extreme]] *= 0.2
        if holds:
            kl[..., product] *= 20
            kl[..., full] *= 0.5
            panel[..., 2] *= 20 if reading == c04.ONE_SPREAD else 1
            kl[..., unit] *= 20 if reading == c04.AS_DRAWN else 1
        return ch11.judge_c04(ch11.predict_c04(), ch11.Boxes({1024: panel}), ch11.Lengths(kl))

    return world


def published_ratio(reading):
    """KQV ahead of QKQV by the published ratio, of KV where the reading says so; or behind."""

    def world(holds):
        rng = np.random.default_rng(9)
        draws, sign = SIZES["draws"], 1 if holds else -1
        # Overlap such that P(x < y) gives the published r at the published ratio.
        spread = math.log(2.25) / 2.386 / math.sqrt(2)
        kl = np.exp(spread * rng.standard_normal((len(SCHEMES), 7, draws)))
        kl[1:3] = kl[1]  # both KQVs have the same keys
        kl[KV] = kl[1] * np.exp(0.1 * rng.standard_normal((7, draws)))
        parts = [rng.uniform(0.9, 1.1, (len(SCHEMES), 4, 7, draws)) for _ in "KVT"]
        for part in parts:
            part[3:] *= 2.0**sign
        kl[3:] *= 2.25**sign
        if reading == c08.AGAINST_BOTH or not holds:
            kl[KV] *= 3.0**sign
            for part in parts:
                part[KV] *= 2.0**sign
        measured = ch11.SchemeErrors(SCHEMES, tuple(ch11.FAMILIES), kl, *parts)
        of_keys = {}
        for name in ("KQV", *ch11.SKETCHES):
            of_draws = np.exp(spread * rng.standard_normal((4, 1, SIZES["ratio_draws"])))
            above = 1 if name == "KQV" else (2.25 if holds else 0.5)
            of_keys[name] = above * of_draws * np.ones((1, max(ch11.COUNTS), 1))
        keys = ch11.KeyKl(of_keys)
        return ch11.judge_c08(ch11.predict_c08(), measured, keys, chance=0.5)

    return world


def one_curve(holds):
    """Three clouds on one rising curve down the chain, KV above it before; or on falling ones."""
    rng = np.random.default_rng(10)
    draws = SIZES["verdict_draws"]

    def noise(*shape, spread=0.1):
        return np.exp(spread * rng.standard_normal(shape))

    angle = np.array([0.03, 0.055, 0.095] if holds else [0.074, 0.05, 0.045])[:, None]
    # Attention differs from draw to draw, and with it KL at the same direction error.
    of_draw = noise(draws, spread=0.5)
    along = 0.03 * 2.0 ** (4 - np.arange(1, 5))[:, None]
    angles, angles_along = angle * noise(3, draws, spread=0.02), along * noise(4, draws)
    over = np.array([1, 1, 3] if holds else [1, 2, 0.6])[:, None]
    kl, kl_along = over * 15 * angles**2 * of_draw, 15 * angles_along**2 * of_draw
    kl = kl * noise(3, draws)

    def link(spread):
        """A quantity that follows KL, or falls with it and differs by scheme."""
        apart = np.array([1, 1, 1] if holds else [1, 0.5, 0.5])[:, None]
        y, y_along = (x ** (0.6 if holds else -0.6) for x in (kl, kl_along))
        return apart * y * noise(3, draws, spread=spread), y_along * noise(4, draws, spread=spread)

    (routing, routing_along), (output, output_along) = link(0.05), link(0.15)
    points = np.array([angles, kl, routing, output])
    curve = np.array([angles_along, kl_along, routing_along, output_along])
    tops = np.ones((3, 4, draws))
    bridge = ch11.Bridge(("KQV", "QKQV", "KV"), points, curve, tops, np.full(draws, 0.9))
    worst = rng.normal(4 if holds else 10, 1.4, SIZES["worst_runs"])
    return ch11.judge_c13(ch11.predict_c13(), bridge, worst)


def made_planes(draws=24):
    """Errors and KL of the two families, all of them one tenth."""
    rng = np.random.default_rng(12)
    quantities = 0.1 * rng.uniform(0.999, 1.001, (5, 3, 13, 2, draws))
    caches = quantities[:, :, :12].reshape(5, 3, 3, 4, 2, draws)
    return ch11.Planes(ARMS, (RANK_32, FAT), caches, quantities[:, :, 12])


def fat_tailed_directions(stable, of):
    """The world of one reading of "stable", and one of the error, whose numbers are met."""

    def world(holds):
        rng = np.random.default_rng(16)
        planes = made_planes(SIZES["draws"])
        # Views (budget, error of K, draw), each with some scatter.
        kv, kqv = planes.errors[:, KV, 0, :, 1], planes.errors[:, KQV, 0, :, 1]
        for x in (kv, kqv):
            x *= np.exp(0.02 * rng.standard_normal(x.shape)) / 0.1
        two, four = 0, 2  # indices of the budgets
        for j in (1, 2):
            met = j == of
            kv[two, j] *= 0.645 if met else 0.5
            kv[four, j] *= 0.202 if met else 0.16
            kqv[four, j] *= 0.027
            kqv[two, j] *= 0.027 * (1 if stable else 3.5)
        if not holds:
            # KV far below KQV, and rising; KQV changing by half; all of them off.
            kqv[four, 1:3] *= 2
            kv[two, 1:3], kv[four, 1:3] = 0.01 * kv[four, 1:3], 0.03 * kv[four, 1:3]
            kqv[two, 1:3] = 0.5 * kqv[four, 1:3]
        # Twice the distance of two tight clouds is the square of their energy distance.
        clouds = 0.1 * rng.standard_normal((2, SIZES["verdict_draws"], 6))
        clouds[1, :, 0] += 0.73 if holds else 2.0
        distance = ch11.energy_interval(*clouds)
        return ch11.judge_c15(ch11.predict_c15(), planes, distance)

    return world


def towards_the_line(reading):
    """Values whose distance to the Lloyd-Max line halves with each bit, or doubles."""

    def world(holds):
        rng, errors_of = np.random.default_rng(12), {}
        names = [*ch11.KQV_VALUES, *c16.READINGS.values()]
        for name in names:
            nearer = holds and (name in ch11.KQV_VALUES or name == c16.READINGS[reading])
            points = np.empty((5, 4, SIZES["plane_draws"]))
            for i, n in enumerate(ch11.BUDGETS):
                line = math.asin(2.0**-n) / math.pi
                size = 2.0**-n if nearer else 0.01 * 2.0**n
                points[i] = 4.0**-n
                points[i, 2] = line + size * rng.normal(1, 0.1, points.shape[-1])
            errors_of[name] = points
        return ch11.judge_c16(ch11.predict_c16(), ch11.ValuePoints(errors_of))

    return world


def published_row(reading):
    """The world in which one reading has the published r, or nearly the opposite ones."""

    def world(holds):
        rng = np.random.default_rng(13)
        published = np.array(list(ch11.PUBLISHED_CORRELATIONS.values()))
        opposite = np.array([-1, -0.7, -0.8, -0.958, 0.923])
        numbers = {}
        for name in (ch11.NATURAL, ch11.NEAREST):
            r = published if holds and name == reading else opposite
            z = rng.standard_normal((5, 2, SIZES["verdict_draws"]))
            z[:, 0] += ch11.apart(r)[:, None]
            numbers[name] = z
        return ch11.judge_c14(ch11.predict_c14(), ch11.Contest(numbers), tried=2)

    return world


def fat_tails(holds):
    """Errors below their limit for every fat tail, and KQV ahead of KV; or the reverse."""
    rng, draws = np.random.default_rng(14), SIZES["plane_draws"]
    over = (0.95 if holds else 1.5) * np.exp(0.03 * rng.standard_normal((draws // 2, 2, 6, 4)))
    planes = made_planes(draws)
    # Heads with such tails differ by an order of magnitude.
    kl = np.exp(rng.standard_normal((2, 5, draws)))
    planes.kl[:, KQV, 1], planes.kl[:, KV, 1] = kl[0] * (0.02 if holds else 50), kl[1]
    tails = ch11.FatTails(("one round", "two rounds"), over)
    return ch11.judge_c17(ch11.predict_c17(), tails, planes)


def table_four(holds):
    """KQV the best of three in KL and output, and no sketch best of all; or the reverse."""
    sign, rng = 1 if holds else -1, np.random.default_rng(15)

    def cost(cell):
        return 2.0 * bool(cell.sketch) + 1.0 * (cell.rotation == "none")

    def of(size):
        return np.exp(sign * size + 0.2 * rng.standard_normal((SIZES["best_draws"], 5, 10)))

    cells = dict.fromkeys(cell for pair in c18.pairs() for cell in pair)
    kl = {cell: of(cost(cell)) for cell in cells}
    # Values cost less than keys, so that the sketch on V does not decide between the three.
    outputs = {(key, value): of(cost(key) + 0.2 * cost(value)) for key, value in c18.pairs()}
    return ch11.judge_c18(ch11.predict_c18(), ch11.BestSchemes(kl, outputs))


WORLDS = {
    "C03": four_bits_ahead,
    **{f"C04/{reading}": low_rank_far_above(reading) for reading in c04.READINGS},
    **{
        f"C08/{reading}": published_ratio(reading)
        for reading in (c08.AGAINST_QKQV, c08.AGAINST_BOTH, *c08.sketch_readings())
    },
    "C13": one_curve,
    **{f"C16/{reading}": towards_the_line(reading) for reading in c16.READINGS},
    "C14": published_row("natural"),
    "C15/angle/π": fat_tailed_directions(stable=False, of=ANGLE),
    "C15/1 − cos": fat_tailed_directions(stable=False, of=ONE_MINUS_COSINE),
    "C17": fat_tails,
    "C18": table_four,
}

test_verdict_follows_the_world = worlds.follow(WORLDS)


# ------------------------------------------------------------------------- the searches


def search(values, published, *, relative=True, tolerance=0.1):
    """A search with readings named by their number."""
    values, published = np.array(values, dtype=float), np.array(published, dtype=float)
    labels = [(i,) for i in range(len(values))]
    return ch11.Search(labels, values, published, np.full(published.shape, tolerance), relative)


def test_a_reading_matches_all_numbers_or_none():
    found = search([[1.05, 2.1], [1.05, 2.3], [0.5, 2.0]], [1, 2])
    np.testing.assert_array_equal(found.hits, [True, False, False])
    assert found.found == 1
    assert found.nearest[0] == 0


def test_a_relative_tolerance_is_of_the_published_number():
    assert search([[-9.5]], [-10.0]).found == 1
    assert search([[-9.5]], [-10.0], relative=False).found == 0


def test_marginal_counts_a_distinct_reading_once():
    found = search([[1, 2], [1, 5], [3, 7]], [1, 2])
    alone = found.marginal([0], lambda label: (label[0] // 2,))
    assert alone.labels == [(0,), (1,)]
    np.testing.assert_array_equal(alone.values, [[1], [3]])
    assert (found.found, alone.found) == (1, 1)


def test_chance_is_one_for_one_number_and_small_for_many_independent_ones():
    rng = np.random.default_rng(3)
    values, stream = rng.uniform(1, 2, (200, 6)), np.random.SeedSequence(4)
    alone = ch11.chance_of_match(values[:, :1], 0.01, relative=True, stream=stream, count=50)
    together = ch11.chance_of_match(values, 0.01, relative=True, stream=stream, count=50)
    assert alone == 1
    assert together < 0.1


def test_distinct_takes_the_first_of_each_kind():
    labels = [("a", 1), ("a", 2), ("b", 1), ("c", 1)]
    assert ch11.distinct([1, 0, 3, 2], labels, lambda x: x[0], count=2) == [1, 3]


@pytest.mark.parametrize(
    ("natural", "hits", "said"),
    [(True, 0, "yes"), (False, 3, "by some"), (False, 0, "by none")],
)
def test_the_outcome_is_said_by_rule(natural, hits, said):
    assert outcome(natural, hits).startswith(said)


# ------------------------------------------------------------------------- its machinery


def test_errors_are_those_of_the_library():
    x, y = np.random.default_rng(5).standard_normal((2, 3, 8, 16))
    squared, cosine, angle, chord = errors(x, y)
    np.testing.assert_allclose(squared, metrics.relative_mse(x, y).mean(-1), rtol=1e-12)
    for found, reading in ((cosine, "one-minus-cosine"), (angle, "angle"), (chord, "chord")):
        np.testing.assert_allclose(found, metrics.direction_error(x, y, reading).mean(-1), 1e-9)


def test_a_zero_reconstruction_is_at_a_right_angle():
    np.testing.assert_allclose(errors(np.ones((1, 4)), np.zeros((1, 4))), [1, 1, 0.5, 2**0.5])


@pytest.mark.parametrize("method", RAW_METHODS)
def test_scalar_baselines_have_no_more_levels_than_bits_allow(method):
    x = np.random.default_rng(6).standard_normal((4, 64))
    quantized = on_raw_keys(method, "token")(x, 2)
    assert all(np.unique(row.round(12)).size <= 4 for row in quantized)
    assert np.square(x - quantized).mean() < np.square(x).mean()


def test_a_damaged_codebook_has_the_pattern_it_was_searched_for():
    books = ch11.damaged_codebooks(256, np.random.default_rng(7))
    distortions = {n: book.distortion for n, book in books.items()}
    assert ch11.crossover_law(distortions, "hadamard", "mmse", 256) == (2, 3, 5)
    intact = {n: codebooks.lloyd_max(256, n).distortion for n in books}
    assert ch11.crossover_law(intact, "hadamard", "mmse", 256) == ()


def test_every_reduction_to_one_number_grows_with_the_error():
    points = np.random.default_rng(8).uniform(1, 2, (6, 40))
    points[:, 20:] += 2
    for numbers in ch11.one_number(points).values():
        assert ch11.sign_rank(numbers, 20) > 0.9


def test_sign_rank_is_the_rank_biserial_correlation():
    x, y = np.random.default_rng(9).standard_normal((2, 12))
    r = ch11.sign_rank(np.concatenate([x, y]), 12)
    assert r == pytest.approx(stats.rank_biserial(y, x).r)


def test_sign_rank_counts_ties_half():
    numbers = np.array([1.0, 2, 2, 3, 2, 2, 4])
    expected = stats.rank_biserial(numbers[3:], numbers[:3]).r
    assert ch11.sign_rank(numbers, 3, tied=True) == pytest.approx(expected)


@pytest.mark.parametrize(("draws", "least", "most"), [(12, 0.25, 0.35), (72, 0.84, 0.91)])
def test_the_power_of_the_search_of_c14(draws, least, most):
    by_budget = ch11.power_of_c14(draws, np.random.SeedSequence(5))
    assert least < np.prod(by_budget) < most
    assert by_budget[0] > 0.99


def test_power_is_less_against_an_r_that_scatters():
    stream = np.random.SeedSequence(6)
    scattering = ch11.power_of_c14(72, stream, published_draws=72)
    assert (scattering <= ch11.power_of_c14(72, stream) + 0.01).all()


def test_clouds_as_far_apart_as_asked_have_that_correlation():
    rng, r = np.random.default_rng(7), np.array([0.7, -0.923])
    z = rng.standard_normal((2, 2, 4000))
    z[:, 1] += ch11.apart(r)[:, None]
    np.testing.assert_allclose(ch11.sign_rank(z.reshape(2, -1), 4000), r, atol=0.02)


@pytest.mark.parametrize("r", list(ch11.PUBLISHED_CORRELATIONS.values()))
def test_each_published_r_fits_its_tolerance_at_the_size_of_the_page(r):
    below = np.linspace(0, 1, SIZES["verdict_draws"])
    # The second sample lies so that the share of pairs with it above is (1 + r) / 2.
    interval = stats.rank_biserial(below + shift_of(r), below).interval
    assert interval.estimate == pytest.approx(r, abs=0.01)
    assert abs(interval.low - r) < 0.15 > abs(interval.high - r)


def shift_of(r):
    """Between uniform clouds of width one: r = 1 - (1 - shift)^2."""
    return math.copysign(1 - math.sqrt(1 - abs(r)), r)


def test_a_wide_search_counts_the_pairs_of_its_groups():
    # Two groups; KQV has three readings, KV two.
    kqv = np.array([[0.027, 0.0271, 1.0], [0.027, 2.0, 2.0]])
    kv = np.array([[[0.645, 0.202], [0.64, 0.2]], [[0.645, 0.5], [0.1, 0.1]]])
    search = ch11.WideSearch(kqv, kv)
    assert len(search) == 12
    assert search.found == 4
    assert search.matches([2.0, 0.1, 0.1]) == 2
    assert search.power(search) == 1
    assert search.power(ch11.WideSearch(kqv * 1.2, kv)) == 0


def test_the_wider_search_holds_the_readings_of_the_first():
    books = {64: ch11.candidate_codebooks(64, np.random.SeedSequence(1))}
    sizes = {"draws": 2, "numbers_a_draw": 512}
    wide = ch11.search_widely(books, np.random.SeedSequence(2), **sizes)
    narrow = ch11.search_c15(books, np.random.SeedSequence(2), **sizes)
    assert wide.kqv.shape == (80, 120)
    assert wide.kv.shape == (80, 81, 2)
    # The first family of keys is the first drawn in both: (direction, over), then quantizers.
    label = narrow.labels[0]._replace(kv="cells, tensor", direction="θ/π", over="median")
    directions = list(as_directions(0.1, 0.9))
    group = 4 * directions.index("θ/π") + OVER.index("median")
    at = list(wide_baselines(books[64])).index("cells, tensor")
    middle = KV_BITS.index((2, 4))
    np.testing.assert_allclose(
        wide.kv[group, len(KV_BITS) * at + middle], narrow.value(label)[1:], rtol=1e-9
    )


def test_a_curve_is_compared_only_where_it_reaches():
    kl = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 99.0]])
    routing = np.array([[1.0, 1.0], [2.0, 2.0], [6.0, 99.0]])
    along = np.array([[200.0, 200.0], [4.0, 4.0], [1.0, 1.0], [0.5, 0.5]])
    points, curve = np.stack([kl, kl, routing, kl]), np.stack([along] * 4)
    bridge = ch11.Bridge(("KQV", "QKQV", "KV"), points, curve, np.ones((3, 4, 2)), np.ones(2))
    np.testing.assert_allclose(bridge.ratios_at_equal("KV", ("KL", "routing")), [2.0])
    np.testing.assert_allclose(bridge.ratios_at_equal("KV", ("KL", "routing"), 1), [2.0, 1.0])
    np.testing.assert_allclose(bridge.ratios_at_equal("QKQV", ("KL", "routing")), [1.0, 1.0])


def test_the_energy_interval_is_the_jackknife_of_the_distance():
    x, y = np.random.default_rng(10).standard_normal((2, 20, 6))
    found = ch11.energy_interval(x, y + 1)
    expected = jackknife_interval(lambda a, b: stats.energy_distance(a, b).root, x, y + 1, axis=0)
    assert found.estimate == pytest.approx(expected.estimate)
    assert found.half_width == pytest.approx(expected.half_width)


def test_jackknife_of_a_mean_is_nearly_students_interval():
    x = np.random.default_rng(10).standard_normal(200)
    found, student = jackknife_interval(np.mean, x), stats.mean_interval(x)
    assert found.estimate == pytest.approx(student.estimate)
    assert found.half_width == pytest.approx(student.half_width, rel=0.01)


def test_rank_correlation_holds_its_estimate():
    x = np.arange(30.0)
    interval = rank_correlation(x, x + 10 * np.sin(x))
    assert interval.low < interval.estimate < interval.high < 1


def test_complete_separation_is_not_the_published_r():
    low, high = ch11.region_of_r()
    assert -1 < low < c08.PUBLISHED_R < high < -0.95
    apart = np.arange(40.0) * np.ones((4, ch11.COUNTS[-1], 1))
    keys = ch11.KeyKl({"KQV": apart, "Gaussian": 100 + apart})
    assert keys.r("Gaussian").high < low


def test_a_win_over_both_needs_a_win_over_qkqv():
    checks = published_ratio(c08.AGAINST_BOTH)(worlds.FAILS).checks
    behind = {c.prediction.label: c.low for c in checks}
    for measure in c08.MEASURES:
        both, qkqv = (
            behind[c08.AHEAD.format(measure, name)] for name in (c08.OF_BOTH, c08.OF_QKQV)
        )
        assert both >= qkqv > 1


def test_72_samples_give_the_published_p():
    low, high = ch11.sample_sizes(-0.983, 1e-24, 1e-23, 2)
    assert low <= 72 <= high


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_one_hot_key_has_the_derived_error(bits):
    keys, coder = np.eye(128)[:3], RotatedQuantizer(bits, side_dtype="float32")
    found = metrics.relative_mse(keys, coder.encode(keys, seed=1).decode())
    np.testing.assert_allclose(found, ch11.one_hot_error_law(bits), rtol=1e-6)


def test_the_search_of_c15_runs_through_the_full_product():
    books = {32: ch11.candidate_codebooks(32, np.random.SeedSequence(1))}
    found = ch11.search_c15(books, np.random.SeedSequence(2), draws=2, numbers_a_draw=512)
    families, baselines, rotated, readings = 2, 16, 3 * 6, 9 * 3
    assert len(found) == families * baselines * rotated * readings == len(set(found.labels))
    assert len(ch11.kqv_alone(found)) == families * rotated * readings
    assert len(ch11.kv_alone(found)) == families * baselines * readings


def test_planes_keep_schemes_and_families_apart():
    schemes = {name: lambda n, name=name: named(name, n, side_dtype="float32") for name in ARMS[:2]}
    sizes = {"draws": 3, "tokens": 16, "queries": 4, "dim": 64}
    planes = ch11.measure_planes(schemes, ch11.PLANE_FAMILIES, np.random.SeedSequence(3), **sizes)
    assert planes.errors.shape == (5, 2, 3, 4, 2, 3)
    keys = planes.of_cache(RANK_32, "KQV", 5, "K")[0]
    np.testing.assert_allclose(keys, codebooks.lloyd_max(64, 5).distortion, rtol=0.2)
    assert (planes.kl_of(FAT, "KV", 4) > planes.kl_of(FAT, "KQV", 4)).all()


def test_a_lloyd_max_code_lies_on_its_line():
    book = codebooks.lloyd_max(128, 3)
    angle = laws.direction_error_of(book.distortion, "angle")
    assert ch11.lloyd_max_line(metrics.shannon_rate(book.distortion)) == pytest.approx(angle)


def test_ratio_law_is_near_a_small_experiment():
    of_sketch = {"Gaussian": {"sketch": "gaussian"}, "orthogonal": {"sketch": "haar"}}
    of_sketch["Gaussian, least squares"] = {"sketch": "gaussian", "sketch_scale": "mmse"}
    schemes = {f"QKQV, {name}": named("QKQV", 4, **of) for name, of in of_sketch.items()}
    schemes["KQV"] = named("KQV", 4)
    stream = np.random.SeedSequence(11)
    measured = ch11.measure_key_kl(schemes, stream, draws=8, tokens=64, dim=128)
    assert measured.kl["KQV"].shape == (4, 64, 8)
    for name, sketch in zip(("gaussian", "orthogonal", "gaussian-mmse"), of_sketch, strict=True):
        law = ch11.kl_ratio_law(128)[name]
        assert measured.ratio(sketch).estimate == pytest.approx(law, rel=0.1)


def test_the_pooled_r_is_the_rank_biserial_correlation_with_its_jackknife():
    kl = np.random.default_rng(18).exponential(size=(2, 4, ch11.COUNTS[0], 30))
    keys = ch11.KeyKl({"KQV": kl[0], "Gaussian": 1.5 * kl[1]})
    found, (x, y) = keys.r("Gaussian"), keys.both("Gaussian", ch11.COUNTS[0])
    slow = jackknife_interval(lambda a, b: stats.rank_biserial(a.ravel(), b.ravel()).r, x, y)
    assert found.estimate == pytest.approx(slow.estimate)
    assert found.half_width == pytest.approx(slow.half_width)


def test_scheme_errors_keep_schemes_and_families_apart():
    schemes = {name: named(name, 4, side_dtype="float32") for name in ARMS[:2]}
    families = {name: ch11.FAMILIES[name] for name in ("gaussian", "t, ν=3")}
    stream = np.random.SeedSequence(12)
    found = ch11.measure_scheme_errors(schemes, families, stream, draws=4, tokens=32, dim=64)
    assert found.keys.shape == (2, 4, 2, 4)
    gaussian, heavy = found.ratios("KV", "K squared error").mean(axis=1)
    assert heavy < 0.5 < gaussian < 2


def test_the_boxes_pay_what_the_closed_form_says():
    sizes = {"tokens": {8: 32, 128: 32}, "queries": 16}
    boxes = ch11.measure_boxes({8: 40, 128: 20}, np.random.SeedSequence(13), **sizes)
    assert boxes.kl[8].shape == (40, 3, 3)
    ratio = boxes.ratio(128, "Gaussian", "Gaussian").estimate
    assert ratio == pytest.approx(ch11.kl_ratio_law(128)["gaussian"], rel=0.15)


def test_a_length_of_r_is_a_logit_error_of_r_squared():
    found = ch11.measure_lengths(np.random.SeedSequence(14), draws=2, tokens=8, queries=32)
    assert found.kl.shape == (2, 3, len(ch11.LENGTHS))
    assert found.nats(c04.AS_LONG).estimate > 50 * found.nats(c04.GAUSSIAN).estimate


def contest(**means):
    """A ranking of competitors with lognormal measures, one budget and one regime."""
    rng = np.random.default_rng(15)
    return ch11.Ranking(
        {name: mean + 0.01 * rng.standard_normal((40, 1, 1)) for name, mean in means.items()}
    )


def test_a_tie_is_shown_and_a_winner_has_a_margin():
    at = (0, 0)
    tied = contest(KV=0.0, KQV=0.001, QKQV=1.0)
    assert tied.outcome(at) == "tie"
    assert tied.standing(["KQV"], at) == tied.standing(["KV"], at) == "best"
    won = contest(KV=0.2, KQV=0.0, QKQV=1.0)
    assert won.outcome(at) == "KQV"
    assert won.margin(at) == pytest.approx(math.exp(0.2), rel=0.02)
    assert won.standing(["KV"], at) == "behind"


def test_few_draws_make_no_tie():
    rng = np.random.default_rng(16)
    noisy = ch11.Ranking({name: rng.standard_normal((5, 1, 1)) for name in ("KV", "KQV")})
    assert noisy.outcome((0, 0)) == "open"
    assert noisy.tally(["KQV"]) == {"best": 0, "open": 1, "behind": 0}


def test_the_best_schemes_share_the_keys_of_equal_cells():
    best = ch11.measure_best_schemes(np.random.SeedSequence(17), draws=2, tokens=16, queries=8)
    assert best.of("KL", "KQV", "Gaussian").shape == (2, 5, 10)
    np.testing.assert_array_equal(best.of("KL", "KQV", "Gaussian"), best.kl[c18.WHT])
    spikes = best.of("KL", "KV", "Gaussian")[:, 2, 8] / best.of("KL", "KQV", "Gaussian")[:, 2, 8]
    assert spikes.min() > 2


def test_the_worst_of_all_is_the_one_that_decides():
    low, high = stats.Interval(0.5, 0.2, 1.2, 9), stats.Interval(1.0, 0.99, 1.01, 9)
    assert c08.worst_for(0.95, [low, high]) is high
    assert c08.worst_for(1.0, [low, high]) is low


def test_the_scoreboard_has_a_row_for_each_statement_and_number():
    verdicts = [fat_tails(worlds.HOLDS), table_four(worlds.HOLDS)]
    number = Reproduction("C17", "0.027", "yes", "angle", "0.028")
    rows = ch11.scoreboard(verdicts, [number])
    assert [row.verdict for row in rows] == ["HOLDS", "yes", "NOT TESTABLE HERE"]
    assert ch11.count_statements(verdicts)["holding"] == 1
    assert ch11.count_outcomes([number]) == {"yes": 1, "some": 0, "none": 0}


def test_a_cosine_rounded_above_one_is_a_direction_without_error() -> None:
    rounded = as_directions(0.0, np.nextafter(1, 2))
    assert all(value == 0 for value in rounded.values())
