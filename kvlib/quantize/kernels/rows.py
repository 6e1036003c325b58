"""Compiled row kernels of :mod:`kvlib.schemes`. Importing this imports numba and compiles: once,
then from its cache. Only :mod:`kvlib._compiled` imports it, when a float32 array is first encoded.

Every kernel takes one vector at a time through a buffer that stays in the first-level cache, so
that memory is read once and written once, and treats rows independently: results do not depend on
how rows are split between threads. The Walsh-Hadamard transform is not normalised; its factor is
folded into the one number a vector is multiplied by. Butterflies hold sums and differences only,
so no fused multiply-add can make them differ between machines.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# x may be read-only; what a kernel is given besides is its own.
_X = types.Array(types.float32, 2, "C", readonly=True)
_F1, _F2 = types.float32[::1], types.float32[:, ::1]
_B2 = types.uint8[:, ::1]
_B2R = types.Array(types.uint8, 2, "C", readonly=True)
_WORDS, _BYTES = types.uint64[::1], types.uint8[::1]
_N = types.int64

# No kernel allocates or keeps an array (buffers are arguments), so none counts references to its
# slices: atomic increments would cost as much as a transform.
_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
_inner = njit(**_OPTIONS)
# Sums in any order (vectorised), in float64: the rounded result is hardly ever affected.
_summing = njit(fastmath={"reassoc"}, **_OPTIONS)

# Squared norms outside this range (and NaN, infinities; not zero) are left to numpy: of what is
# inside, no transform overflows and no factor falls below the normal numbers of float32.
_SMALLEST, _LARGEST = 2.0**-180, 2.0**190


# --- Vectors of lanes ---------------------------------------------------------------------------
# A few instructions of portable LLVM IR each, which LLVM maps to the registers of the machine at
# hand (AVX-512, AVX2, NEON, ...); numba's own vectoriser makes them several times slower. Indices
# are not checked. They are in this file because numba's cache watches a kernel's own file only.

_FLOAT, _I32, _I8, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)


def _pointer(context, builder, array_type, array, index, vector_type):
    """Pointer to ``vector_type`` at element ``index`` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector_type.as_pointer())


def _constant(vector_type, values):
    return ir.Constant(vector_type, list(values))


def _add_lanes(builder, x, y, lanes, bit):
    """One butterfly stage inside a vector: lane j gets x[j] + x[j ^ bit] or x[j ^ bit] - x[j]."""
    swapped = builder.shuffle_vector(
        x, y, _constant(ir.VectorType(_I32, lanes), [j ^ bit for j in range(lanes)])
    )
    signs = _constant(x.type, [-1.0 if j & bit else 1.0 for j in range(lanes)])
    # The product with +-1 is exact, so that contracting it into a multiply-add changes nothing.
    return builder.fadd(swapped, builder.fmul(x, signs, flags=["contract"]), flags=["contract"])


def _make_transform(size, lanes=16):
    """y[start:start+size] <- sqrt(size) H y[start:start+size], all of it in registers."""

    @intrinsic
    def transform(typing_context, y, start):
        def codegen(context, builder, signature, arguments):
            vector = ir.VectorType(_FLOAT, lanes)
            array, first = arguments
            places, xs = [], []
            for offset in range(0, size, lanes):
                index = builder.add(first, _I64(offset))
                places.append(_pointer(context, builder, signature.args[0], array, index, vector))
                xs.append(builder.load(places[-1], align=4))
            for bit in (1, 2, 4, 8):
                xs = [_add_lanes(builder, x, x, lanes, bit) for x in xs]
            bit = 1
            while bit < len(xs):
                xs = [
                    builder.fsub(xs[i ^ bit], x) if i & bit else builder.fadd(x, xs[i ^ bit])
                    for i, x in enumerate(xs)
                ]
                bit *= 2
            for place, x in zip(places, xs, strict=True):
                builder.store(x, place, align=4)

        return types.void(y, types.int64), codegen

    return transform


transform_16 = _make_transform(16)
transform_128 = _make_transform(128)


@intrinsic
def butterfly_16(typing_context, y, i, j):
    """(y[i], y[j]) <- (y[i] + y[j], y[i] - y[j]) for 16 neighbours at once."""

    def codegen(context, builder, signature, arguments):
        vector = ir.VectorType(_FLOAT, 16)
        low, high = (
            _pointer(context, builder, signature.args[0], arguments[0], index, vector)
            for index in arguments[1:]
        )
        a, b = builder.load(low, align=4), builder.load(high, align=4)
        builder.store(builder.fadd(a, b), low, align=4)
        builder.store(builder.fsub(a, b), high, align=4)

    return types.void(y, types.int64, types.int64), codegen


def _make_count(lanes):
    """codes[start:start+lanes] = number of edges below factor * y[start:start+lanes]."""

    @intrinsic
    def count(typing_context, y, factor, start, edges, codes):
        def codegen(context, builder, signature, arguments):
            array, scale, first, cuts, out = arguments
            floats, integers = ir.VectorType(_FLOAT, lanes), ir.VectorType(_I32, lanes)
            splat = _constant(ir.VectorType(_I32, lanes), [0] * lanes)

            def broadcast(scalar):
                one = builder.insert_element(ir.Constant(floats, ir.Undefined), scalar, _I32(0))
                return builder.shuffle_vector(one, one, splat)

            x = builder.load(
                _pointer(context, builder, signature.args[0], array, first, floats), align=4
            )
            x = builder.fmul(x, broadcast(scale))
            total = cgutils.alloca_once_value(builder, ir.Constant(integers, [0] * lanes))
            edge_array = context.make_array(signature.args[3])(context, builder, cuts)
            length = cgutils.unpack_tuple(builder, edge_array.shape, 1)[0]
            with cgutils.for_range(builder, length) as loop:
                edge = broadcast(builder.load(builder.gep(edge_array.data, [loop.index])))
                above = builder.zext(builder.fcmp_ordered(">", x, edge), integers)
                builder.store(builder.add(builder.load(total), above), total)
            byte_vector = ir.VectorType(_I8, lanes)
            place = _pointer(context, builder, signature.args[4], out, first, byte_vector)
            builder.store(builder.trunc(builder.load(total), byte_vector), place, align=1)

        return types.void(y, types.float32, types.int64, edges, codes), codegen

    return count


count_16 = _make_count(16)
count_64 = _make_count(64)


def _make_round(lanes):
    """The same, and factor * y[start:start+lanes] replaced by the levels of its codes."""

    @intrinsic
    def round_to_level(typing_context, y, factor, start, edges, levels, codes):
        def codegen(context, builder, signature, arguments):
            array, scale, first, cuts, values, out = arguments
            floats, integers = ir.VectorType(_FLOAT, lanes), ir.VectorType(_I32, lanes)
            splat = _constant(ir.VectorType(_I32, lanes), [0] * lanes)

            def broadcast(scalar):
                one = builder.insert_element(ir.Constant(floats, ir.Undefined), scalar, _I32(0))
                return builder.shuffle_vector(one, one, splat)

            place = _pointer(context, builder, signature.args[0], array, first, floats)
            x = builder.fmul(builder.load(place, align=4), broadcast(scale))
            edge_array = context.make_array(signature.args[3])(context, builder, cuts)
            level_data = context.make_array(signature.args[4])(context, builder, values).data
            total = cgutils.alloca_once_value(builder, ir.Constant(integers, [0] * lanes))
            level = cgutils.alloca_once_value(builder, broadcast(builder.load(level_data)))
            length = cgutils.unpack_tuple(builder, edge_array.shape, 1)[0]
            with cgutils.for_range(builder, length) as loop:
                edge = broadcast(builder.load(builder.gep(edge_array.data, [loop.index])))
                after = builder.add(loop.index, _I64(1))
                upper = broadcast(builder.load(builder.gep(level_data, [after])))
                above = builder.fcmp_ordered(">", x, edge)
                count = builder.add(builder.load(total), builder.zext(above, integers))
                builder.store(count, total)
                builder.store(builder.select(above, upper, builder.load(level)), level)
            builder.store(builder.load(level), place, align=4)
            byte_vector = ir.VectorType(_I8, lanes)
            code_place = _pointer(context, builder, signature.args[5], out, first, byte_vector)
            builder.store(builder.trunc(builder.load(total), byte_vector), code_place, align=1)

        return types.void(y, types.float32, types.int64, edges, levels, codes), codegen

    return round_to_level


round_16 = _make_round(16)
round_64 = _make_round(64)


def _make_copy(width):
    """y[at:at+width] = table[index]."""

    @intrinsic
    def copy(typing_context, table, index, y, at):
        def codegen(context, builder, signature, arguments):
            source, row, out, first = arguments
            vector = ir.VectorType(_FLOAT, width)
            start = builder.mul(row, _I64(width))
            levels = builder.load(
                _pointer(context, builder, signature.args[0], source, start, vector), align=4
            )
            place = _pointer(context, builder, signature.args[2], out, first, vector)
            builder.store(levels, place, align=4)

        return types.void(table, types.int64, y, types.int64), codegen

    return copy


copy_2, copy_4, copy_8 = (_make_copy(width) for width in (2, 4, 8))


@intrinsic
def store_word(typing_context, row, at, word):
    """row[at:at+8] = the bytes of ``word``, little end first."""

    def codegen(context, builder, signature, arguments):
        array, index, value = arguments
        place = _pointer(context, builder, signature.args[0], array, index, _I64)
        builder.store(value, place, align=1)

    return types.void(row, types.int64, types.uint64), codegen


@intrinsic
def load_word(typing_context, row, at):
    """The eight bytes row[at:at+8], little end first."""

    def codegen(context, builder, signature, arguments):
        place = _pointer(context, builder, signature.args[0], *arguments, _I64)
        return builder.load(place, align=1)

    return types.uint64(row, types.int64), codegen


@intrinsic
def flip_16(typing_context, y, j, signs, at):
    """y[j:j+16] *= signs[at:at+16]."""

    def codegen(context, builder, signature, arguments):
        vector = ir.VectorType(_FLOAT, 16)
        array, j_value, factors, at_value = arguments
        place = _pointer(context, builder, signature.args[0], array, j_value, vector)
        factor = builder.load(
            _pointer(context, builder, signature.args[2], factors, at_value, vector), align=4
        )
        builder.store(builder.fmul(builder.load(place, align=4), factor), place, align=4)

    return types.void(y, types.int64, signs, types.int64), codegen


@intrinsic
def store_signs_16(typing_context, y, start, row, at):
    """row[at:at+2] = the bits of y[start:start+16] >= 0."""

    def codegen(context, builder, signature, arguments):
        array, first, out, index = arguments
        vector = ir.VectorType(_FLOAT, 16)
        x = builder.load(
            _pointer(context, builder, signature.args[0], array, first, vector), align=4
        )
        zero = ir.Constant(vector, [0.0] * 16)
        bits = builder.bitcast(builder.fcmp_ordered(">=", x, zero), ir.IntType(16))
        place = _pointer(context, builder, signature.args[2], out, index, ir.IntType(16))
        builder.store(bits, place, align=1)

    return types.void(y, types.int64, row, types.int64), codegen


@intrinsic
def half(typing_context, number):
    """``number`` rounded to float16 and back, as numpy stores it; not for NaN.

    In integers: where the processor has no instruction for it, LLVM would call a library function
    that nobody links, and abort the interpreter.
    """

    def codegen(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _I32)
        size = builder.and_(bits, _I32(0x7FFFFFFF))
        # Of 23 bits of the fraction ten are left, ties to even; a carry moves into the exponent.
        even = builder.and_(builder.lshr(size, _I32(13)), _I32(1))
        normal = builder.add(size, builder.add(even, _I32(0xFFF)))
        normal = builder.and_(normal, _I32(0x7FFFE000))
        too_large = builder.icmp_unsigned(">=", normal, _I32(0x47800000))  # 2^16
        normal = builder.select(too_large, _I32(0x7F800000), normal)
        # Below 2^-14 the last place is 2^-24, as it is in the floats from 1/2 to 1.
        shift = ir.Constant(_FLOAT, 0.5)
        shifted = builder.fsub(builder.fadd(builder.bitcast(size, _FLOAT), shift), shift)
        small = builder.icmp_unsigned("<", size, _I32(0x38800000))  # 2^-14
        rounded = builder.select(small, builder.bitcast(shifted, _I32), normal)
        sign = builder.and_(bits, _I32(0x80000000))
        return builder.bitcast(builder.or_(rounded, sign), _FLOAT)

    return types.float32(types.float32), codegen


# --- Walsh-Hadamard transform of one buffer -----------------------------------------------------


@_inner
def _transform(y, dim):
    """y <- sqrt(dim) H y in place, Sylvester order; dim a power of two."""
    done = 1
    if dim >= 128:
        for start in range(0, dim, 128):
            transform_128(y, start)
        done = 128
    elif dim >= 16:
        for start in range(0, dim, 16):
            transform_16(y, start)
        done = 16
    while done < dim:
        for start in range(0, dim, 2 * done):
            if done >= 16:
                for k in range(start, start + done, 16):
                    butterfly_16(y, k, k + done)
            else:
                for k in range(start, start + done):
                    y[k], y[k + done] = y[k] + y[k + done], y[k] - y[k + done]
        done *= 2


@_inner
def _flip(y, signs, stage, dim):
    """y *= signs[stage]."""
    if dim >= 16:
        for j in range(0, dim, 16):
            flip_16(y, j, signs, stage * dim + j)
    else:
        for j in range(dim):
            y[j] *= signs[stage, j]


@_inner
def _rotate(y, signs, dim):
    for stage in range(signs.shape[0]):
        _flip(y, signs, stage, dim)
        _transform(y, dim)


@_inner
def _rotate_back(y, signs, dim):
    for stage in range(signs.shape[0]):
        _transform(y, dim)
        _flip(y, signs, signs.shape[0] - 1 - stage, dim)


@_summing
def _copy_and_square(x, y, dim):
    """Copy x into y and return |x|^2."""
    total = 0.0
    for j in range(dim):
        y[j] = x[j]
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@_summing
def _inner_product(y, levels, codes, dim):
    total = 0.0
    for j in range(dim):
        total += np.float64(y[j]) * np.float64(levels[codes[j]])
    return total


# --- Codes and bits of one row ------------------------------------------------------------------


@_inner
def _quantize(y, factor, edges, codes, dim):
    """codes[j] = number of edges below factor * y[j]; a tie goes down."""
    start = 0
    while start + 64 <= dim:
        count_64(y, factor, start, edges, codes)
        start += 64
    while start + 16 <= dim:
        count_16(y, factor, start, edges, codes)
        start += 16
    for j in range(start, dim):
        below = 0
        for edge in edges:
            below += factor * y[j] > edge
        codes[j] = below


@_inner
def _round(y, factor, edges, levels, codes, dim):
    """The same, and y[j] <- levels[codes[j]]."""
    start = 0
    while start + 64 <= dim:
        round_64(y, factor, start, edges, levels, codes)
        start += 64
    while start + 16 <= dim:
        round_16(y, factor, start, edges, levels, codes)
        start += 16
    for j in range(start, dim):
        below = 0
        for edge in edges:
            below += factor * y[j] > edge
        codes[j] = below
        y[j] = levels[below]


@_inner
def _squeeze(words, bits):
    """Eight codes in the bytes of each word -> 8 * bits consecutive bits, in place."""
    n = np.uint64(bits)
    s1, s2, s3 = np.uint64(8) - n, np.uint64(16) - n - n, np.uint64(32) - np.uint64(4) * n
    for g in range(words.shape[0]):
        w = words[g]
        w = (w & np.uint64(0x00FF00FF00FF00FF)) | ((w & np.uint64(0xFF00FF00FF00FF00)) >> s1)
        w = (w & np.uint64(0x0000FFFF0000FFFF)) | ((w & np.uint64(0xFFFF0000FFFF0000)) >> s2)
        words[g] = (w & np.uint64(0x00000000FFFFFFFF)) | ((w & np.uint64(0xFFFFFFFF00000000)) >> s3)


@_inner
def _write_bits(words, bits, row):
    """The low 8 * bits bits of each word, one after another, into the bytes of ``row``."""
    _squeeze(words, bits)
    size, at, g = row.shape[0], 0, 0
    if bits < 5 and bits != 3 and size % 8 == 0:  # whole words of eight bytes
        together = 8 // bits
        for first in range(0, words.shape[0], together):
            w = np.uint64(0)
            for k in range(together):
                w |= words[first + k] << np.uint64(8 * bits * k)
            store_word(row, first * bits, w)
        return
    while at + 8 <= size:  # the excess is overwritten by the next word
        store_word(row, at, words[g])
        at += bits
        g += 1
    while at < size:
        w = words[g]
        for k in range(at, min(at + bits, size)):
            row[k] = np.uint8(w & np.uint64(255))
            w >>= np.uint64(8)
        at += bits
        g += 1


@_inner
def _look_up(row, bits, table, y):
    """Levels of a packed row into ``y``, padded to a multiple of eight.

    ``table[i]`` holds the levels of the 8, 4, 2 or 1 codes that the bits of i stand for.
    """
    width = table.shape[1]
    if width == 8:
        for g in range(row.shape[0]):
            copy_8(table, row[g], y, 8 * g)
    elif width == 4:
        for g in range(row.shape[0]):
            copy_4(table, row[g], y, 4 * g)
    elif bits == 4:
        for g in range(row.shape[0]):
            copy_2(table, row[g], y, 2 * g)
    elif bits == 8:
        for g in range(row.shape[0]):
            y[g] = table[row[g], 0]
    else:
        _look_up_words(row, bits, table, y)


@_inner
def _look_up_words(row, bits, table, y):
    """The same for codes that straddle bytes, eight codes a word."""
    mask, n = np.uint64(table.shape[0] - 1), np.uint64(bits)
    at = 0
    for g in range(y.shape[0] // 8):
        if at + 8 <= row.shape[0]:
            w = load_word(row, at)
        else:
            w = np.uint64(0)
            for k in range(at, min(at + bits, row.shape[0])):
                w |= np.uint64(row[k]) << np.uint64(8 * (k - at))
        at += bits
        if table.shape[1] == 2:
            for k in range(4):
                copy_2(table, np.int64(w & mask), y, 8 * g + 2 * k)
                w >>= n + n
        else:
            for k in range(8):
                y[8 * g + k] = table[w & mask, 0]
                w >>= n


@_inner
def _encode_row(x, signs, gain, edges, levels, unbiased, rounded, y, codes, dim):
    """Codes of one row; returns its scale, or -1 for a row that numpy must judge.

    Leaves in ``y`` the levels of the codes where ``rounded``. A zero vector has the codes of zeros,
    and zero for a scale.
    """
    square = _copy_and_square(x, y, dim)
    if square == 0:
        _round(y, np.float32(1), edges, levels, codes, dim)
        return 0.0
    if not _SMALLEST < square < _LARGEST:
        return -1.0
    _rotate(y, signs, dim)
    norm = np.sqrt(square)
    factor = np.float32(1 / (norm * gain))
    if rounded and not unbiased:
        _round(y, factor, edges, levels, codes, dim)
        return norm
    _quantize(y, factor, edges, codes, dim)
    if unbiased:
        norm *= norm * gain / _inner_product(y, levels, codes, dim)
    if rounded:
        for j in range(dim):
            y[j] = levels[codes[j]]
    return norm


@_summing
def _subtract(x, factor, y, dim):
    """y <- x - factor * y; returns its square."""
    total = 0.0
    for j in range(dim):
        y[j] = x[j] - factor * y[j]
        total += np.float64(y[j]) * np.float64(y[j])
    return total


@_inner
def _write_signs(y, signs, words, codes, row, dim):
    """Bits of (H D y >= 0); ``y`` is overwritten."""
    _rotate(y, signs, dim)
    if dim % 16 == 0:
        for start in range(0, dim, 16):
            store_signs_16(y, start, row, start // 8)
        return
    for j in range(dim):
        codes[j] = np.uint8(y[j] >= 0)
    _write_bits(words, 1, row)


# --- Rows ---------------------------------------------------------------------------------------
# ``y``, ``words`` and ``codes`` are buffers: one vector padded to a multiple of eight coordinates,
# and the bytes of its codes seen as words, zero at first, and as bytes.


@njit(_N(_X, _F2, _F1, _F1, _N, types.boolean, _F1, _WORDS, _BYTES, _B2, _F1), **_OPTIONS)
def encode_rows(x, signs, edges, levels, bits, unbiased, y, words, codes, packed, norms):
    """Normalise, rotate, quantize, pack. Returns the number of rows it could not take.

    ``norms`` gets |x|, or |x|^2 / <x, R^T c> where ``unbiased``; ``signs`` has one row a round.
    """
    rows, dim = x.shape
    gain = np.sqrt(float(dim)) ** signs.shape[0]
    refused = 0
    for i in range(rows):
        norm = _encode_row(x[i], signs, gain, edges, levels, unbiased, False, y, codes, dim)
        refused += norm < 0
        norms[i] = norm
        _write_bits(words, bits, packed[i])
    return refused


_SKETCHED = _N(
    *(_X, _F2, _F1, _F1, _N, types.boolean, types.boolean, _F2),
    *(_F1, _WORDS, _BYTES, _B2, _F1, _B2, _F1),
)


@njit(_SKETCHED, **_OPTIONS)
def encode_sketch_rows(
    x, signs, edges, levels, bits, unbiased, halved, sketch_signs,
    y, words, codes, packed, norms, packed_signs, residual_norms,
):  # fmt: skip
    """The same, and a Hadamard sketch of what the decoder will leave, row by row.

    ``halved`` says that the scale will be stored as float16.
    """
    rows, dim = x.shape
    gain = np.sqrt(float(dim)) ** signs.shape[0]
    refused = 0
    for i in range(rows):
        row = x[i]
        norm = _encode_row(row, signs, gain, edges, levels, unbiased, True, y, codes, dim)
        refused += norm < 0
        norms[i] = norm
        _write_bits(words, bits, packed[i])
        _rotate_back(y, signs, dim)
        scale = half(norms[i]) if halved else norms[i]
        factor = np.float32(np.float64(scale) / gain)
        square = _subtract(row, factor, y, dim)
        refused += not square < _LARGEST
        residual_norms[i] = np.sqrt(square)
        _write_signs(y, sketch_signs, words, codes, packed_signs[i], dim)
    return refused


@njit(types.void(_B2R, _F1, _F2, _F2, _N, _F1, _F2), **_OPTIONS)
def decode_rows(packed, scales, signs, table, bits, y, out):
    """Unpack, look up, rotate back, scale."""
    rows, dim = out.shape
    gain = np.sqrt(float(dim)) ** signs.shape[0]
    for i in range(rows):
        _look_up(packed[i], bits, table, y)
        _rotate_back(y, signs, dim)
        factor = np.float32(np.float64(scales[i]) / gain)
        row = out[i]
        for j in range(dim):
            row[j] = factor * y[j]


@njit(_N(_X, _F2, _F1, _F1), **_OPTIONS)
def subtract_rows(x, out, y, norms):
    """out <- x - out, and its norms. Returns the number of rows that are not finite."""
    rows, dim = x.shape
    refused = 0
    for i in range(rows):
        row = out[i]
        for j in range(dim):
            row[j] = x[i, j] - row[j]
        square = _copy_and_square(row, y, dim)
        refused += not square < _LARGEST
        norms[i] = np.sqrt(square)
    return refused


@njit(_N(_X, _F1, _F1), **_OPTIONS)
def norm_rows(x, y, norms):
    """|x| of each row. Returns the number of rows outside the range the kernels take."""
    rows, dim = x.shape
    refused = 0
    for i in range(rows):
        square = _copy_and_square(x[i], y, dim)
        refused += not (square == 0 or _SMALLEST < square < _LARGEST)
        norms[i] = np.sqrt(square)
    return refused


@njit(types.void(_X, _F2, _F1, _WORDS, _BYTES, _B2), **_OPTIONS)
def sign_rows(x, signs, y, words, codes, packed):
    """Bits of (H D x >= 0), or of (x >= 0) where ``signs`` has no row."""
    rows, dim = x.shape
    for i in range(rows):
        row = x[i]
        for j in range(dim):
            y[j] = row[j]
        _write_signs(y, signs, words, codes, packed[i], dim)


@njit(types.void(_B2R, _F2, _F1, _F2), **_OPTIONS)
def unpack_sign_rows(packed, table, y, out):
    """+-1 for each packed bit."""
    rows, dim = out.shape
    for i in range(rows):
        _look_up(packed[i], 1, table, y)
        row = out[i]
        for j in range(dim):
            row[j] = y[j]


@njit(types.void(_B2R, _F1, _F2, _F2, _F1, _F2), **_OPTIONS)
def add_sketch_rows(packed, lengths, signs, table, y, out):
    """out += lengths * D H (+-1): the decoder of the Hadamard sketch, H not normalised."""
    rows, dim = out.shape
    for i in range(rows):
        _look_up(packed[i], 1, table, y)
        _rotate_back(y, signs, dim)
        row = out[i]
        for j in range(dim):
            row[j] += lengths[i] * y[j]
