"""What dataset.json calls channels and labels, in the dialects of the Decathlon, MONAI and nnU-Net."""

from collections.abc import Mapping


def channel_names(told: Mapping) -> tuple[str, ...]:
    """Names of the channels in their order, from channel_names or modality; () if there are none."""
    stated = told.get("channel_names", told.get("modality"))
    if isinstance(stated, dict):
        numbered = [(int(key), str(value)) for key, value in stated.items() if str(key).isdecimal() and len(str(key)) < 5]
        return tuple(value for _, value in sorted(numbered))
    return tuple(map(str, stated)) if isinstance(stated, list) else ()


def label_names(told: Mapping) -> tuple[dict[int, str], list[str]]:
    """Value in the masks -> name, background (0) left out, and what to say about regions and what to ignore.

    {"liver": 1} and {"1": "liver"} alike; of regions, lists of values, a value takes the name of the smallest it is in.
    """
    labels = told.get("labels")
    known: dict[int, str] = {}
    regions: list[tuple[str, list[int]]] = []
    for key, value in labels.items() if isinstance(labels, dict) else enumerate(labels) if isinstance(labels, list) else ():
        if isinstance(value, list):
            regions.append((str(key), [int(v) for v in value if _whole(v)]))
        elif _whole(value):
            known[int(value)] = str(key)
        elif _whole(key):
            known[int(key)] = str(value)
    for name, values in sorted(regions, key=lambda region: len(region[1])):
        for value in values:
            known.setdefault(value, name)
    notes = [f"regions: {'; '.join(f'{name} = {values}' for name, values in regions)}"] if regions else []
    notes += [f"label {value} is to be ignored" for value, name in known.items() if name.lower() == "ignore"]
    return {value: name for value, name in sorted(known.items()) if value > 0}, notes


def _whole(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).isdecimal() and len(str(value)) < 9
