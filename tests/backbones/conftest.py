"""Makes foreign.py, which several tests here build their files with, importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
