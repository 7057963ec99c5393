"""The sections of a study's page, made from its tables."""
