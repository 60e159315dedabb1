"""nnU-Net raw data sets, version 2 (and 1): imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headwater.scans.catalog import stem_of, subject_of
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.nnunet_raw import write
from headwater.scans.layouts.dialects import channel_names, label_names
from headwater.scans.layouts.tree import Tree, load_json
from headwater.scans.scan import Fault, Source

__all__ = ["NAME", "read", "recognise", "write"]

NAME = "nnU-Net"
_CHANNEL = re.compile(r"_(\d{4})$")
_UNPAIRED = ("has no scan", "name it as its scan is named")


def recognise(tree: Tree) -> list[str]:
    """Folders whose dataset.json names channel_names or file_ending, or that have imagesTr with files that end in _0000."""
    folders = sorted({*tree.places("dataset.json"), *tree.folders("imagesTr")})
    return [folder for folder in folders if _rule(tree, folder, *_told(tree, folder))]


def _told(tree: Tree, folder: str) -> tuple[dict, str]:
    """What dataset.json says, and what is wrong with it ("" if it is not there either)."""
    name = _in(folder, "dataset.json")
    value, wrong = load_json(tree.path(name)) if name in tree else ({}, "")
    return (value, "") if isinstance(value, dict) else ({}, wrong or "is a list where names were expected")


def _rule(tree: Tree, folder: str, told: Mapping, wrong: str) -> str:
    """Which rule fits a folder, in the reader's words; "" if none does."""
    part = next((part for part in ("imagesTr", "imagesTs") if tree.below(_in(folder, part), tree.images)), "")
    images = tree.below(_in(folder, part), tree.images) if part else ()
    cases = [stem_of(name) for name in images]
    numbered = bool(cases) and all(_CHANNEL.search(case) for case in cases)
    labels = {stem_of(name) for name in tree.below(_in(folder, "labelsTr"), tree.images)}
    beside = f"{part} and labelsTr are beside it" if labels else f"{part} is beside it"
    names = next((key for key in ("channel_names", "file_ending") if key in told), "")
    if names and told.get("dataset") and isinstance(told["dataset"], dict):
        return "nnU-Net v2: dataset.json lists the cases under dataset"
    if not images:
        return ""
    if names:
        return f"nnU-Net v2: dataset.json names {names}, {beside}"
    if isinstance(told.get("training"), list):
        firsts = [entry.get("image") for entry in told["training"][:3] if isinstance(entry, dict)]
        there = any(isinstance(tree.find(first, folder, ""), Source) for first in firsts)
        return f"nnU-Net v1: {beside}, its files end in a channel number (_0000)" if numbered and not there else ""
    if told or wrong:
        return f"nnU-Net{' v2' if numbered else ' or Decathlon'}: {beside}, dataset.json {wrong or 'names no channels'}"
    fits = numbered and ({_CHANNEL.sub("", case) for case in cases} >= labels if labels else len(cases) > 1)
    there = f"{part} and labelsTr are" if labels else f"{part} is"
    return f"nnU-Net: {there} there, files end in a channel number (_0000), no dataset.json" if fits else ""


def read(tree: Tree, folder: str, *, classes: bool = False) -> Catalog:
    """All cases of one data set: channels of a case joined, masks from labelsTr and labelsTs, imagesTs as test."""
    told, wrong = _told(tree, folder)
    faults, notes = [], []
    absent = [key for key in ("channel_names", "labels", "file_ending") if key not in told] if "modality" not in told else []
    if wrong or (told and absent):
        fault = wrong or f"does not name {' and '.join(absent)}"
        remedy = "correct it: without it channels and labels have no names" if wrong else "add what is missing"
        faults.append(Fault(_in(folder, "dataset.json"), fault, remedy, "layout"))
    channels = channel_names(told)
    if told.get("dataset") and isinstance(told["dataset"], dict):
        items = _listed(tree, folder, told["dataset"], faults)
    else:
        items = []
        for end, split in (("Tr", "train"), ("Ts", "test")):
            cases = _cases(tree, folder, end, told, len(channels), faults, notes)
            items += _masked(tree, folder, end, split, cases, faults)
    modality = channels[0] if len(channels) == 1 else ""
    items = [replace(item, modality={"MRI": "MR"}.get(modality, modality)) for item in items]
    items = tuple(_remembered(items, told.get("headwater")))
    labels, more = label_names(told)
    notes += more + _counted(tree, folder, told, items)
    return Catalog(NAME, _rule(tree, folder, told, wrong), tree.root, items, tuple(faults), labels, channels, tuple(notes))


def _remembered(items: Sequence[Item], told: object) -> list[Item]:
    """Items with what `write` noted of them: subject, session, class, part of the split."""
    told = told if isinstance(told, dict) else {}
    done = []
    for item in items:
        more = told.get(_CHANNEL.sub("", stem_of(item.source.path)))
        more = more if isinstance(more, dict) else {}
        known = {
            key: value
            for key, value in more.items()
            if key in ("subject", "session", "group", "split") and isinstance(value, str)
        }
        done.append(replace(item, **known))
    return done


def _in(folder: str, name: str) -> str:
    return posixpath.join(folder, name)


def _cases(
    tree: Tree, folder: str, end: str, told: Mapping, count: int, faults: list[Fault], notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """Case -> its files, one per channel in order. Cases that lack a channel are faults."""
    images = tree.images_in(_in(folder, f"images{end}"))
    ending = told.get("file_ending")
    if isinstance(ending, str) and ending.strip(". "):
        ending = f".{ending.strip().lstrip('.')[:20]}"
        fits = [name for name in images if name.lower().endswith(ending.lower())]
        if images and not fits:
            fault = f"says that files end in {ending}, but none in images{end} does"
            faults.append(Fault(_in(folder, "dataset.json"), fault, "correct file_ending", "layout"))
        else:
            fault = f"does not end in {ending}, as dataset.json says"
            remedy = "save it in that format, or correct file_ending"
            taken = set(fits)
            faults += [Fault(name, fault, remedy, "ending") for name in images if name not in taken]
            images = fits
    channels: dict[str, dict[int, str]] = defaultdict(dict)
    numbered = [name for name in images if _CHANNEL.search(stem_of(name))]
    if images and not numbered and count <= 1:
        notes.append(f"files in images{end} have no channel number (_0000): each is one case")
        return {stem_of(name): (name,) for name in images}
    for name in images:
        number = _CHANNEL.search(stem_of(name))
        if number is None:
            faults.append(Fault(name, "has no channel number at the end of its name", "name it CASE_0000", "channel"))
        elif count and int(number[1]) >= count:
            fault = f"is channel {int(number[1])} where dataset.json names {count} from 0"
            faults.append(Fault(name, fault, "name the channel in dataset.json, or remove the file", "channel"))
        else:
            channels[stem_of(name)[: number.start()]][int(number[1])] = name
    wanted = range(count or max((max(found) for found in channels.values()), default=0) + 1)
    for case in [case for case, found in channels.items() if set(found) != set(wanted)]:
        found = channels.pop(case)
        lost = ", ".join(f"_{i:04d}" for i in wanted if i not in found)
        faults.append(Fault(min(found.values()), f"belongs to a case without {lost}", "add the missing channel", "channel"))
    return {case: tuple(found[i] for i in wanted) for case, found in channels.items()}


def _masked(
    tree: Tree, folder: str, end: str, split: str, cases: Mapping[str, tuple[str, ...]], faults: list[Fault]
) -> list[Item]:
    """The cases of one part with their masks; masks without a case are faults."""
    masks = {stem_of(name): name for name in tree.images_in(_in(folder, f"labels{end}"))}
    broken = {_CHANNEL.sub("", stem_of(fault.file)) for fault in faults if fault.kind in ("channel", "ending")}
    faults += [Fault(masks[case], *_UNPAIRED, "unpaired") for case in masks if case not in cases and case not in broken]
    return [
        Item(files[0], Source(tuple(map(tree.path, files))), _subject(case), split=split,
             mask=tree.one(masks[case]) if case in masks else None)
        for case, files in sorted(cases.items())
    ]  # fmt: skip


def _subject(case: str) -> str:
    return subject_of(case) if case.startswith("sub-") else case


def _listed(tree: Tree, folder: str, cases: Mapping, faults: list[Fault]) -> list[Item]:
    """Cases that dataset.json lists one by one: {"case": {"images": [...], "label": "..."}}."""
    items = []
    for i, (case, entry) in enumerate(cases.items()):
        said = f"{_in(folder, 'dataset.json')}, case {i + 1}"
        images = entry.get("images") if isinstance(entry, dict) else None
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not images:
            faults.append(Fault(said, "lists a case without images", "name its files under images", "row"))
            continue
        found = [tree.find(image, folder, said) for image in images]
        wrong = [one for one in found if isinstance(one, Fault)]
        faults += wrong
        if wrong:
            continue
        mask = tree.find(entry["label"], folder, said) if entry.get("label") else None
        faults += [mask] if isinstance(mask, Fault) else []
        source = Source(tuple(file for one in found for file in one.files))
        items.append(
            Item(
                tree.name(source.path), source, _subject(str(case)), split="train", mask=None if isinstance(mask, Fault) else mask
            )
        )
    return items


def _counted(tree: Tree, folder: str, told: Mapping, items: Sequence[Item]) -> list[str]:
    """What else is worth saying: counts that differ, masks that lack, files that are left alone."""
    train = [item for item in items if item.split == "train"]
    notes, without = [], sum(item.mask is None for item in train)
    stated = told.get("numTraining")
    if isinstance(stated, int) and stated != len(train):
        notes.append(f"dataset.json counts {stated:,} training cases, {len(train):,} can be used")
    if 0 < without < len(train):
        notes.append(f"{without:,} of {len(train):,} training cases have no mask in labelsTr")
    if _in(folder, "splits_final.json") in tree:
        notes.append("splits_final.json is there and left alone: the split is by subject")
    return notes
