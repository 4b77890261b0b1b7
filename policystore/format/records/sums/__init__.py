"""Sums of the matches of leagues, and the bodies of summaries, which hold such sums."""

from policystore.format.records.sums.body import body_bytes, parse_body
from policystore.format.records.sums.tally import ListState, Matchup, ReturnSums, Sums, Tally

__all__ = ["ListState", "Matchup", "ReturnSums", "Sums", "Tally", "body_bytes", "parse_body"]
