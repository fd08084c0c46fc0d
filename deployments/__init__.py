"""What Ray Serve runs: the gateway, its providers, the simulated provider."""
