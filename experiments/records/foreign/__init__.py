"""Runs that other programs logged: one file per format; read.py chooses among them."""
