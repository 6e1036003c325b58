"""Compressed vectors are checked when they are made, and files decode to the same values."""

import dataclasses
import json
import os
import stat
import zipfile

import numpy as np
import pytest

from kvlib import BlockQuantizer, RotatedQuantizer, named, quantize
from kvlib.quantize import codebooks, storage

KINDS = {
    "plain": RotatedQuantizer(4),
    "one bit": RotatedQuantizer(1, scale="unbiased"),
    "no bits": RotatedQuantizer(1, sketch="hadamard"),
    "nothing": RotatedQuantizer(0),
    "sketched": RotatedQuantizer(3, sketch="gaussian", side_dtype="float32"),
    "centred": RotatedQuantizer(3, scale="unbiased", center=True),
    "mean a block": RotatedQuantizer(3, center=True, block=4),
    "haar": RotatedQuantizer(5, rotation="haar"),
    "rounds": RotatedQuantizer(2, rounds=3, codebook="uniform"),
    "own codebook": RotatedQuantizer(2, codebook=codebooks.equal_probability(16, 2)),
    "blocks": BlockQuantizer(4, size=8),
    "channels": BlockQuantizer(2, along="tokens", size=5),
}


def vectors(dtype=np.float32):
    return np.random.default_rng(1).standard_normal((2, 11, 16)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_files_decode_to_the_same_values(tmp_path, kind, dtype):
    encoded = KINDS[kind].encode(vectors(dtype), seed=3)
    path = tmp_path / "a.npz"
    encoded.save(path)
    again = quantize.load(path)
    assert type(again) is type(encoded)
    assert (again.shape, again.nbytes) == (encoded.shape, encoded.nbytes)
    np.testing.assert_array_equal(again.decode(), encoded.decode())
    encoded.save(tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", quantize.formats())
def test_caches_of_every_format_are_stored(tmp_path, name):
    k, v = vectors(), vectors()[..., :8]
    encoded = named(name, 3).encode(k, v, seed=5)
    encoded.save(tmp_path / "cache.npz")
    again = quantize.load(tmp_path / "cache.npz")
    assert (again.name, again.nbytes) == (name, encoded.nbytes)
    for mine, theirs in zip(again.decode(), encoded.decode(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("plain", {"scales": None}, "scales must be an array of float16"),
        ("plain", {"codes": np.zeros((2, 11, 7), np.uint8)}, "codes must be an array of uint8"),
        ("plain", {"codes": np.zeros((2, 11, 8), np.int8)}, "codes must be an array of uint8"),
        ("plain", {"codes": np.zeros(8, np.uint8)}, "codes must have axes"),
        ("plain", {"scales": np.full((2, 11), np.nan, np.float16)}, "scales must be finite"),
        ("plain", {"scales": np.ones((2, 11), np.float32)}, "scales must be an array of float16"),
        ("plain", {"signs": np.zeros((2, 11, 2), np.uint8)}, "signs must be None"),
        ("plain", {"mean": np.zeros((2, 1, 16), np.float16)}, "mean must be None"),
        ("plain", {"dtype": "int8"}, "dtype must be one of"),
        ("plain", {"dim": 1}, "dim must be an integer >= 2"),
        ("plain", {"seed": -1}, "seed must be an integer >= 0"),
        ("sketched", {"signs": None}, "signs must be an array of uint8"),
        ("sketched", {"residual_norms": None}, "residual_norms must be an array"),
        ("centred", {"mean": None}, "mean must be an array of float16"),
        ("mean a block", {"mean": np.zeros((2, 1, 16), np.float16)}, "shape .2, 3, 16., got"),
        ("blocks", {"lows": None}, "lows must be an array of float16"),
        ("blocks", {"steps": np.zeros((2, 11, 3), np.float16)}, "steps must be an array"),
        ("channels", {"dim": 8}, "codes must be an array of uint8"),
    ],
)
def test_parts_that_do_not_fit_are_refused(kind, changes, message):
    encoded = KINDS[kind].encode(vectors(), seed=3)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(encoded, **changes)


def test_a_quantizer_of_another_class_is_refused():
    encoded = KINDS["plain"].encode(vectors())
    with pytest.raises(TypeError, match="quantizer must be a RotatedQuantizer"):
        dataclasses.replace(encoded, quantizer=KINDS["blocks"])


def test_halves_of_different_caches_are_refused():
    key, value = (KINDS["plain"].encode(vectors()[:, :n]) for n in (11, 10))
    with pytest.raises(ValueError, match="key and value must hold the same tokens"):
        quantize.EncodedCache("KV", key, value)


# ------------------------------------------------------------------------------ bad files


def rewritten(path, **changes):
    """Write the file again with some header entries changed; None drops one."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("header")))
    header = {k: v for k, v in {**header, **changes}.items() if v is not None}
    np.savez(path, header=np.array(json.dumps(header)), **arrays)


@pytest.fixture
def path(tmp_path):
    """A file of compressed vectors."""
    KINDS["sketched"].encode(vectors(), seed=3).save(tmp_path / "x.npz")
    return tmp_path / "x.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "header must say kvlib.encoded version 1"),
        ({"version": 2}, "header must say kvlib.encoded version 1"),
        ({"kind": "os.system"}, "kind must be one of"),
        ({"dim": None}, "misses 'dim'"),
        ({"dim": 32}, "must be an array of uint8"),
        ({"quantizer": {"bits": 3}}, "misses 'codebook'"),
        ({"seed": "a"}, "seed must be"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(path, changes, message):
    rewritten(path, **changes)
    with pytest.raises((TypeError, ValueError), match=message):
        quantize.load(path)


def test_damage_is_refused(path, tmp_path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable npz file"):
        quantize.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        quantize.load(tmp_path / "none.npz")
    np.savez(path, header=np.array(["a"], dtype=object))
    with pytest.raises(TypeError, match="never unpickled"):
        quantize.load(path)
    np.savez(path, codes=np.zeros(3))
    with pytest.raises(ValueError, match="misses header"):
        quantize.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(3000):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(ValueError, match="has a directory of"):
        quantize.load(path)


def test_flipped_bytes_never_decode_to_other_values(path):
    """The archive's checksums see what its structure lets through."""
    whole, exact = path.read_bytes(), quantize.load(path).decode()
    rng = np.random.default_rng(4)
    refused = 0
    for place in rng.choice(len(whole), 200, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(quantize.load(path).decode(), exact)
        except (TypeError, ValueError):
            refused += 1
    assert refused > 100


# -------------------------------------------------------------------------- own classes


def test_a_class_of_ones_own_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_KINDS", dict(storage._KINDS))

    class Halves:
        def __init__(self, x):
            self.x = x.astype(np.float16)

        def decode(self):
            return self.x.astype(np.float32)

        def state(self):
            return {}, {"x": self.x}

        @classmethod
        def from_state(cls, header, arrays):
            return cls(arrays["x"])

    with pytest.raises(TypeError, match="Halves cannot be stored"):
        quantize.save(tmp_path / "a.npz", Halves(vectors()))
    quantize.storable("halves")(Halves)
    quantize.save(tmp_path / "a.npz", Halves(vectors()))
    np.testing.assert_allclose(quantize.load(tmp_path / "a.npz").decode(), vectors(), rtol=1e-3)
    with pytest.raises(ValueError, match="kind 'block' is taken by BlockEncoded"):
        quantize.storable("block")(Halves)


def test_a_header_that_is_no_header_is_refused_with_the_files_name(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in members:
        bad = members[name][:10] + b"(" * (len(members[name]) - 10)
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in members.items():
                archive.writestr(other, bad if other == name else content)
        with pytest.raises(ValueError, match=r"x\.npz: array .* has no readable npy header"):
            quantize.load(path)


def test_a_file_cannot_ask_for_millions_of_rounds(tmp_path):
    path = tmp_path / "x.npz"
    KINDS["plain"].encode(vectors()).save(path)
    with np.load(path) as archive:
        options = json.loads(str(archive["header"]))["quantizer"]
    rewritten(path, quantizer={**options, "rounds": 3 * 10**7})
    with pytest.raises(ValueError, match="rounds must be an integer from 1 to 128"):
        quantize.load(path)


def test_only_a_regular_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OSError, match="must be a regular file"):
        KINDS["plain"].encode(vectors()).save(tmp_path / "pipe.npz")
    assert stat.S_ISFIFO((tmp_path / "pipe.npz").stat().st_mode)
