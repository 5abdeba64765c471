"""`effopd doctor`: whether this machine, these models and these settings will do, said before a run finds out.

One family of checks a file. A check is a function from facts to a `Finding`; the facts are read from the machine by
functions of their own, so that a test can hand over others. Nothing here changes anything.
"""
