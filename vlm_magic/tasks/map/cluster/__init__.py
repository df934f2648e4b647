"""A map on many machines: slices of rows go to a cluster's workers, each of which keeps one engine.

The map stays ours (rows, journal, order, table); what an engine is knows `worker`, what Dask or Ray is only
its own adapter. Begin with `protocol`, the few things a cluster must do, then `run`, the loop in the driver.
"""
