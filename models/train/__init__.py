"""How the networks are trained: simulation of their training data. Imported by nobody in the service."""
