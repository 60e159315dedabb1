"""Files on disk to scans: read, catalogued, checked, prepared."""

from headwater.scans.passport import Passport, look
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Scan
from headwater.scans.store import Store

__all__ = ["Passport", "Scan", "Store", "look", "read", "read_labels"]
