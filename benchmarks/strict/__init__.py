"""Strictness: what the gateway promises of limits, money and calls, by the provider's count."""
