"""Benchmarks: our speed beside another implementation's, same weights, same run, outputs checked against each other."""
