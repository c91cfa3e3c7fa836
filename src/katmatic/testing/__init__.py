"""For those who write a backend or test an application: what ours must pass, as ordinary functions."""
