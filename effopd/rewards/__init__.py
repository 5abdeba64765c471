"""Verifiers: from a response and an answer to a score in [0, 1]."""
