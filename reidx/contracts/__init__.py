"""Data that components exchange, and declarations of what they need and give."""
