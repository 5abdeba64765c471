"""What a run will take, computed before any GPU is booked: bytes per role and GPU, seconds per step, and a verdict.

Arithmetic on the settings and on a dozen numbers per model. Standard library only; `tests/engines/test_planned_memory.py`
holds the learner's bytes to what DeepSpeed and autograd allocate.
"""
