"""`effopd study`: a grid of runs, executed as a queue that can be interrupted at any moment, and what they show.

`folders` knows what is done, `queue` and `worker` do the rest; `records` reads the runs, `targets`, `spreads`, `jumps`
and `statistics` compute on plain numbers, `report` and `plot` show them; `execute` puts it together.
"""
