"""The inner loops of the log-mels, compiled by numba when they are first called (a second, once a process).

What NumPy or torch would do in ten passes over memory are four here, and Python's lock is free in each, so that threads
do not wait for one another. Import this module where sound is turned into log-mels and nowhere else.
"""
import numba
import numpy as np

_TILE = 128         # frames whose power is in the cache at a time

# Sums and products in any order, and fused: without it a sum over the samples is one addition after the other.
_options = {"fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
_compiled = numba.njit(nogil=True, **_options)
_short = numba.njit(**_options)         # a few µs: to get Python's lock back from another thread can take longer


@_short
def _emphasize(samples, scale, preemphasis, emphasized):
    """High frequencies raised, the mean taken off, the ends mirrored.

    samples: int16 or float32 [n], n > 0; scale: what to multiply them by for full scale to be 1; emphasized: float32
    [n + 2 margins], the result. Every sample but the first loses `preemphasis` times the one before it.
    """
    n, margin = samples.shape[0], (emphasized.shape[0] - samples.shape[0]) // 2
    total = 0.0
    for i in range(n):
        total += samples[i]
    mean = total * scale / n
    keep, lose, offset = np.float32(scale), np.float32(-preemphasis * scale), np.float32((1 - preemphasis) * mean)
    inside, after = emphasized[margin:margin + n], emphasized[margin + 1:margin + n]
    inside[0] = np.float32(samples[0]) * keep - np.float32(mean)
    for i in range(n - 1):
        after[i] = np.float32(samples[i + 1]) * keep + np.float32(samples[i]) * lose - offset
    period = max(2 * (n - 1), 1)
    for i in range(1, margin + 1):                      # a clip shorter than the margin is mirrored more than once
        left, right = i % period, (n - 1 + i) % period
        emphasized[margin - i] = inside[min(left, period - left)]
        emphasized[margin + n - 1 + i] = inside[min(right, period - right)]


@_compiled
def cut_frames(samples, scale, preemphasis, emphasized, window, hop, start, frames):
    """Frames `start` to `start + k` of raised samples, windowed.

    samples, scale, preemphasis, emphasized: of _emphasize, which is done before frame 0 is cut; window: float32 [w];
    hop: samples from frame to frame; frames: float32 [k, w], the result.
    """
    if start == 0:
        _emphasize(samples, scale, preemphasis, emphasized)
    for frame in range(frames.shape[0]):
        begin = (start + frame) * hop
        heard, cut = emphasized[begin:begin + window.shape[0]], frames[frame]
        for i in range(window.shape[0]):                # over slices, which the compiler turns into vector operations
            cut[i] = heard[i] * window[i]


@_compiled
def mel_power(spectrum, first, weights, floor, power):
    """Power of a spectrum under overlapping triangles, at least `floor`; returns the largest.

    spectrum: float32 [n, 2k], real, imaginary, real, …; first: int64 [k], the first of the two bands that hear a
    frequency; weights: float32 [k, 2], what these two make of it; power: float32 [bands, n], the result.
    """
    n, k, bands = spectrum.shape[0], first.shape[0], power.shape[0]
    squares, sums = np.empty((_TILE, k), np.float32), np.empty((bands + 1, _TILE), np.float32)
    column, largest = np.empty(_TILE, np.float32), np.float32(floor)
    for start in range(0, n, _TILE):
        count = min(_TILE, n - start)
        for frame in range(count):
            numbers, square = spectrum[start + frame], squares[frame]
            for i in range(k):
                square[i] = numbers[2 * i] ** 2 + numbers[2 * i + 1] ** 2
        sums[:] = 0
        for i in range(k):                              # frames side by side: as vectors, which short triangles are not
            one, next_one, a, b = sums[first[i]], sums[first[i] + 1], weights[i, 0], weights[i, 1]
            for frame in range(count):
                column[frame] = squares[frame, i]
            for frame in range(count):
                one[frame] += a * column[frame]
                next_one[frame] += b * column[frame]
        for band in range(bands):
            total, result = sums[band], power[band, start:start + count]
            for frame in range(count):
                result[frame] = max(total[frame], np.float32(floor))
                largest = max(largest, result[frame])
    return largest


@_short
def relative_decibels(logarithms, loudest, top_db, decibels):
    """logarithms: float32 [bands, n or more], base 2; decibels: float32 [bands, n], the result, from -top_db to 0.

    loudest: the logarithm that becomes 0 dB.
    """
    unit, top, lowest = np.float32(10 * np.log10(2)), np.float32(loudest), np.float32(-top_db)
    for band in range(decibels.shape[0]):
        values, result = logarithms[band], decibels[band]
        for frame in range(decibels.shape[1]):
            result[frame] = min(max((values[frame] - top) * unit, lowest), np.float32(0))


@_short
def to_steps(values, steps_per_unit, steps):
    """values: float32 [a, b]; steps: int16 [a, b], the result: the nearest whole number of steps."""
    factor = np.float32(steps_per_unit)
    for i in range(values.shape[0]):
        row, result = values[i], steps[i]
        for j in range(values.shape[1]):
            result[j] = np.int16(np.rint(row[j] * factor))
