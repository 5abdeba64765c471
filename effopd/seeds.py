"""Seeds as pure functions of what they are for.

Nothing in a run draws from a generator whose state would have to be saved: a seed is a hash of the run's seed, a purpose
and a position. So a resumed run, another number of samplers or another order of requests sees the same seeds.
"""

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a stable 31-bit seed for `parts`, e.g. `derive_seed(42, "rollout", step)`."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def sample_seed(request_seed: int, prompt_id: str, sample_index: int) -> int:
    """Return the seed of one response of a `GenerateRequest`."""
    return derive_seed(request_seed, prompt_id, sample_index)
