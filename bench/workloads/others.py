"""Rows of no family: transforms and orderings."""

from __future__ import annotations

from . import counting as count
from .base import Array, Workload


def fft_convolution(name: str, batch: int, channels: int, length: int) -> Workload:
    """Causal convolution with filters as long as the signal, by Fourier transforms of twice the length."""
    signal, filters = Array((batch, channels, length)), Array((channels, length), high=length**-0.5)
    transforms = 2 * batch * channels + channels
    products = 6 * batch * channels * (length + 1)
    flops = transforms * count.real_fft(2 * length) + products
    return Workload(name, "other", "fft_convolution", (signal, filters), (signal,), flops)


def cumsum(name: str, rows: int, columns: int) -> Workload:
    """Running sums along the last axis."""
    array = Array((rows, columns))
    return Workload(name, "other", "cumsum", (array,), (array,), array.size)


def top_k(name: str, rows: int, columns: int, k: int) -> Workload:
    """The largest values of each row and where they stand."""
    array = Array((rows, columns))
    outputs = Array((rows, k)), Array((rows, k), "int32")
    return Workload(name, "other", "top_k", (array,), outputs, array.size, parameters={"k": k})


def sort(name: str, rows: int, columns: int) -> Workload:
    """Each row ascending."""
    array = Array((rows, columns))
    return Workload(name, "other", "sort", (array,), (array,), rows * count.sort(columns))
