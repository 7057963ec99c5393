"""The sections of a study's page, made from its tables."""

from analysis import plotting  # noqa: F401  before a section imports matplotlib
