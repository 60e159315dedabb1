"""From a request to a run: what is noted of a sitting. Looking, planning and borrowing are tested through test_cli.py."""

from headwater.errors import InputError
from headwater.interrupt import Interrupted
from headwater.runfolder import read_json
from headwater.session import sitting
from headwater.settings import Settings


def test_a_command_that_is_refused_is_none_to_repeat(tmp_path):
    for command, fault in (("refused", InputError("too short")), ("stopped", Interrupted()), ("again", None)):
        try:
            with sitting(tmp_path, Settings(), command):
                if fault:
                    raise fault
        except (InputError, Interrupted):
            pass
        assert (tmp_path / "provenance.json").exists() == (command != "refused")
    assert read_json(tmp_path / "provenance.json")["command"] == "stopped", "the first that did something"
