"""A toy world that is honest: two tasks with exact verifiers, and for each a small base and a teacher that RL made of it.

It lets the whole of on-policy distillation run, and improve a model, on one CPU core and without a network. `tasks` poses
the problems, `verify` judges responses, `tokenizer` turns both into token ids, and `make` is how the four models under
`models/` came to be. The models hold less than half a million parameters each: they show that a method works and how its
curves are shaped, and say nothing of how large a gain to expect from a language model.
"""
