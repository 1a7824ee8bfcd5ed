"""Products and sums of numbers of any size: a mantissa in float64 and a power of two beside it, nothing underflows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 512
LOG10_2 = math.log10(2.0)


@dataclass(frozen=True)
class Scaled:
    """Numbers mantissa · 2^exponent, with 0.5 ≤ |mantissa| < 1, or 0."""

    mantissa: Array
    exponent: NDArray[np.int64]

    @classmethod
    def of(cls, values: Array) -> Scaled:
        """Ordinary numbers."""
        mantissa, exponent = np.frexp(np.asarray(values, np.float64))
        return cls(mantissa, exponent.astype(np.int64))

    def __mul__(self, other: Scaled) -> Scaled:
        with np.errstate(invalid="ignore"):  # only what was infinite before
            mantissa, carry = np.frexp(self.mantissa * other.mantissa)
        return Scaled(mantissa, self.exponent + other.exponent + carry)

    def __getitem__(self, key: Any) -> Scaled:
        return Scaled(self.mantissa[key], self.exponent[key])

    @property
    def log10(self) -> Array:
        """log10 of the absolute values; −inf only for a true zero."""
        with np.errstate(divide="ignore"):
            return np.log10(np.abs(self.mantissa)) + np.where(self.mantissa == 0, 0, self.exponent) * LOG10_2

    @property
    def largest(self) -> Scaled:
        """The one of largest size."""
        place = int(self.log10.argmax())
        return Scaled(np.abs(self.mantissa.ravel()[place, ...]), self.exponent.ravel()[place, ...])

    def over(self, other: Scaled) -> Scaled:
        """Divided by other numbers, none of them 0."""
        mantissa, carry = np.frexp(self.mantissa / other.mantissa)
        return Scaled(mantissa, self.exponent - other.exponent + carry)

    @property
    def sign(self) -> NDArray[np.int64]:
        """+1, 0 or −1."""
        return np.sign(self.mantissa).astype(np.int64)

    @property
    def value(self) -> Array:
        """As float64, with its underflow and overflow."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.mantissa, np.clip(self.exponent, -5000, 5000).astype(np.int32))


def running_product(factors: Array) -> Scaled:
    """Products of the first 1, 2, 3 … factors along the last axis; exact but for rounding at any length.

    A block of 512 mantissas can neither underflow nor overflow, so that each block is one cumulative product.
    """
    mantissa, exponent = np.frexp(np.asarray(factors, np.float64))
    exponents = np.cumsum(exponent.astype(np.int64), axis=-1)
    products = np.empty_like(mantissa)
    carried = np.ones(mantissa.shape[:-1])
    shift = np.zeros(mantissa.shape[:-1], np.int64)
    for start in range(0, mantissa.shape[-1], BLOCK):
        block = slice(start, start + BLOCK)
        here, lift = np.frexp(np.cumprod(mantissa[..., block], axis=-1) * carried[..., None])
        exponents[..., block] += lift + shift[..., None]
        products[..., block] = here
        carried, shift = here[..., -1], shift + lift[..., -1]
    return Scaled(products, exponents)


def running_product_back(factors: Array) -> Scaled:
    """Products of the last 1, 2, 3 … factors, so that place l holds factors l, l + 1, … to the end."""
    turned = running_product(factors[..., ::-1])
    return Scaled(turned.mantissa[..., ::-1], turned.exponent[..., ::-1])


def scaled_sum(numbers: Scaled) -> Scaled:
    """Their sum along the first axis, to the precision of float64 relative to the largest of them."""
    lowest = np.iinfo(np.int64).min // 4
    exponent = np.where(numbers.mantissa == 0, lowest, numbers.exponent)
    top = exponent.max(axis=0, keepdims=True)
    shift = np.maximum(exponent - top, -2000).astype(np.int32)
    total, carry = np.frexp(np.ldexp(numbers.mantissa, shift).sum(axis=0))
    return Scaled(total, np.where(total == 0, 0, top.squeeze(0) + carry))


def log10_rms(log10: Array) -> Array:
    """log10 of the root mean square, along the first axis, of numbers given by their logarithms."""
    if len(log10) == 1:
        return log10[0]
    top = log10.max(axis=0, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore", under="ignore"):
        mean = np.mean(10.0 ** (2 * (log10 - safe)), axis=0)
        return 0.5 * np.log10(mean) + np.squeeze(safe, 0)
