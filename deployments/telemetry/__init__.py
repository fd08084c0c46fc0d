"""Traces and metrics: written on the request path, shipped in batches off it."""
