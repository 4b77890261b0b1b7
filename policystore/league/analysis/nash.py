"""Find the equilibrium of a two-player zero-sum game: the one of largest entropy.

A game may have many equilibria. The one of largest entropy is unique, and it gives equal players
equal shares (Balduzzi and others, "Re-evaluating evaluation", 2018, https://arxiv.org/abs/1806.02643).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policystore.errors import InvalidInputError, MissingPackageError

__all__ = ["equilibrium"]

Floats: TypeAlias = NDArray[np.float64]

_TIGHT = 1e-10  # the solver's tolerance
_TOLERANCE = 1e-9  # of gains
_NEGLIGIBLE = 1e-9  # of shares
_ANSWERS = 8  # rows and columns that join the game at once
_LONGEST = 1e4  # so a share below 1e-4 of the others' sum counts only in part
_IN_SUPPORT = 1e-3
_ACCURATE = 1e-6


def equilibrium(gains: Floats) -> tuple[Floats, Floats, float]:
    """Return the equilibrium of largest entropy.

    Args:
        gains: what the row player gains and the column player loses, of shape (rows, columns).

    Returns:
        The shares of the rows, the shares of the columns, the gain of the row player.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    is_symmetric = gains.shape[0] == gains.shape[1] and bool((gains == -gains.T).all())
    some_rows, some_columns, value = _one_equilibrium(gains)
    value = 0.0 if is_symmetric else value
    rest = gains - value
    # No equilibrium uses what loses against another one.
    losing_rows, losing_columns = rest @ some_columns < -_TOLERANCE, some_rows @ rest > _TOLERANCE
    rows, wide_rows = _widest(rest, ~losing_rows, some_rows, ~losing_columns)
    if is_symmetric:
        shares = _most_even(rest, rows, rows, wide_rows)
        return shares, shares, 0.0
    columns, wide_columns = _widest(-rest.T, ~losing_columns, some_columns, ~losing_rows)
    return (
        _most_even(rest, rows, columns, wide_rows),
        _most_even(-rest.T, columns, rows, wide_columns),
        value,
    )


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise MissingPackageError.of(
            'meta_strategy(kind="nash")', "scipy", extra="league", error=error
        ) from None
    return optimize


def _solve(cost: Floats, **problem: Any) -> Any:
    options = {"primal_feasibility_tolerance": _TIGHT, "dual_feasibility_tolerance": _TIGHT}
    found = _optimize().linprog(cost, method="highs-ds", options=options, **problem)
    if found.x is None:
        raise InvalidInputError(f"scipy's linear programming found no equilibrium: {found.message}")
    return found


def _one_equilibrium(gains: Floats) -> tuple[Floats, Floats, float]:
    """Return any equilibrium, and what the row player gains in it.

    Few rows and columns have a share. So the game starts with one of each, and the best answers
    join until none is better (McMahan, Gordon and Blum, "Planning in the presence of cost functions
    controlled by an adversary", ICML 2003).
    """
    rows = [int(np.argmax(gains.min(axis=1)))]
    columns = [int(np.argmin(gains.max(axis=0)))]
    while True:
        small = gains[np.ix_(rows, columns)]
        found = _solve(
            np.append(np.zeros(len(rows)), -1.0),
            A_ub=np.hstack((-small.T, np.ones((len(columns), 1)))),
            b_ub=np.zeros(len(columns)),
            A_eq=np.append(np.ones(len(rows)), 0.0)[None, :],
            b_eq=np.ones(1),
            bounds=[(0, None)] * len(rows) + [(None, None)],
        )
        one, other = np.zeros(gains.shape[0]), np.zeros(gains.shape[1])
        one[rows] = np.maximum(found.x[:-1], 0.0)
        other[columns] = np.maximum(-found.ineqlin.marginals, 0.0)
        one, other, value = one / one.sum(), other / other.sum(), float(found.x[-1])
        new_rows = _best(gains @ other - value, rows)
        new_columns = _best(value - one @ gains, columns)
        if not new_rows and not new_columns:
            return one, other, value
        rows, columns = rows + new_rows, columns + new_columns


def _best(excess: Floats, known: list[int]) -> list[int]:
    """Return a few places with the largest excess above 0 that are not known yet."""
    best = np.argsort(-excess, kind="stable")[:_ANSWERS].tolist()
    return [place for place in best if excess[place] > _TOLERANCE and place not in known]


def _widest(
    gains: Floats, rows: NDArray[np.bool_], some: Floats, columns: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Floats]:
    """Return the rows that any equilibrium of a game of value 0 uses, and one that uses all.

    Mixtures without a loss, of any sum, are a cone. The sum of ``min(1, share)`` is largest where
    all rows that can have a share have one of at least 1.

    Args:
        gains: what the row player gains.
        rows: the rows that may be used.
        some: an equilibrium. If all these rows have a share in it, nothing is to be done.
        columns: the columns that may be used.
    """
    used = some > _NEGLIGIBLE
    if (used == rows).all() and int(columns.sum()) == int(rows.sum()):
        return used, some
    own = gains[rows]
    count = len(own)
    found = _solve(
        np.append(-np.ones(count), np.zeros(count)),
        A_ub=np.hstack((-own.T, -own.T)),
        b_ub=np.full(gains.shape[1], _TOLERANCE),
        bounds=[(0, 1)] * count + [(0, _LONGEST)] * count,
    )
    shares = np.zeros(len(gains))
    shares[rows] = np.maximum(found.x[:count] + found.x[count:], 0.0)
    used = shares > _IN_SUPPORT
    shares = np.where(used, shares, 0.0)
    return used, shares / shares.sum()


def _most_even(
    gains: Floats, rows: NDArray[np.bool_], columns: NDArray[np.bool_], start: Floats
) -> Floats:
    """Return the mixture of largest entropy among those of the rows that lose to no column.

    Columns that an equilibrium uses gain nothing against every such mixture. If that leaves one
    mixture, it is the result. Else the dual problem is solved: the shares are proportional to
    ``exp(gains @ prices)``, with a price for each column, and none below 0 for other columns.
    """
    equal, other = gains[np.ix_(rows, columns)], gains[np.ix_(rows, ~columns)]
    system = np.vstack((equal.T, np.ones((1, int(rows.sum())))))
    result = np.zeros(len(gains))
    if np.linalg.matrix_rank(system, tol=_TOLERANCE) == rows.sum():
        result[rows] = np.linalg.lstsq(system, np.append(np.zeros(len(system) - 1), 1.0))[0]
    else:
        matrix = np.hstack((equal, other))

        def dual(prices: Floats) -> tuple[float, Floats]:
            logits = matrix @ prices
            top = logits.max()
            powers = np.exp(logits - top)
            return top + float(np.log(powers.sum())), matrix.T @ (powers / powers.sum())

        bounds = [(None, None)] * equal.shape[1] + [(0.0, None)] * other.shape[1]
        found = _optimize().minimize(
            dual,
            np.zeros(matrix.shape[1]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": 1e-11, "maxcor": 30},
        )
        logits = matrix @ found.x
        result[rows] = np.exp(logits - logits.max())
    result = np.maximum(result, 0.0)
    result /= result.sum()
    is_right = (result @ gains).min() > -_ACCURATE
    return result if is_right else start
