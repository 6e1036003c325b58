"""Figures: colours that stay apart, reproducible bytes, and a diagram true to the schemes."""

import itertools

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

import matplotlib.pyplot as plt
from kvbook import plotting

from kvlib import quantize, stats
from kvlib.data import synthetic
from kvlib.quantize import rotations

# Colours as seen with each complete dichromacy: Machado, Oliveira and Fernandes (2009), on
# linear sRGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip


def linear(color):
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear sRGB, D65."""
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    t = to_xyz @ rgb / to_xyz.sum(1)
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colors, vision):
    """Smallest CIE76 difference of two of the colours; about 2.3 is just noticeable."""
    seen = [lab(np.clip(VISION[vision] @ linear(c), 0, 1)) for c in colors]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart(vision):
    assert closest(plotting.SCHEME_COLORS.values(), vision) > 20
    assert closest(plotting.ROTATION_COLORS.values(), vision) > 20
    assert closest(plotting.FAMILY_COLORS.values(), vision) > 15


def test_the_usual_red_and_green_fail_the_colour_check():
    assert closest(["#D62728", "#2CA02C"], "deuteranopia") < 15  # negative control


def test_colours_stand_out_on_white():
    # Contrast ratio of WCAG 2 for graphics: at least 3.
    for palette in (plotting.SCHEME_COLORS, plotting.FAMILY_COLORS, plotting.ROTATION_COLORS):
        for color in palette.values():
            assert 1.05 / (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05) > 3


def test_every_scheme_family_and_rotation_has_its_look():
    assert set(plotting.SCHEME_COLORS) == set(plotting.SCHEME_MARKERS) == set(quantize.formats())
    assert len(set(plotting.SCHEME_MARKERS.values())) == len(quantize.formats())
    for name in plotting.FAMILY_COLORS:
        with pytest.raises(ValueError, match=r"takes|must be one of") as refusal:
            synthetic.family(name, unknown=1)
        assert "takes" in str(refusal.value)  # known name, unknown parameter
    for kind in plotting.ROTATION_COLORS:
        rotations.Rotation(kind, 4)


INTERVALS = [stats.Interval(1.0, 0.5, 2.0, 5), stats.Interval(3.0, 2.5, 3.25, 5)]


@pytest.fixture
def ax():
    with plotting.style():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def test_style_is_left_again_and_use_style_stays():
    outside = matplotlib.rcParams["axes.spines.top"]
    with plotting.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert matplotlib.rcParams["axes.spines.top"] == outside
    with matplotlib.rc_context():
        plotting.use_style()
        assert matplotlib.rcParams["figure.dpi"] == 144


def test_error_bars_end_at_the_interval(ax):
    points = plotting.measured_points(ax, [1, 2], INTERVALS, color="#AA1F10", marker="s")
    bars = points.lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.5, 2], [2.5, 3.25]])
    np.testing.assert_array_equal(points.lines[0].get_ydata(), [1, 3])
    assert points.lines[0].get_marker() == "s"


def test_band_spans_the_intervals_and_theory_is_dashed(ax):
    line = plotting.interval_band(ax, [1, 2], INTERVALS, color="#AA1F10", label="measured")
    np.testing.assert_array_equal(line.get_ydata(), [1, 3])
    extent = ax.collections[0].get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == (0.5, 3.25)
    theory = plotting.theory_line(ax, [1, 2], [1, 3])
    assert theory.is_dashed()
    assert theory.get_zorder() > line.get_zorder()
    assert [t.get_text() for t in ax.legend().get_texts()] == ["measured", "theory"]


def test_ends_for_seaborn_are_those_of_the_mean():
    samples = [1.0, 2.0, 4.0, 8.0]
    interval = stats.mean_interval(samples)
    assert plotting.mean_ends(samples) == (interval.low, interval.high)


def test_points_without_their_intervals_are_refused(ax):
    with pytest.raises(ValueError, match=r"got 2 for x of shape \(3,\)"):
        plotting.measured_points(ax, [1, 2, 3], INTERVALS, color="#AA1F10")


def test_diagram_counts_the_boxes_of_each_scheme(ax):
    # Per scheme: rotations, sketches. All have two quantizers.
    expected = {"KV": (0, 0), "WHT": (2, 0), "KQV": (2, 1), "QKV": (2, 1), "QKQV": (2, 2)}
    expected |= {"EDEN": (2, 0)}
    for name, (rotated, sketched) in expected.items():
        ax.clear()
        plotting.draw_schemes(ax, names=[name], sketch_label="sketch me")
        texts = [t.get_text() for t in ax.texts]
        assert texts.count("WHT") == rotated + (name == "WHT")  # its own title
        assert sum("sketch me" in t for t in texts) == sketched
        assert texts.count("Lloyd–Max\n$n-1$ bits") == sketched
        assert texts.count("Lloyd–Max\n$n$ bits") == 2 - sketched
        assert texts.count("$n$ bits\n+ 2 norms") == sketched
    with pytest.raises(ValueError, match="names must be one of"):
        plotting.draw_schemes(ax, names=["KVQ"])


@pytest.mark.parametrize("name", ["EDEN", "C-EDEN"])
def test_diagram_shows_the_mean_and_the_scale(ax, name):
    plotting.draw_schemes(ax, names=[name])
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("$-$ mean\nWHT") == 2 * (name == "C-EDEN")
    assert texts.count("WHT") == 2 * (name == "EDEN")
    assert texts.count("$n$ bits\n+ scale") == 2


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_figures_are_equal_bytes(tmp_path, kind):
    for name in ("a", "b"):
        with plotting.style():
            fig, ax = plt.subplots()
            plotting.draw_schemes(ax)
            plotting.save_figure(fig, tmp_path / f"{name}.{kind}")
            plt.close(fig)
    a, b = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert a == b
    assert b"dc:date" not in a
    assert b"CreationDate" not in a


def test_other_file_kinds_are_refused(ax, tmp_path):
    with pytest.raises(ValueError, match=r"path suffix must be one of '\.png'"):
        plotting.save_figure(ax.figure, tmp_path / "figure.jpg")
