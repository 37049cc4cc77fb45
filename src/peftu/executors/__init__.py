"""Executors have cells filled, here, in workers beside this process, or on a cluster. Only the driver commits."""
