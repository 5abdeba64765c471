"""Roles as groups of Ray actors. The only package that imports ray.

Actors hold engines and call them; they do no arithmetic. What is large goes from actor to actor as object references;
the driver sees handles and summaries. `session.py` starts actors, and reuses them between runs of one process.
"""
