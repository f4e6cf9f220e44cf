"""Measurements of `tinyworlds`, and plain versions of it to measure against: ``make bench``."""
