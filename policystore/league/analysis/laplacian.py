"""Solve equations of graph Laplacians, with the same bits on every machine.

Libraries of linear algebra add numbers in an order that depends on the processor and on the number
of threads, so the last digits of their results differ. Here every number is rounded by an
elementwise operation of IEEE 754 or by an addition in a fixed order. The one use of such a library
is the product of two matrices of integers that are small enough: such a product is exact in every
order of the additions.

A Laplacian is the Fisher information of ratings: a graph of players whose edges have weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Graph", "inverse_diagonal", "ordered_product", "ordered_sums"]

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_BLOCK = 128
_STRIP = 512
_HIGH = 2.0**23  # 2 * 23 bits and 2^7 products: a sum has at most 53 bits, and is exact
_LOW = 2.0**46


def ordered_sums(places: Integers, values: Floats, size: int) -> Floats:
    """Return the sum of the values at each place; ``bincount`` adds them one after the other."""
    sums: Floats = np.bincount(places, weights=values, minlength=size).astype(np.float64)
    return sums


def ordered_product(one: Floats, other: Floats) -> float:
    """Return the scalar product of two vectors, summed from the first place to the last."""
    return float(np.add.accumulate(one * other)[-1]) if len(one) else 0.0


@dataclass(frozen=True)
class Graph:
    """A weighted graph without loops.

    Attributes:
        size: number of nodes.
        first, second: the two nodes of each edge, int64.
        weights: the weight of each edge, float64, above 0.
        fixed: nodes whose value is known: True for these.
    """

    size: int
    first: Integers
    second: Integers
    weights: Floats
    fixed: NDArray[np.bool_]

    def degrees(self) -> Floats:
        """Return the sum of the weights at each node."""
        ends = np.concatenate((self.first, self.second))
        return ordered_sums(ends, np.concatenate((self.weights, self.weights)), self.size)

    def multiply(self, values: Floats) -> Floats:
        """Return the product of the Laplacian and a vector that is 0 at the fixed nodes."""
        flow = self.weights * (values[self.first] - values[self.second])
        ends = np.concatenate((self.first, self.second))
        result = ordered_sums(ends, np.concatenate((flow, -flow)), self.size)
        result[self.fixed] = 0.0
        return result

    def solve(self, right: Floats, tolerance: float) -> Floats:
        """Return the solution of the Laplacian's equations, 0 at the fixed nodes.

        The method is that of conjugate gradients, with the diagonal as preconditioner. Each group
        of connected nodes needs a fixed one.

        Args:
            right: the right side, 0 at the fixed nodes.
            tolerance: the size of the rest, as a share of the right side, at which to stop.
        """
        inverse = np.where(self.fixed, 0.0, 1.0 / np.maximum(self.degrees(), 1e-300))
        solution = np.zeros(self.size)
        rest = right.copy()
        direction = scaled = inverse * rest
        size = start = ordered_product(rest, scaled)
        for _ in range(4 * self.size + 100):
            if size <= tolerance * tolerance * start or size == 0.0:
                break
            image = self.multiply(direction)
            step = size / ordered_product(direction, image)
            solution = solution + step * direction
            rest = rest - step * image
            scaled = inverse * rest
            previous, size = size, ordered_product(rest, scaled)
            direction = scaled + (size / previous) * direction
        return solution

    def dense(self) -> Floats:
        """Return the Laplacian without the rows and columns of the fixed nodes."""
        matrix = np.zeros((self.size, self.size))
        np.subtract.at(matrix, (self.first, self.second), self.weights)
        np.subtract.at(matrix, (self.second, self.first), self.weights)
        np.fill_diagonal(matrix, self.degrees())
        free = np.flatnonzero(~self.fixed)
        chosen: Floats = matrix[np.ix_(free, free)]
        return chosen


def inverse_diagonal(matrix: Floats) -> Floats:
    """Return the diagonal of the inverse of a positive definite matrix.

    With ``L`` from Cholesky's ``L Lᵀ = matrix``, these are the sums of the squares of the columns
    of the inverse of ``L``. The matrix is first scaled to a diagonal of ones. Factors in the
    products of blocks have 46 bits.

    Args:
        matrix: float64, of shape (n, n); is not changed.
    """
    size = len(matrix)
    scale = np.sqrt(np.diagonal(matrix))
    work = matrix / scale[:, None] / scale[None, :]
    inverse = np.zeros_like(work)
    for start in range(0, size, _BLOCK):
        here = slice(start, min(start + _BLOCK, size))
        before, after = slice(0, start), slice(here.stop, size)
        inner = _invert_lower(_factor(work[here, here]))
        # Rows of the inverse: -(inverse of the block) (row of L) (inverse above), and the block's.
        inverse[here, here] = inner
        if start:
            above = _exact_product(work[here, before], inverse[before, before])
            inverse[here, before] = -_exact_product(inner, above)
        if here.stop < size:
            work[after, here] = _exact_product(work[after, here], inner.T)
            for left in range(here.stop, size, _STRIP):
                strip = work[left : left + _STRIP, here]
                work[left:, left : left + _STRIP] -= _exact_product(work[left:, here], strip.T)
    sums = np.zeros(size)
    for row in inverse:  # in a fixed order
        sums += row * row
    return sums / scale / scale


def _factor(matrix: Floats) -> Floats:
    """Return Cholesky's factor of a small matrix."""
    work: Floats = matrix.copy()
    for column in range(len(work)):
        pivot = math.sqrt(max(float(work[column, column]), 1e-300))
        below = work[column + 1 :, column] / pivot
        work[column + 1 :, column + 1 :] -= below[:, None] * below[None, :]
        work[column, column] = pivot
        work[column + 1 :, column] = below
        work[column, column + 1 :] = 0.0
    return work


def _invert_lower(lower: Floats) -> Floats:
    """Return the inverse of a lower triangular matrix."""
    size = len(lower)
    inverse = np.zeros((size, size))
    for row in range(size):
        values = np.zeros(size)
        values[row] = 1.0
        for column in range(row):
            values -= lower[row, column] * inverse[column]
        inverse[row] = values / lower[row, row]
    return inverse


def _exact_product(left: Floats, right: Floats) -> Floats:
    """Return the product of two matrices, with the same bits in every order of the additions.

    Each matrix is the sum of a high part and a low part, of 23 bits each, relative to its largest
    number. The products of parts are exact; that of the two low parts is left out.
    """
    total = np.zeros((left.shape[0], right.shape[1]))
    for start in range(0, left.shape[1], _BLOCK):
        a, b = left[:, start : start + _BLOCK], right[start : start + _BLOCK]
        scale_a, scale_b = _power_of_two(a), _power_of_two(b)
        high_a, low_a = _parts(a / scale_a)
        high_b, low_b = _parts(b / scale_b)
        mixed = (high_a @ low_b + low_a @ high_b) / _LOW
        total += (high_a @ high_b / _HIGH + mixed) / _HIGH * (scale_a * scale_b)
    return total


def _power_of_two(matrix: Floats) -> float:
    largest = float(np.max(np.abs(matrix), initial=0.0))
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0.0 else 1.0


def _parts(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the high and the low part of numbers from -1 to 1, as integers of 23 bits."""
    high = np.rint(matrix * _HIGH)
    return high, np.rint((matrix - high / _HIGH) * _LOW)
