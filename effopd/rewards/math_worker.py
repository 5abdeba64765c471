"""The process behind `effopd.rewards.math`: one JSON list [gold, given] per line in, `true` or `false` per line out."""

import json
import logging
import resource
import sys

from math_verify import parse, verify

MAX_BYTES = 4 * 2**30


def is_equal(gold: str, given: str) -> bool:
    """Return whether math-verify takes the two LaTeX answers for the same; anything that fails to parse is not."""
    # Boxed, both sides are read as LaTeX. math-verify's own time-outs are off, for they need SIGALRM: the parent kills.
    try:
        return bool(
            verify(
                parse(f"\\boxed{{{gold}}}", parsing_timeout=None),  # pyright: ignore[reportArgumentType]
                parse(f"\\boxed{{{given}}}", parsing_timeout=None),  # pyright: ignore[reportArgumentType]
                timeout_seconds=None,
            )
        )
    except Exception:  # a parser fed hostile text may raise anything, and all of it means "not equal"
        return False


def main() -> None:
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))  # 9^9^9^9 would take all there is within seconds
    for line in sys.stdin:
        sys.stdout.write(json.dumps(is_equal(*json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
