"""Speed, side by side with the bare ingress."""
