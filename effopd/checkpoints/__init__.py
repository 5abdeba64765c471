"""Checkpoints that any number of ranks and any ZeRO stage can read.

`streaming` writes one safetensors file, one tensor at a time; `snapshot` gathers the shards of all ranks into such files;
`reading` verifies checkpoints and finds the newest good one; `store` writes and prunes them. Nothing here is pickled.
"""
