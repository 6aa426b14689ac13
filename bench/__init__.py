"""Measurements, each run by its name: `make bench BENCH=front_door`."""
