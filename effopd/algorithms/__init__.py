"""The arithmetic of every algorithm. Torch only: nothing here knows an engine, a process group or a file."""
