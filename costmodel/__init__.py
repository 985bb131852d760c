"""Predicting how long a kernel takes, without building it.

Reading guide: `anatomy` sums up a workload once (its box, its accesses, its operations), `nest` reads off a trace what
loop nest it makes, `features` turns many nests into one matrix, `roofline` predicts seconds from that matrix with no
data at all, `gbdt` learns what the roofline gets wrong, `dataset` holds measured candidates, and `xla` estimates what
XLA's own code takes for a region.
"""
