"""Speed, side by side with the bare ingress and with peers."""
