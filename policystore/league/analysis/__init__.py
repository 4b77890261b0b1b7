"""Payoffs, ratings and strategies out of the matches of a league.

The functions take totals of matches and return values; nothing is read or written. They need numpy
alone, but for ``ratings(model="openskill")`` and strategies.
"""

from policystore.league.analysis.intervals import mean_interval, win_rate_interval
from policystore.league.analysis.payoff_table import payoffs
from policystore.league.analysis.payoff_values import Payoffs
from policystore.league.analysis.rating_table import Rating, Ratings, ratings
from policystore.league.analysis.score_table import Score, Scores, scores
from policystore.league.analysis.strategy import MetaStrategy, meta_strategy

__all__ = [
    "MetaStrategy",
    "Payoffs",
    "Rating",
    "Ratings",
    "Score",
    "Scores",
    "mean_interval",
    "meta_strategy",
    "payoffs",
    "ratings",
    "scores",
    "win_rate_interval",
]
