"""The vector type against numpy. (In other widths than this machine's: see test_raster_cpu.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recon.kernels.lanes import (
    any_set,
    copy_transposed,
    extract,
    float_bits,
    load_columns,
    load_first,
    load_flags,
    load_halves,
    lowest_bit,
    mask_bits,
    prefetch,
    prefetch_early,
    scalar_max,
    store_columns,
    store_first,
    store_flags,
    store_halves,
    store_sums,
    sum_lanes,
)
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import (
    LANES,
    absolute,
    broadcast,
    ceil,
    exp2,
    exp2_bounded,
    floor,
    get,
    integer_bits,
    lane_index,
    load,
    log2_positive,
    maximum,
    minimum,
    negative_absolute,
    put,
    select,
    sqrt,
    stack,
    store,
)

f32 = np.float32
rng = np.random.default_rng(0)


@kernel("f4[::1], f4[::1], f4[::1]")
def arithmetic(x: Any, y: Any, out: Any, counter: Any, thread: int) -> None:
    a, b = load(x, 0), load(y, 0)
    results = (
        a + b,
        a - b,
        a * b,
        a / b,
        -a,
        a + 2,
        0.5 * a,
        f32(3) - a,
        1 / a,
        select(a < b, a, b),
        select((a > 0) & (b > 0), 1.0, 0.0),
        select((a > 0) | (b > 0), 1.0, 0.0),
        select((a > 0) ^ (b > 0), 1.0, 0.0),
        select(~(a >= b), a, 7.0),
        select((a == a) & (a != b), lane_index(), broadcast(f32(-1))),
        minimum(a, b),
        maximum(a, 0.25),
        sqrt(absolute(a)),
        negative_absolute(a),
        floor(a),
        ceil(a),
    )
    for i in range(len(results)):
        store(out, i * LANES, results[i])


def test_arithmetic_comparisons_and_selection() -> None:
    x, y = (rng.normal(size=LANES).astype(f32) for _ in range(2))
    out = np.empty(21 * LANES, f32)
    launch(arithmetic, x, y, out, threads=1)
    expected = [
        *(x + y, x - y, x * y, x / y, -x, x + 2, x / 2, 3 - x, 1 / x),
        np.where(x < y, x, y),
        *(((x > 0) & (y > 0)) * 1.0, ((x > 0) | (y > 0)) * 1.0, ((x > 0) ^ (y > 0)) * 1.0),
        np.where(x >= y, 7, x),
        np.arange(LANES),
        *(np.minimum(x, y), np.maximum(x, 0.25), np.sqrt(np.abs(x)), -np.abs(x), np.floor(x), np.ceil(x)),
    ]
    np.testing.assert_allclose(out.reshape(21, LANES), np.stack(expected), rtol=2e-7)


@kernel("f4[::1], i8, f4[::1]")
def functions(x: Any, count: int, out: Any, counter: Any, thread: int) -> None:
    for i in range(0, count, LANES):
        store(out, i, exp2_bounded(load(x, i)))
        store(out, count + i, exp2(load(x, i)))
        store(out, 2 * count + i, log2_positive(exp2(load(x, i))))


def test_powers_and_logarithms_are_accurate() -> None:
    x = np.linspace(-125.9, 127.3, 4096 * LANES).astype(f32)
    out = np.empty(3 * x.size, f32)
    launch(functions, x, x.size, out, threads=1)
    bounded, power, logarithm = out.reshape(3, -1)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(bounded / exact - 1).max() < 3e-7
    np.testing.assert_array_equal(bounded, power)
    exact_logarithm = np.log2(power.astype(np.float64))
    assert (np.abs(logarithm - exact_logarithm) <= 1e-7 * np.maximum(1, np.abs(exact_logarithm))).all()
    whole = np.arange(-125, 127, dtype=f32)
    whole = np.resize(whole, -(-whole.size // LANES) * LANES)
    out = np.empty(3 * whole.size, f32)
    launch(functions, whole, whole.size, out, threads=1)
    np.testing.assert_array_equal(out[: whole.size], np.exp2(whole))


def test_nan_stays_and_infinity_is_held() -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 200, -200, 0], f32), 2 * LANES)
    out = np.empty(3 * x.size, f32)
    launch(functions, x, x.size, out, threads=1)
    power = out[x.size : 2 * x.size]
    assert np.isnan(power[np.isnan(x)]).all()
    assert np.isfinite(power[~np.isnan(x)]).all()
    assert (power[x >= 200] > 1e38).all()
    assert (power[x <= -200] <= 2.0**-126).all()
    y, result = np.ones(LANES, f32), np.empty(21 * LANES, f32)
    launch(arithmetic, np.full(LANES, np.nan, f32), y, result, threads=1)
    rows = result.reshape(21, LANES)
    for row in (0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 18, 19, 20):  # all but selections
        assert np.isnan(rows[row]).all(), row
    assert (rows[9] == 1).all()  # NaN < 1 is false
    assert (rows[14] == -1).all()  # NaN == NaN too


@kernel("f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1]")
def movements(x: Any, two: Any, three: Any, four: Any, square: Any, sums: Any, counter: Any, thread: int) -> None:
    a, b = load_columns(x, 0, 2)
    store(two, 0, a)
    store(two, LANES, b)
    store_columns(two, 2 * LANES, (a, b))
    a, b, c = load_columns(x, 0, 3)
    store(three, 0, a)
    store(three, LANES, b)
    store(three, 2 * LANES, c)
    store_columns(three, 3 * LANES, (a, b, c))
    a, b, c, d = load_columns(x, 1, 4)
    store(four, 0, a)
    store(four, LANES, b)
    store(four, 2 * LANES, c)
    store(four, 3 * LANES, d)
    store_columns(four, 4 * LANES, (a, b, c, d))
    copy_transposed(x, 0, LANES + 1, square, 0, LANES)
    store_sums(sums, 0, (a, b, c, d, a, b, c, d, a))
    put(sums, 32, sum_lanes(b))


def test_rows_become_columns_and_back() -> None:
    x = rng.normal(size=LANES * (LANES + 1) + 8).astype(f32)
    two, three, four = (np.empty(2 * n * LANES, f32) for n in (2, 3, 4))
    square, sums = np.empty(LANES * LANES, f32), np.zeros(33, f32)
    launch(movements, x, two, three, four, square, sums, threads=1)
    for width, start, out in ((2, 0, two), (3, 0, three), (4, 1, four)):
        rows = x[start : start + width * LANES]
        np.testing.assert_array_equal(out[: width * LANES], rows.reshape(LANES, width).T.ravel())
        np.testing.assert_array_equal(out[width * LANES :], rows)
    strided = np.stack([x[i * (LANES + 1) : i * (LANES + 1) + LANES] for i in range(LANES)])
    np.testing.assert_array_equal(square.reshape(LANES, LANES), strided.T)
    totals = np.resize(four[: 4 * LANES].reshape(4, LANES).astype(np.float64).sum(axis=1), 9)
    np.testing.assert_allclose(sums[:9], totals, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums[32], totals[1], rtol=1e-5, atol=1e-6)


@kernel("f4[::1], f4[::1]")
def halves(x: Any, out: Any, counter: Any, thread: int) -> None:
    store(out, 0, load_halves(x, 3, LANES + 1))
    store_halves(out, LANES, 2 * LANES, load(x, 0))


def test_halves_of_vectors() -> None:
    x, out = rng.normal(size=2 * LANES + 3).astype(f32), np.zeros(3 * LANES, f32)
    launch(halves, x, out, threads=1)
    half = LANES // 2
    np.testing.assert_array_equal(out[:LANES], np.concatenate([x[3 : 3 + half], x[LANES + 1 : LANES + 1 + half]]))
    np.testing.assert_array_equal(out[LANES : LANES + half], x[:half])
    np.testing.assert_array_equal(out[2 * LANES : 2 * LANES + half], x[half:LANES])


@kernel("u1[::1], u1[::1], i8[::1]")
def flags(given: Any, out: Any, bits: Any, counter: Any, thread: int) -> None:
    put(bits, 0, mask_bits(load_flags(given, 1)))
    store_flags(out, 1, load_flags(given, 1))


def test_bytes_as_masks() -> None:
    given = rng.integers(0, 3, LANES + 2).astype(np.uint8)
    out, bits = np.full(LANES + 2, 9, np.uint8), np.zeros(1, np.int64)
    launch(flags, given, out, bits, threads=1)
    assert bits[0] == sum(1 << lane for lane in range(LANES) if given[1 + lane])
    np.testing.assert_array_equal(out[1:-1], given[1:-1] != 0)
    assert out[0] == out[-1] == 9


@kernel("f4[::1], i8, f4[::1], i8[::1], u4[::1]")
def scalars(x: Any, count: int, out: Any, whole: Any, words: Any, counter: Any, thread: int) -> None:
    store_first(out, 0, load_first(x, 1, count), count)
    buffer = stack(LANES)
    store(buffer, 0, load_first(x, 1, count))
    for i in range(LANES):
        put(out, LANES + i, get(buffer, i))
    value = get(x, 0)
    put(out, 2 * LANES, scalar_max(value, f32(2)))
    put(out, 2 * LANES + 1, scalar_max(value, f32(20)))
    put(out, 2 * LANES + 2, extract(load(x, 0), 1))
    put(whole, 0, float_bits(value))
    put(whole, 1, mask_bits(lane_index() > 1.5))
    put(whole, 2, any_set(lane_index() > f32(LANES)))
    put(whole, 3, lowest_bit(24))
    put(whole, 4, get(words, 0))
    put(words, 1, -1)
    prefetch(words, 1 << 20)
    prefetch_early(words, 1 << 20)
    store(out, 3 * LANES, integer_bits(lane_index() * -2))


@pytest.mark.parametrize("count", [1, 3, LANES, LANES + 5])
def test_parts_of_vectors_and_scalars(count: int) -> None:
    x = np.concatenate([np.array([6.25], f32), rng.normal(size=2 * LANES).astype(f32)])
    out, whole = np.full(4 * LANES, 99, f32), np.zeros(8, np.int64)
    words = np.array([0xFFFFFFFF, 0], np.uint32)
    launch(scalars, x, count, out, whole, words, threads=1)
    used = min(count, LANES)
    np.testing.assert_array_equal(out[:used], x[1 : 1 + used])
    np.testing.assert_array_equal(out[used:LANES], np.full(LANES - used, 99))
    np.testing.assert_array_equal(out[LANES + used : 2 * LANES], np.zeros(LANES - used))
    np.testing.assert_array_equal(out[2 * LANES : 2 * LANES + 3], np.array([6.25, 20, x[1]], f32))
    bits = int(np.array([6.25], f32).view(np.uint32)[0])
    assert whole.tolist()[:5] == [bits, (1 << LANES) - 4, 0, 3, 0xFFFFFFFF]
    assert words[1] == 0xFFFFFFFF
    np.testing.assert_array_equal(out[3 * LANES :].view(np.int32), -2 * np.arange(LANES))
