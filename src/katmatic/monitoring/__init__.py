"""How well it goes: live quality, drift, alerts, metrics. It reads every topic; nobody reads it."""
