"""The metric families and their text."""
