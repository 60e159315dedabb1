"""The model card: what was given away, on what it was trained, what was found, and what nobody knows. Markdown.

Everything is read from the run folder. Names of scans, subjects, sites and folders are not: counts of them are.
"""

from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import Any

from headwater.transfer.export.source import Source, words_of
from headwater.transfer.model import Trained

UNKNOWN = "not known"
KINDS = {
    "scratch": "segmenter trained from scratch: nothing pretrained is in it",
    "random-frozen": "segmenter on a backbone that was never trained",
    "frozen": "segmenter on a pretrained backbone, which was left as it is",
    "fine-tuned": "segmenter, fine-tuned from a pretrained backbone",
    "self-taught": "segmenter, fine-tuned from a pretrained backbone, also on scans without masks",
    "": "pretrained backbone",
}
AGREED = {"pooled": "one vector per image", "dense": "tokens"}


def card(source: Source, files: Iterable[tuple[str, str]], loading: str, words: Iterable[str], commands: str = "") -> str:
    """The whole card. files: name and what it is. loading: Python that runs beside them. words: of the format, to be known."""
    kind = KINDS.get(source.arm, "segmenter")
    parts = [
        _header(source),
        f"# {words_of(source)}",
        f"A {kind}. {sum(p.numel() for p in source.network.parameters()):,} parameters, trained by Headwater on its user's own "
        f"scans. Images: {_channels(source)}, {source.told['ndim']}D.",
        "## Files\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in files),
        "\n".join(f"- {line}" for line in words),
        f"## How to load\n\n```python\n{loading}\n```",
        f"## How to fine-tune with nnU-Net\n\nFor a data set 4 that is planned already:\n\n```bash\n{commands}\n```"
        if commands
        else "",
        f"## What goes in and comes out\n\n{_answers(source, source.trained)}" if source.trained else "",
        "## Data\n\n" + "\n".join(_data(source)),
        "## Training\n\n" + "\n".join(_training(source)),
        "## What the watch found\n\n" + "\n".join(_watched(source)),
        "## With few labels\n\n" + "\n".join(_labels(source)),
        "## Limits\n\n" + "\n".join(_limits(source)),
        "## Licence\n\nNot chosen. Whoever gives these weights away says under which licence, and whether the scans allow it.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answers(source: Source, trained: Trained) -> str:
    """Axes of the images, and what each channel of the scores is."""
    rule, task = trained.rule, trained.task
    axes = f"axes {', '.join(rule.orientation)} (each towards that side)" if rule.orientation else "axes as stored"
    axes += f", {_by(source.spacing)} mm" if source.spacing else ""
    lines = [
        f"Images: {axes}, normalised as under Training. Scores are logits, one channel for each of:",
        "",
    ]
    if task.regions:
        named = (" + ".join(f"{task.names[c]} ({task.values[c]})" for c in region) for region in task.regions)
        lines += [f"{i}. {name}" for i, name in enumerate(named)]
        return "\n".join([*lines, "", "A sigmoid makes each a probability; later regions lie within earlier ones."])
    lines += [
        f"{i}. {name} (value {value} in masks)" for i, (name, value) in enumerate(zip(task.names, task.values, strict=True))
    ]
    return "\n".join([*lines, "", "Counted from 0; a softmax makes them probabilities."])


def _channels(source: Source) -> str:
    count = source.told["channels"]
    return f"{count} channel{'s' * (count != 1)}"


def _header(source: Source) -> str:
    """What sites of models read first."""
    tags = ["medical-imaging", *(["self-supervised"] if source.pretrained else []), source.told["family"]]
    tags += ["image-segmentation"] if source.trained else []
    lines = ["---", "library_name: headwater", "tags:", *(f"- {tag}" for tag in tags), "# license: not chosen yet", "---"]
    return "\n".join(lines)


def _data(source: Source) -> list[str]:
    """Counts, sizes, spacing and modality of the scans; no name of any of them."""
    passport = source.records["passport"]
    entries = [e for e in passport.get("entries", []) if isinstance(e, dict)]
    if not entries:
        return ["- Not known: the run holds no passport.json of its scans."]
    facts = [e.get("facts") or e for e in entries]  # as older runs have them
    subjects, masked = {e.get("subject") for e in entries}, sum(e.get("mask") is not None for e in entries)
    learned = sum(e.get("split") != "test" for e in entries)
    sites = {e["group"] for e in entries if e.get("group")}
    found = [
        f"- {len(entries)} scans of {len(subjects)} subjects; {learned} to learn from, {len(entries) - learned} kept for testing",
        f"- sites or classes that the folders tell apart: {len(sites) or UNKNOWN}",
        f"- modality, as the files say it: {_counted(f.get('modality') for f in facts)}",
        f"- format: {_counted(f.get('format') for f in facts)}",
        f"- voxels: {_spread([f['shape'] for f in facts if f.get('shape')])}",
        f"- spacing in mm: {_spread([f['spacing'] for f in facts if f.get('spacing') and f.get('spaced') is not False])}",
        f"- masks: {masked}"
        + (f", structures: {', '.join(map(str, names.values()))}" if (names := passport.get("label_names")) else ""),
    ]
    aside = len(passport.get("quarantine") or [])
    return [*found, f"- set aside as unreadable or unfit: {aside}"]


def _counted(values: Iterable[Any]) -> str:
    counts = Counter(str(v) if v else UNKNOWN for v in values)
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common())


def _spread(rows: list[list[float]]) -> str:
    """Median along each axis, with the smallest and the largest."""
    if not rows or len({len(row) for row in rows}) > 1:
        return UNKNOWN
    return " x ".join(f"{median(axis):g} ({min(axis):g} to {max(axis):g})" for axis in zip(*rows, strict=True))


def _training(source: Source) -> list[str]:
    """What the run was told, and what it took."""
    settings, provenance = source.records["settings"], source.records["provenance"]
    if not settings:
        return ["- Not known: the run holds no settings.json."]
    views, pretrain = settings.get("views") or {}, settings.get("pretrain") or {}
    rows = {
        "objective": pretrain.get("objective"),
        "steps of pretraining": pretrain.get("steps"),
        "batch": pretrain.get("batch"),
        "learning rate": pretrain.get("learning_rate"),
        "weight decay": pretrain.get("weight_decay"),
        "views (voxels)": _by(views.get("crop")),
        "masked": views.get("mask_ratio"),
    }
    rows = rows if source.pretrained else {}
    if source.trained:
        rows |= _segmenting(source, settings.get("adapt") or {})
    rows |= {
        "spacing of the prepared scans (mm)": _by(source.spacing),
        "precision": settings.get("precision"),
        "seed": settings.get("seed"),
    }
    versions = provenance.get("versions") or {}
    rows |= {
        "minutes": provenance.get("minutes") and round(provenance["minutes"], 1),
        "software": ", ".join(f"{name} {versions[name]}" for name in ("headwater", "torch", "monai") if name in versions),
    }
    made = "each channel clipped to its 0.5th and 99.5th percentile, then mean 0 and spread 1"
    if source.windows:
        made = f"every scan by the same low, high, mean and spread: {source.windows}"
    lines = [f"- {name}: {value}" for name, value in rows.items() if value is not None and value != ""]
    return [*lines, f"- intensities: {made}", "- all settings: settings.json of the run"]


def _segmenting(source: Source, adapt: dict[str, Any]) -> dict[str, Any]:
    """How the segmenter itself was trained."""
    told = {"arm of adapt": source.arm, "labelled scans": source.trained.about.get("labels")}
    told |= {"steps of adapting": adapt.get("final") or adapt.get("steps"), "batch of adapting": adapt.get("batch")}
    return told | {"learning rate of adapting": adapt.get("learning_rate"), "patch (voxels)": _by(source.trained.patch)}


NOBODY = "The backbone was not observed: nobody knows whether its features are more than chance."


def _by(values: Iterable[float] | None) -> str:
    return " x ".join(f"{v:g}" for v in values or ())


def _watched(source: Source) -> list[str]:
    """Verdicts, and the reliabilities with what chance and the untrained network reach."""
    observed, said = source.records["observed"], source.records["verdicts"].get("sentences") or []
    lines = [f"- {s['text']} {s.get('detail', '')}".rstrip() for s in said if s.get("evidence") == "training"]
    final, initial, pixels = (observed.get(key) or {} for key in ("final", "initial", "pixels"))
    table = [
        f"| {words} | {_number(final[key]['reliability'])} | {_number(final[key].get('null95'))} "
        f"| {_number((initial.get(key) or {}).get('reliability'))} | {_number((pixels.get(key) or {}).get('reliability'))} |"
        for key, words in AGREED.items()
        if (final.get(key) or {}).get("reliability") is not None
    ]
    if table:
        head = "| reliability of | trained | chance (95 %) | before training | plain pixels |"
        lines += ["", head, "|---|---|---|---|---|", *table, "", "Stable features need not be useful ones: labels decide that."]
    watched = [event["sentence"] for event in source.looks if event.get("sentence")]
    lines = lines or [f"- While it was trained: {said}" for said in watched[-1:]]
    if lines and not source.pretrained:
        lines = ["Of the run's pretrained backbone, which is not in this file:", "", *lines]
    return lines or [NOBODY]


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else UNKNOWN


def _points(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) else UNKNOWN


def _labels(source: Source) -> list[str]:
    """Dice by number of labels and way of starting, with intervals, and what pretraining gained."""
    summary = source.records["adapted"]
    own = str(source.trained.about.get("sentence") or "") if source.trained else ""
    rows = [r for r in summary.get("table") or [] if isinstance(r.get("mean"), (int, float))]
    if not rows:
        return [own or "Not tried with labels: nobody knows whether pretraining was worth it."]
    head = ["| labels | arm | Dice | 95 % interval |", "|---|---|---|---|"]
    body = [
        f"| {r['count']} | {r['arm']} | {_points(r['mean'])} | {_points(r.get('low'))} to {_points(r.get('high'))} |"
        for r in rows
    ]
    draws = summary.get("draws", UNKNOWN)
    told = f"{summary.get('test_subjects', UNKNOWN)} held-out subjects, {draws} draw{'s' * (draws != 1)} of labelled subjects, "
    told += f"{summary.get('steps', UNKNOWN)} steps each; Dice in points of 100."
    if own:
        told = f"{own} Beside it, other networks with fewer labels: {told}"
    gains = [f"- {g['sentence']}" for g in summary.get("gains") or [] if g.get("sentence")]
    return [told, "", *head, *body, "", *gains]


def _limits(source: Source) -> list[str]:
    """What it was not tried on."""
    records, told = source.records, source.told
    lines = [
        "- Tried on scans like the above alone: no other modality, organ, scanner or site"
        + (f", no other spacing than {_by(source.spacing)} mm." if source.spacing else ", no other size of what is in a pixel."),
        f"- {told['ndim']}D images of {_channels(source)}; others need other weights in the first layer.",
        "- No medical device. Not validated for diagnosis or treatment.",
        "- Weights can remember what they were trained on: whether these may leave the house is its owners' decision.",
    ]
    missing = {"observed": "observe (is it stable?)", "adapted": "adapt (is it useful?)", "provenance": "the end of the run"}
    lines += [f"- Missing from the run: {what}." for name, what in missing.items() if not records[name]]
    if source.trained and not source.trained.about.get("validation"):
        lines.append(
            "- No validation score of this very segmenter is in its file; the table above is of those with fewer labels."
        )
    return lines
