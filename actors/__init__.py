"""The state that is one for the whole cluster, and how to reach it."""
