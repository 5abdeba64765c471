"""Code that runs inside the sandbox: standard library only, Python 3.9 or newer, whatever runs outside.

`start` sets the limits and runs a program. `judge` is the trusted program that holds the tests, `candidate` the process
beside it that runs what the model wrote, `values` the only language between the two.
"""
