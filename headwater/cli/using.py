"""Commands that use what a run made: masks for new scans, files for others."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from headwater import api
from headwater.cli.options import Json, as_json, listener_for

MANY = 40  # scans that are listed


def predict(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="run folder that was adapted, or its segmenter.safetensors")],
    scans: Annotated[Positional[Path], arg(metavar="SCANS", help="folder of scans, or one scan")],
    /,
    out: Annotated[
        Path, arg(metavar="DIR", help="where the masks go, outside of SCANS; what was changed by hand there is never replaced")
    ] = Path("masks"),
    mirror: Annotated[bool, arg(help="mean over mirrored copies, along the axes the masks do not contradict (slower)")] = False,
    probabilities: Annotated[bool, arg(help="write the probability of each structure too")] = False,
    format: Annotated[
        str,
        arg(
            metavar="FORMAT",
            help="nifti, dicom (needs headwater[dicom]), png or tiff",
            help_behavior_hint="(default: as each scan)",
        ),
    ] = "",
    memory: Annotated[float, arg(metavar="GIB", help="memory for the scores of one scan")] = 2.0,
    json: Json = False,
) -> None:
    """Masks for new scans, in the geometry of their files."""
    listener = listener_for(json)
    rows = api.predict(
        run, scans, out, mirror=mirror, memory=memory, probabilities=probabilities, format=format, progress=listener
    )
    as_json(rows) if json else listener.predicted(rows, MANY)
    listener.say(f"\n{out}")
    if not any(row.get("written") for row in rows):
        sys.exit(2)


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="run folder")],
    /,
    to: Annotated[str, arg(metavar="FORMAT", help="safetensors, onnx, nnunet or huggingface")] = "safetensors",
    out: Annotated[
        Path | None, arg(metavar="DIR", help="where to write", help_behavior_hint="(default: RUN/export/FORMAT)")
    ] = None,
    what: Annotated[
        str, arg(metavar="WHICH", help="backbone or segmenter", help_behavior_hint="(default: the segmenter where there is one)")
    ] = "",
    replace: Annotated[bool, arg(help="replace what is in the folder")] = False,
    json: Json = False,
) -> None:
    """What was trained, as files that others read, with a model card."""
    listener = listener_for(json)
    made = api.export(run, to, out, what=what, replace=replace)
    if json:
        as_json({"folder": made.folder, "files": dict(made.files), "words": made.words})
        return
    for sentence in made.words:
        listener.say(f"  {sentence}")
    for name, size in made.files:
        listener.say(f"  {name:<44} {size / 2**10:12,.1f} KiB")
    listener.say(f"\n{made.folder}")
