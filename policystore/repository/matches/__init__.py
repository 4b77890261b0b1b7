"""The ledger of leagues: lists of matches that writers extend, totals of them, and summaries."""
