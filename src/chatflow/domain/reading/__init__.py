"""Queries, their answers, and the tiers that they are read through."""
