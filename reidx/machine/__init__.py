"""Devices, threads, free memory, launchers and process lifetimes."""
