"""On-policy distillation of language models, with gated weight extrapolation (EffOPD, arXiv 2605.11739)."""

__version__ = "0.1.0"
