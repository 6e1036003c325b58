"""The registry of formats: names, traits, options, and formats of one's own."""

import sys

import numpy as np
import pytest

from kvlib import BlockQuantizer, RotatedQuantizer, Scheme, named, quantize
from kvlib.quantize import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Formats of a test end with it."""
    monkeypatch.setattr(registry._FORMATS, "rows", dict(registry._FORMATS.rows))


def test_traits_are_those_of_what_is_built():
    """Traits are declared; here they are held against the quantizers themselves."""
    for name, entry in quantize.formats().items():
        scheme = named(name, 4)
        parts = (scheme.key, scheme.value)
        assert scheme.name == name
        rotated = [p for p in parts if isinstance(p, RotatedQuantizer)]
        expected = {
            "grouped": all(isinstance(p, BlockQuantizer) for p in parts),
            "rotated": any(p.rotation != "none" for p in rotated),
            "sketched": any(p.sketch for p in rotated),
            "centred": any(p.center for p in rotated),
            "unbiased": any(p.scale == "unbiased" for p in rotated),
        }
        assert entry.traits == {trait for trait, has in expected.items() if has}, name


def test_options_are_those_that_change_what_is_stored():
    others = {"rotation": "haar", "sketch": "hadamard", "sketch_scale": "mmse", "scale": "unbiased"}
    x = np.random.default_rng(1).standard_normal((4, 16))
    for name, entry in quantize.formats().items():
        taken = [option for option in others if option in registry._keywords(entry.build)]
        plain = np.concatenate(named(name, 4).encode(x, x).decode())
        changed = {
            option: np.concatenate(named(name, 4, **{option: others[option]}).encode(x, x).decode())
            for option in taken
        }
        matters = {option for option, decoded in changed.items() if (decoded != plain).any()}
        assert matters == set(entry.options), name


def test_colours_and_markers_are_the_formats_own():
    entries = quantize.formats().values()
    assert len({e.color for e in entries}) == len({e.marker for e in entries}) == len(entries)
    assert set(quantize.NAMES) <= set(quantize.formats())


def test_min_max_costs_two_numbers_and_kivi_a_bit():
    x = np.random.default_rng(1).standard_normal((64, 128))
    assert named("MINMAX", 4).encode(x, x).bits_per_coordinate == 4.25
    assert named("MINMAX", 4, size=32).encode(x, x).bits_per_coordinate == 5
    assert named("KIVI", 2).encode(x, x).bits_per_coordinate == 3


@pytest.mark.parametrize(
    ("name", "bits", "options", "message"),
    [
        ("QQ", 4, {}, "name must be one of 'KV'.*got 'QQ'"),
        (3, 4, {}, "name must be one of"),
        ("KV", 9, {}, "bits must be an integer from 1 to 8"),
        ("KV", 0, {}, "bits must be an integer from 1 to 8"),
        ("MINMAX", 4, {"sketch": "haar"}, "MINMAX takes size, side_dtype, got sketch"),
        ("KV", 4, {"colour": 1}, "KV takes rotation.*got colour"),
        ("WHT", 4, {"sketch": "none"}, "sketch must be one of"),
        ("no.such.module:f", 4, {}, "can be imported"),
        ("json:nothing", 4, {}, "can be imported"),
        ("json:__name__", 4, {}, "must be a function, got"),
        ("math:sqrt", 4, {}, "must build a Scheme, got 2.0"),
    ],
)
def test_what_is_unknown_is_refused(name, bits, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        named(name, bits, **options)


MODULE = """
from kvlib import BlockQuantizer, RotatedQuantizer, Scheme, register

@register("MINE", color="#123456", marker="8", traits=("grouped",))
def mine(bits, *, size=16):
    return Scheme("MINE", BlockQuantizer(bits, along="tokens", size=size), RotatedQuantizer(bits))

def other(bits):
    return Scheme("OTHER", RotatedQuantizer(bits), RotatedQuantizer(bits))
"""


@pytest.fixture
def mymodule(tmp_path, monkeypatch):
    """A module that registers one format and builds another."""
    (tmp_path / "mymodule.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mymodule"
    sys.modules.pop("mymodule", None)


def test_formats_of_ones_own(mymodule):
    assert "MINE" not in quantize.formats()
    assert named(f"{mymodule}:mine", 3).name == "MINE"  # imported, and so registered
    entry = quantize.format_of("MINE")
    assert quantize.format_of(f"{mymodule}:mine") is entry
    assert (entry.color, entry.options, entry.module) == ("#123456", ("size",), "mymodule")
    assert named("MINE", 3, size=8).key.size == 8
    plain = quantize.format_of(f"{mymodule}:other")
    assert (plain.traits, plain.options) == (frozenset(), ())
    x = np.random.default_rng(1).standard_normal((32, 16))
    assert named(f"{mymodule}:other", 4).encode(x, x).bits_per_coordinate == 5


def test_a_name_is_given_once():
    def build(bits):
        return Scheme("A", RotatedQuantizer(bits), RotatedQuantizer(bits))

    quantize.register("A")(build)
    quantize.register("A")(build)  # the same function again, as when a module is reloaded
    with pytest.raises(ValueError, match="name must not be taken, got 'KV'"):
        quantize.register("KV")(build)
    for bad in ("a:b", "", 3):
        with pytest.raises(ValueError, match="name must be a string without a colon"):
            quantize.register(bad)
    with pytest.raises(ValueError, match="traits must be one of"):
        quantize.register("B", traits=("fast",))


def test_quantizers_of_ones_own_need_inherit_nothing():
    class Rounding:
        def encode(self, x, *, seed=0):
            return RotatedQuantizer(8).encode(np.round(x, 1), seed=seed)

    scheme = Scheme("ROUND", Rounding(), BlockQuantizer(4))
    assert isinstance(scheme.key, quantize.Quantizer)
    x = np.random.default_rng(2).standard_normal((8, 16))
    encoded = scheme.encode(x, x)
    assert isinstance(encoded.key, quantize.Encoded)
    assert encoded.decode()[0].shape == (8, 16)
    with pytest.raises(TypeError, match=r"key must be a quantizer.*got 4"):
        Scheme("BAD", 4, BlockQuantizer(4))


@pytest.mark.parametrize("text", ["1 / 0", "def (", "raise SystemError('no')"])
def test_a_module_that_does_not_import_is_one_error(tmp_path, monkeypatch, text):
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="can be imported, got 'broken:f'"):
        named("broken:f", 3)
