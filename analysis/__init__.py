"""What a study found: its results as tables, figures and a page."""
