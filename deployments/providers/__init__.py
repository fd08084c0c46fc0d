"""Providers: the seam to them, the one that speaks OpenAI's HTTP, and a simulated one."""
