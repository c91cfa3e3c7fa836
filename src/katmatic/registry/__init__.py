"""Where versions of models are kept."""
