"""Tests of the ledger of leagues."""
