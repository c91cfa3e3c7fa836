"""When retraining runs."""
