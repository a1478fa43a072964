"""Sweeps: a grid of configs over seeds, each cell an ordinary run, taken up by any number of processes.

`file` and `grid` read a sweep file into the cells of `cell`, `check` finds its mistakes before work starts, `queue`
says which cell a process takes next, `claim` keeps two processes from one cell, `record` is what a cell's folder says,
`cell_run` does the work of one cell in the `environment` and on the `device` that it gets, `guessing` marks networks
that diverged, `status` and `table` say what is there, and `command` is the command line. None of them knows what a
config says, except `drawing` and the modules `partial_*`, which draw sweeps over partial training.
"""
