"""The page: what it says, that it is offline, that hostile names stay names, that missing stages are said."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.report import conclusions, read, render

SECTIONS = ["data", "distribution", "training", "tokens", "labels", "comparison", "provenance"]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises where a tag is closed that was not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.ids = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())


def load(run):
    return Page(render(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def complete(fabricate, tmp_path_factory):
    return fabricate.complete(tmp_path_factory.mktemp("runs") / "scans-2026-11-23")


@pytest.fixture
def own(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "own")


def test_a_whole_run_is_told_in_order(complete):
    page = load(complete)
    words = page.words()
    assert [tag[1]["id"] for tag in page.tags if tag[0] == "section"] == ["verdict", *SECTIONS]
    for text in (
        "Features are stable and not random.", "4 labels with this backbone do what 9 do from scratch.",
        "cut off at 63 %", "copy it again",
        "32 to 40", "untrained", "chance", "Its part consistency: two views of a place alike", "2 cores", "seed 0", "31 min",
        "60 scans of 60 subjects",
        "waiting for views 3.4 % of the time", "labelled subjects, one scan each",
        "healthy", "31 %, 17 %, 9 %", "Dice by number of labels",
        "worst first", "To repeat this:",
        "headwater run scans/ --labels masks/ --seed 0", "no transformer block would see beyond 40 mm",
        "4f0c2d9a", "views.crop", "anterior", "backbone.family , backbone.size", "to change it: --set",
    ):  # fmt: skip
        assert text in words, text
    assert "Not here yet" not in words and "nan" not in words.lower().split()


def test_chance_is_shown_for_both_numbers_and_old_runs_go_without(own):
    words = load(own).words()
    assert words.count("chance 1.4") == 2 and words.count("chance, 95 % below") == 6
    for name in ("events.jsonl", "observations/observe.json"):
        (own / name).write_text(re.sub(r'"rank_null95": 1.4,', "", (own / name).read_text()))
    words = load(own).words()
    assert "chance 1.4" not in words and words.count("chance, 95 % below") == 3


def test_the_band_of_healthy_runs_is_drawn_where_looks_hold_one(own):
    page = load(own)
    assert page.words().count("healthy runs that begin alike") == 1
    text = (own / "events.jsonl").read_text().replace('"usual"', '"other"')
    (own / "events.jsonl").write_text(text)
    assert "healthy runs that begin alike" not in load(own).words()


def test_pixels_that_agree_more_are_named(own):
    assert "Pixels alone" not in load(own).words()
    path = own / "observations" / "observe.json"
    observed = json.loads(path.read_text())
    observed["pixels"]["dense"]["reliability"] = 0.9
    path.write_text(json.dumps(observed))
    assert "more than the features on these views (single tokens: 0.90 against 0.60): agreement alone is no" in load(own).words()


def test_one_step_missing_is_not_the_end(own):
    lines = (own / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] == "step"][:-1]
    (own / "events.jsonl").write_text("".join(kept))
    words = load(own).words()
    assert "Step 1,899 of 1,900: still training" in words and "waiting for views" not in words


def test_one_test_subject_has_points_without_intervals(own):
    path = own / "adapt" / "summary.json"
    summary = json.loads(path.read_text())
    for row in [*summary["table"], *summary["gains"]]:
        row |= {"low": None, "high": None}
    path.write_text(json.dumps(summary | {"test_subjects": 1}))
    page = load(own)
    words = page.words()
    assert "it takes two test subjects" in words and not re.search(r"\[–|nan to nan|\bnan\b", words)


def test_the_accelerator_is_named(own):
    path = own / "provenance.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"machine": told["machine"] | {"accelerator": "NVIDIA H200"}}))
    words = load(own).words()
    assert "31 min NVIDIA H200 seed 0" in words and "31 min 2 cores" not in words


def test_every_verdict_links_to_its_evidence(complete):
    page = load(complete)
    links = [tag[1]["href"] for tag in page.tags if tag[0] == "a"]
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    assert links[-4:] == ["#tokens", "#labels", "#labels", "#data"]
    assert len(page.ids) == len(set(page.ids))


def test_the_page_is_one_small_file_that_asks_for_nothing(complete):
    path = render(complete)
    text = path.read_text(encoding="utf-8")
    assert path.name == "report.html" and path.stat().st_size < 5e6
    for tag, attributes in Page(text).tags:
        for key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, key)
    assert not re.search(r"@import|url\(|https?:|//[a-z]+\.", text)
    assert "default-src 'none'" in text


def test_every_picture_has_words_and_every_curve_a_table(complete):
    page = load(complete)
    drawings = [tag[1] for tag in page.tags if tag[0] == "svg" and tag[1].get("aria-hidden") != "true"]
    assert len(drawings) > 25 and all(
        drawing.get("role") == "img" and len(drawing.get("aria-label", "")) > 3 for drawing in drawings
    )
    assert page.words().count("Numbers") >= 10


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>.nii.gz", '"><img src=http://x.y/z onerror=alert(1)>', "{{ 7*7 }}</style>' onload='x"]
)
def test_hostile_names_stay_names(fabricate, tmp_path, evil):
    run = fabricate.complete(tmp_path / "run", hostile=evil)
    notes = json.loads((run / "adapt" / "examples.json").read_text())
    (run / "adapt" / "examples.json").write_text(json.dumps([{**note, "subject": evil, "arm": evil} for note in notes]))
    summary, quoted = run / "adapt" / "summary.json", json.dumps(evil)[1:-1]
    summary.write_text(summary.read_text().replace("fine-tuned", quoted).replace("anterior", quoted))
    passport = json.loads((run / "passport.json").read_text())
    passport |= {
        "label_names": {"1": evil, "2": evil},
        "sentences": [evil],
        "layout": evil,
        "rule": evil,
        "channel_names": [evil],
    }
    for key in ("format", "modality", "orientation", "dtype"):
        passport["entries"][0]["facts"][key] = evil
    passport["entries"][1]["group"] = evil
    (run / "passport.json").write_text(json.dumps(passport))
    (run / "provenance.json").write_text(
        json.dumps({"command": evil, "machine": {evil: evil}, "versions": {evil: evil}, "commit": evil})
    )
    (run / "settings.json").write_text(json.dumps({evil: {evil: evil}}))
    page = load(run)
    assert " ".join(evil.split()) in page.words()
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(tag == "img" for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_a_stopped_run_says_what_is_not_there(fabricate, tmp_path):
    run = fabricate.incomplete(tmp_path / "stopped")
    words = load(run).words()
    assert "No verdict yet" in words and "Step 700 of 1,900" in words and "No picture yet" in words
    for command in ("headwater observe", "headwater adapt", "headwater run"):
        assert f"Not here yet. {command} writes it" in words


def test_a_folder_that_was_looked_at_speaks_of_the_scans_only(fabricate, tmp_path):
    run = fabricate.looked(tmp_path / "scans")
    conclusions.write(run)
    page = load(run)
    words = page.words()
    assert [tag[1]["id"] for tag in page.tags if tag[0] == "section"] == ["verdict", "data", "distribution", "next"]
    for text in (
        "What is here", "60 volumes (NIfTI), 60 subjects",
        "2 things to look at in the scans. 1 near duplicate is kept.",
        "There are masks for 30 of 60 subjects.", "Wavelet details have heavier tails than a Gaussian.", "Higher orders matter.",
        "Taken for: plain folder , because no marker of another layout is here", "The split, drawn by subject", "Look at this",
        "99.910 %", "below 71 %", "Some of the scans", "Volume of each structure", "headwater run SCANS --labels MASKS",
        "How the voxels are distributed", "Gaussian draws: 0 (−0.10 to 0.10)",
    ):  # fmt: skip
        assert text in words, text
    assert not any(text in words for text in ("Not here yet", "What this means", "Few labels", "No verdict", "nan"))
    links = [tag[1]["href"] for tag in page.tags if tag[0] == "a"]
    assert all(link[1:] in page.ids for link in links)


def test_a_look_without_the_distribution_says_how_to_get_it(fabricate, tmp_path):
    words = load(fabricate.looked(tmp_path / "scans", measured=False)).words()
    assert "the same command with --distribution adds it" in words
    assert "What was found is below" in words


def test_a_run_without_the_distribution_says_so(own):
    (own / "distribution.json").unlink()
    assert "Not measured for this run. headwater look SCANS --distribution measures it" in load(own).words()


def test_slices_of_several_sizes_fill_their_frames(fabricate, tmp_path):
    page = load(fabricate.looked(tmp_path / "scans"))
    frames = [tag[1]["viewbox"] for tag in page.tags if tag[0] == "svg" and tag[1].get("aria-label", "").startswith("scan 2")]
    assert frames and set(frames) == {"0 0 30 40"}


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>.nii.gz", '"><img src=http://x.y/z onerror=alert(1)>'])
def test_hostile_names_stay_names_in_a_look(fabricate, tmp_path, evil):
    run = fabricate.looked(tmp_path / "scans", hostile=evil)
    path, quoted = run / "distribution.json", json.dumps(evil)[1:-1]
    text = path.read_text()
    for word in (
        "real patches",
        "combined",
        "About the",
        "y of",
        "heavier",
        "Gaussian draws",
        "intrinsic",
        "no contrast",
        '"mm"',
    ):
        text = text.replace(word, f'"{quoted}"' if word == '"mm"' else quoted)
    path.write_text(text)
    conclusions.write(run)
    page = load(run)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(tag == "img" for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert " ".join(evil.split()) in page.words()


FILES = ["settings.json", "provenance.json", "plan.json", "passport.json", "distribution.json", "events.jsonl",
         "observations/observe.json",
         "observations/tokens.npz",
         "adapt/scores.csv", "adapt/summary.json", "adapt/examples.npz", "adapt/examples.json", "verdicts.json"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_missing(own, name):
    (own / name).unlink()
    load(own)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("alone", [False, True])
def test_any_file_may_be_alone_or_torn(own, name, alone):
    if alone:
        for other in set(FILES) - {name}:
            (own / other).unlink()
    else:
        content = (own / name).read_bytes()
        (own / name).write_bytes(content[: len(content) // 2])
    words = load(own).words()
    assert alone or name.endswith((".csv", ".jsonl")) or f"Could not be read {name}" in words


@pytest.mark.parametrize(
    "value", [None, [], {}, "text", 3, [None], {"table": [None, 3], "gains": [{}], "lines": "x", "sentences": [{"text": None}]}]
)
def test_no_json_value_breaks_the_page(own, value):
    for name in FILES:
        if name.endswith(".json"):
            (own / name).write_text(json.dumps(value))
    (own / "events.jsonl").write_text('{"event":"step"}\n{"event":"watch","pooled":{"reliability":null},"dense":3}\n')
    load(own)


def test_null_numbers_are_dashes_not_inventions(own):
    keys = r'("(?:reliability|rank|spread|mean|gain|low|high|value|null)": )(?:[-\d.e]+|\[[^\]]*\])'
    for name in ("observations/observe.json", "adapt/summary.json", "passport.json", "distribution.json"):
        holes = re.sub(keys, r"\1null", (own / name).read_text())
        (own / name).write_text(holes)
    words = load(own).words()
    assert "–" in words and not re.search(r"\bnan\b", words)


@pytest.mark.slow
def test_a_great_run_stays_under_five_megabytes(own):
    rng = np.random.Generator(np.random.Philox(0))
    shape = (40, 512, 512)
    image, labels, rgb = rng.random(shape, np.float32), rng.integers(0, 5, shape, np.uint8), rng.random((*shape, 3), np.float32)
    np.savez(own / "observations" / "tokens.npz", image=image, final=rgb, initial=rgb, pixels=rgb)
    np.savez(own / "adapt" / "examples.npz", image=image, truth=labels, prediction=labels)
    passport = json.loads((own / "passport.json").read_text())
    passport["quarantine"] *= 1000
    passport["entries"] *= 50
    (own / "passport.json").write_text(json.dumps(passport))
    lines = (own / "events.jsonl").read_text() * 10
    (own / "events.jsonl").write_text(lines)
    assert render(own).stat().st_size < 5e6


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        render(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a run"):
        render(tmp_path)


def test_pickles_are_not_opened(own):
    np.savez(own / "observations" / "tokens.npz", image=np.array([{"a": 1}], dtype=object))
    assert any(file == "observations/tokens.npz" for file, _ in read(own).faults)


def test_rendering_twice_gives_the_same_page(complete):
    assert render(complete).read_bytes() == render(complete).read_bytes()
