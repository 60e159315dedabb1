"""An entry goes to JSON and back."""

import json

from headwater.runfolder import plain
from headwater.scans.entry import Entry


def test_there_and_back(entry):
    for made in (entry("a", labels={0: 3, 7: 2}, notes=("odd",)), entry("b", shape=(4, 5), split="test", group="hand")):
        assert Entry.of(json.loads(json.dumps(plain(made.plain())))) == made
    assert made.shape == (4, 5) and made.range == 10 and made.orientation == "RA"
