"""A guided teacher of many steps → an unguided student of few (spec SOLVERS §3), in this order:

`encoder` conditions cases of every task, `cache` keeps the `teacher`'s trajectories, `stages` train
the student on them (`objective`, `training`), `student` writes its checkpoint; `run` calls them.
"""
