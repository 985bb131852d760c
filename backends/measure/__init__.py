"""Measuring kernels in a killable process.

Reading guide. `runner.WorkerRunner` is the parent's side: it keeps a running and a spare worker (`process`), sends them
work (`protocol` frames, replies validated in `events`) and turns whatever happens, death included (`faults`), into a
result. `worker` is the program of the worker process: it lays the data out between guard pages (`memory`), loads object
code (`native`), checks each candidate against the reference (`checking`) and times the correct ones in turn (`race`).
The worker's modules import neither JAX nor pydantic, so that a worker starts quickly.
"""
