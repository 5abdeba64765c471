"""Typed configuration: plain dataclasses inside, Hydra only in `register.py`.

`schema` holds the settings, `check` the rules between them, `jobs` turns a command line into checked configurations.
Everything but `register` and `jobs` is standard library only.
"""
