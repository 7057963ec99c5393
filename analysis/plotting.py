"""Import matplotlib without the user's settings.

matplotlib reads `$MPLBACKEND`, a `matplotlibrc` and a list of fonts while it is imported. A backend that is not
installed, such as a notebook's, or a file that cannot be read would end the import.
"""

import os
from contextlib import chdir
from tempfile import TemporaryDirectory

SETTINGS = ("MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR", "MPL_IGNORE_SYSTEM_FONTS")

_kept = {name: os.environ.pop(name) for name in SETTINGS if name in os.environ}
try:
    with TemporaryDirectory() as empty, chdir(empty):  # a matplotlibrc in the current folder comes first
        os.environ |= {"MPLCONFIGDIR": empty, "MPL_IGNORE_SYSTEM_FONTS": "1"}
        import matplotlib.font_manager  # noqa: F401
finally:
    for _name in SETTINGS:
        os.environ.pop(_name, None)
    os.environ |= _kept
