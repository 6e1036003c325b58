"""Other packages behind one interface: each function gives tasks, or raises ImportError.

What each of them leaves to its user is given to it for nothing (faiss gets vectors that are
normalised already), so that a comparison never flatters kvlib; the chapter says what is not alike.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from kvlib import bench
from kvlib.bench import Task

PROBED = 512  # vectors reconstructed through inner products, where a package has no decoder


def apart(name):
    """Import a package that was installed into a folder of its own, under its own name.

    Two of them call their module `turboquant`, so that Python could find only one.
    """
    module = name.replace("-", "_")
    if module not in sys.modules:
        folder = Path(sys.prefix) / "peers" / name / "turboquant"
        if not folder.is_dir():
            raise ImportError(f"{name} is not installed in {folder.parent.name}")
        spec = importlib.util.spec_from_file_location(
            module, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    return sys.modules[module]


def unit(x):
    """Vectors of length one."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ------------------------------------------------------------------- turbovec


def turbovec(x, bits, threads):
    """TurboQuantIndex.add: normalise, rotate, quantize, pack; it has no decoder."""
    from turbovec import TurboQuantIndex

    rows, dim = x.shape

    def encode():
        index = TurboQuantIndex(dim=dim, bit_width=bits)
        index.add(x)
        return index

    def judge(index):
        columns = {"bytes_per_vector": len(index.to_bytes()) / rows}
        few = TurboQuantIndex(dim=dim, bit_width=bits)
        count = min(rows, PROBED)
        few.add(np.ascontiguousarray(x[:count]))
        axes = np.eye(dim, dtype=np.float32)
        x_hat = (products(few, axes, count) - products(few, -axes, count)) / 2
        return {**columns, **bench.quality(x, x_hat)}

    return [Task("encode", "turbovec", bits, threads, rows, dim, encode, judge)]


def products(index, queries, count):
    """Inner products of queries with every stored vector, shape (count, queries)."""
    scores, places = index.search(queries, count)
    found = np.empty((len(queries), count), dtype=np.float32)
    np.put_along_axis(found, places, scores, axis=1)
    return found.T


# ---------------------------------------------------------------------- faiss


def faiss(x, bits, threads):
    """ScalarQuantizer after a rotation, once by a Hadamard and once by a dense one."""
    import faiss as package

    package.omp_set_num_threads(threads)
    data = unit(x)
    rotations = {
        "faiss-cpu": package.HadamardRotation(x.shape[1], 1),
        "faiss-cpu dense": package.RandomRotationMatrix(x.shape[1], x.shape[1]),
    }
    found = []
    for name, rotation in rotations.items():
        index = faiss_index(package, rotation, f"QT_{bits}bit_tqmse", data)
        found += faiss_tasks("encode", name, index, data, bits, threads)
    return found


def faiss_sketch(x, bits, threads):
    """The same with a sketched sign, which faiss calls QT_nbit_tq."""
    import faiss as package

    package.omp_set_num_threads(threads)
    data = unit(x)
    rotation = package.HadamardRotation(x.shape[1], 1)
    index = faiss_index(package, rotation, f"QT_{bits}bit_tq", data)
    return faiss_tasks("encode_sketch", "faiss-cpu", index, data, bits, threads)[:1]


def faiss_index(package, rotation, kind, data):
    """A rotation followed by a scalar quantizer."""
    scalar = package.IndexScalarQuantizer(
        data.shape[1], getattr(package.ScalarQuantizer, kind), package.METRIC_L2
    )
    index = package.IndexPreTransform(rotation, scalar)
    index.train(data[:1000])
    return index


def faiss_tasks(work, name, index, data, bits, threads):
    """Encode and decode of one index."""
    rows, dim = data.shape
    stored = index.sa_encode(data)

    def judge_code(codes):
        return bench.quality(data, index.sa_decode(codes), codes.nbytes)

    def judge_vectors(x_hat):
        return bench.quality(data, x_hat, stored.nbytes)

    return [
        Task(work, name, bits, threads, rows, dim, lambda: index.sa_encode(data), judge_code),
        Task(
            "decode", name, bits, threads, rows, dim, lambda: index.sa_decode(stored), judge_vectors
        ),
    ]


# ---------------------------------------------------------- turboquant-space


def turboquant_space(x, bits, threads):
    """encode_batch: always with a sketched sign; it computes distances and has no decoder."""
    space_class = apart("turboquant-space").TurboQuantSpace
    rows, dim = x.shape
    space = space_class(dim, bits, num_threads=threads)

    def judge(codes):
        few = np.ascontiguousarray(codes[:PROBED])
        axes = np.eye(dim, dtype=np.float32)
        # |q - x|^2 for q and -q differ by -4 <q, x>.
        far, near = space.distance_m_to_n(-axes, few), space.distance_m_to_n(axes, few)
        return bench.quality(x, (far - near).T / 4, codes.nbytes)

    return [
        Task(
            "encode_sketch",
            "turboquant-space",
            bits,
            threads,
            rows,
            dim,
            lambda: space.encode_batch(x),
            judge,
        )
    ]


# ---------------------------------------------------------- turboquant-torch


def turboquant_torch(x, bits, threads):
    """TurboQuant.quantize without its sketch; codes stay one byte each."""
    return torch_tasks(x, bits, threads, sketched=False)


def turboquant_torch_sketch(x, bits, threads):
    """The same with the sketch."""
    return torch_tasks(x, bits, threads, sketched=True)[:1]


def torch_tasks(x, bits, threads, sketched):
    """Encode and decode of one quantizer."""
    import torch

    torch.set_num_threads(threads)
    rows, dim = x.shape
    quantizer = apart("turboquant-torch").TurboQuant(dim, bits, unbiased=sketched)
    data = torch.from_numpy(x)
    with torch.no_grad():
        stored = quantizer.quantize(data)

    def encode():
        with torch.no_grad():
            return quantizer.quantize(data)

    def decode(result=stored):
        with torch.no_grad():
            return quantizer.dequantize(result)

    def judge_code(result):
        return bench.quality(x, decode(result).numpy(), torch_bytes(result))

    def judge_vectors(x_hat):
        return bench.quality(x, x_hat.numpy(), torch_bytes(stored))

    work, name = ("encode_sketch" if sketched else "encode"), "turboquant-torch"
    return [
        Task(work, name, bits, threads, rows, dim, encode, judge_code),
        Task("decode", name, bits, threads, rows, dim, decode, judge_vectors),
    ]


def torch_bytes(result):
    """Bytes of the tensors in a result."""
    size = 0
    for part in result:
        if isinstance(part, tuple):
            size += torch_bytes(part)
        elif hasattr(part, "element_size"):
            size += part.element_size() * part.nelement()
    return size


CODECS = (turbovec, faiss, turboquant_torch)
SKETCHES = (faiss_sketch, turboquant_space, turboquant_torch_sketch)


def tasks(kinds, x, bits, threads, missing):
    """Tasks of every package that works here; the others are noted in `missing`, by name."""
    found = []
    for kind in kinds:
        try:
            found += kind(x, bits, threads)
        except Exception as error:  # whatever another package may raise: the rest goes on
            name = kind.__name__.replace("_sketch", "").replace("_", "-")
            missing.setdefault(name, f"{type(error).__name__}: {error}"[:300])
    return found
