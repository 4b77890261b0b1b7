"""Rank players by the share of time that an evolving population spends with each of them.

Omidshafiei and others, "Alpha-Rank: multi-agent evaluation by evolution", 2019,
https://arxiv.org/abs/1903.01373, for one population and a game of constant sum.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["fixation", "stationary_shares"]

Floats: TypeAlias = NDArray[np.float64]


def fixation(gains: Floats, alpha: float, population: int) -> Floats:
    """Return the logarithms of the probabilities that a single mutant takes over a population.

    Args:
        gains: win rates above one half, of row players against column players; shape (n, n).
        alpha: how strongly a higher win rate is selected.
        population: number of individuals, at least 2.

    Returns:
        float64, of shape (n, n): row s, column r for a mutant r in a population of s.
    """
    advantage = alpha * population / (population - 1) * gains.T
    size = np.where(advantage == 0.0, 1.0, np.abs(advantage))
    logs = np.log(-np.expm1(-size)) - np.log(-np.expm1(-population * size))
    logs = np.where(advantage < 0.0, logs - (population - 1) * size, logs)
    return np.asarray(np.where(advantage == 0.0, -np.log(population), logs), dtype=np.float64)


def stationary_shares(logs: Floats) -> Floats:
    """Return the share of time that a Markov chain spends in each of its states.

    The algorithm is that of Grassmann, Taksar and Heyman (Operations Research 33, 1985), which
    subtracts nothing. It works on logarithms, so that probabilities of e^-10000 are no problem.

    Args:
        logs: logarithms of the probabilities of changes from the row's to the column's state, up to
            one common factor; those on the diagonal have no effect. Of shape (n, n).
    """
    work = logs.copy()
    size = len(work)
    for last in range(size - 1, 0, -1):
        work[:last, last] -= np.logaddexp.reduce(work[last, :last])
        through = work[:last, last, None] + work[None, last, :last]
        np.logaddexp(work[:last, :last], through, out=work[:last, :last])
    shares = np.zeros(size)
    for state in range(1, size):
        shares[state] = np.logaddexp.reduce(shares[:state] + work[:state, state])
    powers = np.exp(shares - shares.max())
    return np.asarray(powers / powers.sum(), dtype=np.float64)
