"""When two executions gave the same page: every text to the letter, images to the eye."""

import base64
import copy
import io

import nbformat
import numpy as np
import pytest
from kvbook.build import chapters, execute, staleness, storing
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage
from small_book import notebook, put

DPI = 144
LINE_WIDTH = 1.8  # points
MOVED = LINE_WIDTH * DPI / 72  # the same in pixels


def png(pixels):
    """A PNG image in base64 of pixels from zero to one, rounded to bytes."""
    file = io.BytesIO()
    image.imsave(file, np.round(pixels * 255).astype(np.uint8), format="png")
    return base64.b64encode(file.getvalue()).decode()


def curve(*, shift=0.0, color="#1f77b4", width=4.0):
    """A curve on axes as the chapters draw it, moved upwards by so many pixels."""
    figure = Figure(figsize=(width, 3.0), dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    x = np.linspace(0, 6, 200)
    ax.plot(x, np.sin(x), color="0.6", linewidth=LINE_WIDTH)
    (line,) = ax.plot(x, np.cos(x), color=color, linewidth=LINE_WIDTH)
    ax.set(ylim=(-1.5, 1.5), title="$\\cos(x)$")
    per_pixel = 3.0 / ax.get_window_extent().height
    line.set_ydata(np.cos(x) + shift * per_pixel)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba(), dtype=float)[..., :3] / 255


def antialiased(pixels, seed=0):
    """The same picture by another processor: pixels of edges take other values between others'."""
    rng = np.random.default_rng(seed)
    low = ndimage.minimum_filter(pixels, size=(3, 3, 1))
    high = ndimage.maximum_filter(pixels, size=(3, 3, 1))
    changed = (low < pixels) & (pixels < high)
    row, column = rng.integers(3, size=2)
    some = np.zeros_like(changed)
    some[row::3, column::3] = True  # no two of them neighbours
    return np.where(changed & some, rng.uniform(low, high), pixels)


ORIGINAL = curve()


def test_anti_aliasing_is_no_difference():
    for seed in range(5):
        other = antialiased(ORIGINAL, seed)
        assert np.abs(other - ORIGINAL).max() > 0.2
        assert storing.same_image(png(ORIGINAL), png(other))
        assert storing.same_image(png(other), png(ORIGINAL))


def test_a_part_of_a_pixel_is_no_difference():
    other = curve(shift=0.3)
    assert np.abs(other - ORIGINAL).max() > 0.1
    assert storing.same_image(png(ORIGINAL), png(other))


def test_rounding_is_no_difference():
    other = np.clip(ORIGINAL + 1 / 255, 0, 1)
    assert storing.same_image(png(ORIGINAL), png(other))
    assert not storing.same_image(png(ORIGINAL), png(np.clip(ORIGINAL - 0.05, 0, 1)))


@pytest.mark.parametrize(
    "other",
    [
        curve(shift=MOVED),
        curve(shift=-MOVED),
        curve(color="#d62728"),
        curve(color="#2f87c4"),  # a shade
        curve(width=4.1),
        np.ones_like(ORIGINAL),
    ],
    ids=["up", "down", "colour", "shade", "size", "empty"],
)
def test_another_figure_is_another(other):
    assert not storing.same_image(png(ORIGINAL), png(other))
    assert not storing.same_image(png(other), png(ORIGINAL))


def test_what_is_no_image_is_another():
    assert not storing.same_image(png(ORIGINAL), "aGVsbG8=")


# A page ----------------------------------------------------------------------------------------


def page(pixels, printed="1\n"):
    """An executed chapter with a figure and a printed line."""
    made = notebook("plot()", "print(1)")
    out = nbformat.v4.new_output
    made.cells[2].outputs = [out("display_data", {"image/png": png(pixels), "text/plain": "<F>"})]
    made.cells[3].outputs = [out("stream", name="stdout", text=printed)]
    for number, cell in enumerate(chapters.code_cells(made), start=1):
        cell.execution_count = number
    return made


@pytest.mark.parametrize(
    ("executed", "written"),
    [
        (page(antialiased(ORIGINAL)), False),
        (page(curve(shift=MOVED)), True),
        (page(ORIGINAL, printed="2\n"), True),
    ],
    ids=["anti-aliasing", "another curve", "another number"],
)
def test_the_committed_file_stays_where_only_its_pixels_differ(tmp_path, executed, written):
    (tmp_path / "notebooks").mkdir()
    path = put(tmp_path, "01_figure", page(ORIGINAL))
    before = path.read_bytes()
    worker = object.__new__(execute.Worker)
    worker.path, worker.run = path, chapters.Run(tmp_path, {})
    worker.state = staleness.snapshot(path, tmp_path)
    assert worker.store(storing.serialise(executed)) is written
    assert (path.read_bytes() != before) is written


def test_same_result_sees_one_more_image():
    more = copy.deepcopy(page(ORIGINAL))
    more.cells[2].outputs *= 2
    assert storing.same_result(page(ORIGINAL), page(antialiased(ORIGINAL)))
    assert not storing.same_result(page(ORIGINAL), more)
