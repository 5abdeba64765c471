"""EffOPD itself: when to jump, in which direction, how far, and whether to keep it. Torch only."""
