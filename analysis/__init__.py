"""What a study found: its results as tables, figures and a page."""

import study  # noqa: F401  # sets what torch and Ray read when they are first imported
