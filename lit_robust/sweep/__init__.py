"""Sweeps: a grid of configs over seeds, each cell an ordinary run, taken up by any number of processes.

`file` reads a sweep file, `check` finds its mistakes before work starts, `claim` keeps two processes from one cell,
`record` is what a cell's folder says of it, `cell_run` does the work of one cell, `table` tabulates the finished ones,
and `command` is the command line. None of them knows what a config says.
"""
