"""Adapters to the libraries that do the heavy work, one file each; nobody else imports those libraries.

A library's quirks are cancelled inside its adapter, so that all samplers keep one contract and all learners another.
"""
