"""What a catalog says of itself."""

from pathlib import Path

from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.scan import Source


def test_masked_and_subjects():
    one = Item("a.nii", Source.of("/d/a.nii"), "b")
    catalog = Catalog("plain", "any", Path("/d"), (one, Item("c.nii", Source.of("/d/c.nii"), "a"), one))
    assert catalog.subjects == ["a", "b"] and not catalog.masked
    with_mask = Item("e.nii", Source.of("/d/e.nii"), "b", mask=Source.of("/d/m.nii"))
    assert Catalog("plain", "any", Path("/d"), (one, with_mask)).masked
