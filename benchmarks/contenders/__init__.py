"""Whoever is compared: each in a module of its own, brought up and torn down by itself."""
