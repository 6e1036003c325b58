"""Chapter 10's machinery piece by piece; no claim is judged there."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import worlds
from kvbook.experiments import ch10
from kvbook.experiments.ch10 import foretold as foretelling
from kvbook.experiments.ch10 import spikes
from kvbook.experiments.common import distortion
from kvbook.figures import ch10 as figures

from kvlib import laws
from kvlib.data import synthetic
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.stats import mean_interval

SEED = np.random.SeedSequence(3)
DIM = 128


@pytest.fixture(scope="module")
def drawn():
    return ch10.measure_subjects(dim=64, tokens=48, queries=4, draws=3, seed=SEED)


@pytest.fixture(scope="module")
def shares():
    return ch10.measure_shares((0.6, 0.99), dim=DIM, tokens=64, draws=8, seed=SEED)


# ------------------------------------------------------------------------- codes


@pytest.mark.parametrize("scale", ch10.SCALES)
@pytest.mark.parametrize("rounds", [1, 2])
def test_stretched_codes_are_those_of_the_library(scale, rounds):
    x = np.random.default_rng(1).standard_normal((20, 32))
    ready = RotatedQuantizer(3, scale=scale, rounds=rounds, side_dtype="float32")
    found = ch10.decode_all(x, 3, rounds=rounds, seed=5)[scale]
    np.testing.assert_allclose(found, ready.encode(x, seed=5).decode(), rtol=1e-5, atol=1e-6)


def test_each_scale_does_what_it_is_stored_for():
    x = np.random.default_rng(2).standard_normal((20, 32))
    found = ch10.decode_all(x, 2, seed=1)
    lengths = np.linalg.norm(found[ch10.MATCHED], axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(x, axis=-1))
    np.testing.assert_allclose((x * found[ch10.UNBIASED]).sum(-1), (x * x).sum(-1))


def test_only_what_is_wanted_is_decoded():
    x = np.random.default_rng(2).standard_normal((4, 16))
    assert list(ch10.decode_all(x, 2, seed=1, wanted=(ch10.QJL,))) == [ch10.QJL]


# ------------------------------------------------------------------------ subjects


@pytest.mark.parametrize("name", ch10.SUBJECTS)
def test_keys_are_drawn_of_every_kind(name):
    k = ch10.draw_subject(name, 32, 64, np.random.default_rng(4))
    assert k.shape == (32, 64)
    shares = (k * k).max(axis=-1) / (k * k).sum(axis=-1)
    if name in ch10.SPIKES:
        np.testing.assert_allclose(shares, ch10.SPIKES[name])
    if name == ch10.RARE:
        assert (shares > 0.9).sum() == 2


def test_logits_have_unit_spread():
    q, k = ch10.draw_all(64, 8, 32, np.random.default_rng(5))
    logits = q @ k.swapaxes(-1, -2) / math.sqrt(32)
    np.testing.assert_allclose(logits.std(axis=(1, 2)), 1, rtol=1e-4)


# -------------------------------------------------------------------------- spikes


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_error_of_a_one_hot_key_is_that_of_one_level(bits):
    levels = codebooks.lloyd_max(64, bits).levels
    nearest = levels[np.abs(levels - 1 / 8).argmin()]
    assert ch10.one_hot_error_law(64, bits) == pytest.approx((1 - 8 * nearest) ** 2)
    assert ch10.spike_error_law(64, bits, 1.0) == pytest.approx((1 - 8 * nearest) ** 2)


@pytest.mark.parametrize("scale", [ch10.MATCHED, ch10.UNBIASED])
def test_a_rescaled_one_hot_key_has_no_error(scale):
    assert ch10.spike_error_law(64, 2, 1.0, scale) == pytest.approx(0, abs=1e-12)
    x = np.eye(64)[[3, 40]]
    np.testing.assert_allclose(ch10.decode_all(x, 2, seed=0)[scale], x, atol=1e-6)


@pytest.mark.parametrize("scale", ch10.SCALES)
@pytest.mark.parametrize("bits", [2, 3])
def test_the_law_of_spikes_is_what_is_measured(shares, scale, bits):
    for i, share in enumerate(shares.shares):
        found = shares.errors(bits, scale)[:, i].mean()
        assert found == pytest.approx(ch10.spike_error_law(DIM, bits, share, scale), rel=0.05)


@pytest.mark.parametrize("bits", [1, 3])
def test_many_rounds_give_the_distortions_of_the_sphere(bits):
    D = distortion(DIM, bits)
    assert ch10.uniform_error_law(DIM, bits, ch10.NORM) == pytest.approx(D)
    matched = ch10.uniform_error_law(DIM, bits, ch10.MATCHED)
    assert matched == pytest.approx(laws.matched_distortion(D))
    unbiased = ch10.uniform_error_law(DIM, bits, ch10.UNBIASED)
    assert unbiased == pytest.approx(laws.unbiased_distortion(D))


def test_the_window_ends_where_one_round_and_many_err_alike():
    low, high = ch10.harmful_shares(DIM, 3, ch10.MATCHED)
    many = ch10.uniform_error_law(DIM, 3, ch10.MATCHED)
    for edge in (low, high):
        assert ch10.spike_error_law(DIM, 3, edge, ch10.MATCHED) == pytest.approx(many, rel=1e-2)
    assert ch10.spike_error_law(DIM, 3, (low + high) / 2, ch10.MATCHED) > many
    for n in (1, 4, 5):
        assert all(ch10.harmful_shares(DIM, n, scale) is None for scale in ch10.SCALES)


def test_shares_from_which_on_fewer_bits_err_less():
    for bits in (2, 3):
        share = ch10.one_bit_share(DIM, bits)
        one, more = (ch10.spike_error_law(DIM, n, share, ch10.MATCHED) for n in (1, bits))
        assert one == pytest.approx(more, rel=1e-3)
    assert 0.8 < ch10.sketch_share(DIM) < ch10.one_bit_share(DIM, 2) < ch10.one_bit_share(DIM, 3)


@pytest.mark.parametrize("sketch", ch10.SKETCHES)
def test_a_sketch_beats_the_norm_at_two_bits(sketch):
    assert 0.5 < ch10.winning_share(DIM, 2, sketch) < 0.95
    others = [n for n in (3, 4, 5, 6) if ch10.winning_share(DIM, n, sketch)]
    assert others == ([5] if sketch.endswith("MMSE") else [])
    assert not others or ch10.winning_share(DIM, 5, sketch) > 0.99


def test_ratios_are_paired_and_the_rule_is_its_own_measure(drawn):
    i = drawn.ratio(ch10.DENSE, 2, ch10.RULE)
    assert i.low == i.estimate == i.high == pytest.approx(1)
    assert drawn.ratio(ch10.DENSE, 3, (ch10.QJL, 1)).estimate > 1.3


def test_a_code_is_better_only_beyond_a_tie():
    values = np.ones((5, 2, 4, 3, len(ch10.CODES), 1))
    errors = ch10.CodeErrors(values, ("made up",))
    assert errors.better("made up", 2) is None
    values[..., ch10.CODES.index(ch10.UNBIASED), 0] = 0.97
    assert errors.better("made up", 2) is None
    values[:, :, :, 1, ch10.CODES.index(ch10.UNBIASED), 0] = 0.5
    cell, ratio = errors.better("made up", 2)
    assert (cell, ratio.estimate) == ((ch10.UNBIASED, 2), pytest.approx(0.5))


def test_one_bit_has_one_way_to_sketch():
    assert [c for c in ch10.cells(1) if c[0] == ch10.QJL] == [(ch10.QJL, 1)]
    assert len(ch10.cells(2)) == 12


def test_a_stretch_lowers_the_error_of_spikes():
    found = ch10.search_stretch(
        (0.99,), (0.8, 1.2), bits=2, dim=DIM, tokens=100, seed=np.random.SeedSequence(1)
    )
    plain, best = found[0.99]
    assert best < 0.2 * plain


def test_a_mean_takes_the_spike_of_one_channel_away():
    ways = {"kept": RotatedQuantizer(2), "removed": RotatedQuantizer(2, center=True)}
    found = ch10.measure_same_channel(ways, draws=1, seed=np.random.SeedSequence(2))
    assert found["removed"] < 0.1 * found["kept"]


def test_captured_heads_are_pooled_in_two_ways():
    captured = ch10.captured_heads(rows=4)
    few = [captured[0], captured[-1]]
    found = ch10.measure_captured(few, rotations=2, seed=SEED)
    assert found.subjects == ("2 captured heads", "1 heads of the language model")
    assert np.isnan(found.of(found.subjects[0], 2, ch10.NORM, 3)).all()
    assert np.isfinite(found.of(found.subjects[0], 2, ch10.NORM, 2)).all()


# ------------------------------------------------------------------------- one bit


def test_one_bit_code_and_orthogonal_sketch_differ_in_length_only():
    x = np.random.default_rng(6).standard_normal((4000, 64))
    for code in ch10.CODES:
        found = np.mean(
            [ch10.squared_error(x, ch10.decode_all(x, 1, seed=s)[code]) for s in (1, 2)]
        )
        assert found == pytest.approx(ch10.one_bit_law(64, code).total, rel=0.03)


def test_the_kl_of_one_bit_follows_bias_or_noise():
    assert ch10.one_bit_kl_law(DIM, ch10.UNBIASED) > 1
    assert ch10.one_bit_kl_law(DIM, ch10.UNBIASED, rank=4) < 0.2
    assert ch10.one_bit_kl_law(DIM, ch10.NORM, rank=4) == 1


def test_queries_along_the_keys_reverse_the_order():
    found = ch10.measure_one_bit(dim=64, tokens=64, queries=8, draws=4, seed=SEED)
    isotropic, aligned = found[ch10.ISOTROPIC], found["rank 4, queries along the keys"]
    assert ch10.over_norm(isotropic)[ch10.UNBIASED].estimate > 1
    assert ch10.over_norm(aligned)[ch10.UNBIASED].estimate < 1


# ------------------------------------------------------------------- two dimensions


@pytest.mark.parametrize("bits", range(2, 8))
def test_the_free_norm_is_the_whole_lead(bits):
    assert ch10.ratio_for_free(bits) < 1
    assert ch10.ratio_at_one_bit(bits) > 1
    assert ch10.ratio_without_norm(bits) > 1
    assert 0 < ch10.break_even_price(bits) < ch10.break_even_limit() < 1


def test_three_dimensions_are_a_tie():
    assert ch10.ratio_for_free(4, dim=3) == pytest.approx(1)
    assert ch10.ratio_at_equal_bytes() > 1000


def test_the_plane_is_as_derived():
    found = ch10.measure_plane((2,), (3,), tokens=200, draws=40, seed=SEED)
    assert found[2][0][1].estimate == pytest.approx(ch10.ratio_for_free(3), rel=0.08)


# --------------------------------------------------------------------- predictions


def foretold_rows():
    return {row.label: row.rule for row in ch10.foretell().rows}


def middle(rule):
    """A value in a rule's region."""
    if hasattr(rule, "target"):
        return rule.target
    return rule.bound * (0.9 if type(rule).__name__ == "Below" else 1.1)


def test_predictions_can_come_out_both_ways():
    draws = worlds.sizes("10")["draws"]
    noise = np.random.default_rng(0).standard_normal(draws)
    noise = 1 + 0.02 * (noise - noise.mean()) / noise.std()  # as wide as the page's intervals
    true = {label: mean_interval(middle(r) * noise) for label, r in foretold_rows().items()}
    false = {
        label: mean_interval(
            middle(r) * noise * (0.5 if type(r).__name__ in ("Above", "Within") else 2)
        )
        for label, r in foretold_rows().items()
    }
    assert ch10.foretell().judge(true).held == len(true)
    assert [c.verdict for c in ch10.foretell().judge(false).checks] == ["fails"] * len(false)


def test_every_prediction_is_measured(drawn):
    labels = set(foretold_rows())
    assert labels == set(ch10.gather(*evidence(drawn)))


def evidence(drawn):
    """Little evidence of each kind."""
    shares = ch10.measure_shares((0.6, 0.99), dim=64, tokens=16, draws=2, seed=SEED)
    heads = ch10.CodeErrors(drawn.values[..., :2], ("all", "some"))
    one = ch10.measure_one_bit(dim=64, tokens=32, queries=4, draws=2, seed=SEED)
    return shares, drawn, heads, one


def test_what_was_foretold_is_drawn_folded_and_judged_in_a_table(drawn):
    judged = ch10.foretell().judge(ch10.gather(*evidence(drawn)))
    assert "<details" in ch10.foretell()._repr_html_()
    assert judged._repr_html_().count("<tr>") == 1 + len(judged.checks)
    assert foretelling.WINDOW in repr(judged)


# ------------------------------------------------------------------------- figures


def test_figures_and_tables(drawn, shares):
    heads = ch10.CodeErrors(drawn.values[..., :2], ("all", "some"))
    found = drawn.joined(heads)
    assert len(found) == len(ch10.SUBJECTS) + 2
    figures.rounds_picture(dim=16)
    figures.share_curves(shares)
    figures.kl_map(found)
    plt.close("all")
    assert "the rule" in figures.better_table(found).data
    one = ch10.measure_one_bit(dim=64, tokens=32, queries=4, draws=2, seed=SEED)
    assert "isotropic: derived" in figures.one_bit_table(one, heads, dim=64).data
    plane = ch10.measure_plane((2, 3), (2,), tokens=20, draws=3, seed=SEED)
    assert "d = 3" in figures.plane_table((2,), plane).data
    assert "99.0%" in figures.stretch_table({0.99: (0.1, 0.01)}, 64).data


def test_numbers_for_the_text(drawn):
    numbers = ch10.law_numbers(DIM) | ch10.spike_numbers(drawn)
    assert all(math.isfinite(x) for x in numbers.values())
    assert numbers["norm-2-to"] == 100
    assert spikes.third_over_second(drawn)[0] <= spikes.third_over_second(drawn)[1]
    x = synthetic.draw(synthetic.spike(0.9), 5, 16, rng=np.random.default_rng(1))
    assert (x**2).max(axis=-1) / (x**2).sum(axis=-1) == pytest.approx(0.9)
