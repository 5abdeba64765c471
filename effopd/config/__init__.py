"""Typed configuration: plain dataclasses inside, Hydra only in `register.py`."""
