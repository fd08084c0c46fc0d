"""The outside: HTTP in, the pipeline's words out."""
