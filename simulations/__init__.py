"""Load simulations: workloads, an open-loop driver, four scenarios and their reports."""
