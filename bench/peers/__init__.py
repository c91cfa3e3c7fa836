"""Other engines at the features of `bench.engine`, each in the way its own documentation shows; optional to install."""
