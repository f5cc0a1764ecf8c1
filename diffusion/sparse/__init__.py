"""Spatially sparse incremental inference: what an edit did not touch is taken from a cached run (Li et al. 2022, "SIGE")."""
