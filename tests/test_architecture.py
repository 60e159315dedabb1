"""The walls of the house: who may import whom, how large a room may be, what nobody does."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "headwater"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"errors", "streams", "settings", "progress", "runfolder"}  # anyone may import these
ARROWS = {  # room or module -> rooms and modules of ours it may import, beside leaves and itself
    "errors": set(),
    "streams": set(),
    "settings": {"errors"},
    "progress": set(),
    "runfolder": {"errors"},
    "device": set(),
    "interrupt": set(),
    "recipes": set(),
    "request": {"scans"},
    "terminal": set(),
    "provenance": {"device"},
    "costs": {"device", "scans", "observe", "train", "transfer"},
    "plan": {"costs", "device", "scans"},
    "scans": set(),
    "views": set(),
    "backbones": set(),
    "flow": set(),
    "objectives": {"backbones"},
    "observe": {"flow"},
    "report": set(),
    "train": {"device", "interrupt", "scans", "views", "backbones", "objectives", "observe"},
    "transfer": {"device", "interrupt", "scans", "views", "backbones", "train", "flow"},
    "integrations": {"observe"},
    "opening": {"scans", "backbones"},
    "subject": {"device", "opening", "scans", "observe", "train"},
    "observation": {"opening", "provenance", "subject", "scans", "observe", "transfer", "report"},
    "ranking": {"observe", "opening", "subject"},
    "layerwise": {"backbones", "device", "observe"},
    "probing": {"layerwise", "opening", "subject", "scans", "observe", "transfer"},
    "session": {"costs", "device", "plan", "provenance", "recipes", "request", "scans", "train", "transfer"},
    "api": {"observation", "probing", "ranking", "request", "report", "scans", "session", "train", "transfer"},
    "cli": {"api", "device", "interrupt", "provenance", "scans", "terminal"},
    "__main__": {"cli"},
    "__init__": set(),
}
ALSO = {"observe.pairs": {"views"}}  # what a watch looks through
NARROW = {  # rooms that may not even have all leaves
    "report": {"runfolder", "errors"},
    "observe": {"streams", "settings", "runfolder", "errors"},
    "backbones": {"streams", "errors", "settings"},
    "objectives": {"streams", "errors", "settings"},
    "flow": set(),
    "errors": set(),
    "streams": set(),
    "progress": set(),
    "runfolder": {"errors"},
    "settings": {"errors"},
}
OUTSIDE = {  # rooms that may only use these libraries beside Python's own
    "flow": {"torch", "numpy", "scipy", "ot", "jaxtyping"},
    "report": {"numpy", "jinja2", "markupsafe", "matplotlib", "jaxtyping"},
    "observe": {"numpy", "torch", "scipy", "sklearn", "jaxtyping"},
    "scans": {
        "numpy",
        "scipy",
        "nibabel",
        "pydicom",
        "PIL",
        "tifffile",
        "SimpleITK",
        "highdicom",
        "sklearn",
        "threadpoolctl",
        "jaxtyping",
    },
}


def name_of(path: Path) -> str:
    """headwater/scans/store.py -> scans.store"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Full names of everything a module imports, wherever in it; what only type checkers read is left out."""
    hidden = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree(path)):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """Rooms and modules of Headwater that a module imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("headwater.")}


def others(path: Path) -> set[str]:
    """Libraries that a module imports."""
    return {name.split(".")[0] for name in imported(path)} - {"headwater"} - set(sys.stdlib_module_names)


def listed(offenders: list[str]) -> None:
    assert not offenders, f"{len(offenders)}:\n" + "\n".join(offenders)


def test_imports_follow_the_arrows():
    wrong = []
    for path in MODULES:
        name = name_of(path)
        room = name.split(".")[0]
        assert room in ARROWS, f"{name}: say in ARCHITECTURE.md and here what {room} may import"
        allowed = NARROW.get(room, LEAVES) | ARROWS[room] | ALSO.get(name, set()) | {room}
        wrong += [f"{name} imports {other}" for other in sorted(ours(path) - allowed)]
    listed(wrong)


def test_rooms_use_only_their_libraries():
    wrong = []
    for path in MODULES:
        room = name_of(path).split(".")[0]
        if room in OUTSIDE:
            wrong += [f"{name_of(path)} imports {other}" for other in sorted(others(path) - OUTSIDE[room])]
    listed(wrong)


def test_nobody_imports_what_is_not_wanted():
    unwanted = {"torchvision", "timm", "yaml"}
    listed([f"{name_of(p)} imports {bad}" for p in MODULES for bad in sorted(others(p) & unwanted)])
    listed([f"{name_of(p)} imports pickle" for p in MODULES if any(name.split(".")[0] == "pickle" for name in imported(p))])


def test_what_is_imported_is_declared():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "test" for line in lines]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in [*project["dependencies"], *extras]}
    known = {"sklearn": "scikit-learn", "markupsafe": "jinja2"}  # what jinja2 itself is made of
    known |= {"PIL": "pillow", "SimpleITK": "simpleitk", "ot": "pot"}
    listed([f"{name_of(p)} imports {lib}" for p in MODULES for lib in sorted(others(p)) if known.get(lib, lib) not in names])


def test_no_circles_between_rooms():
    graph = {room: set() for room in ARROWS}
    for path in MODULES:
        graph[name_of(path).split(".")[0]] |= ours(path) - {name_of(path).split(".")[0]}

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, " -> ".join((*way, room))
        for other in graph.get(room, ()):
            visit(other, (*way, room))

    for room in graph:
        visit(room, ())


def test_modules_are_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    listed([f"{name_of(p)}: {n} lines" for p, n in lengths.items() if n > 300])
    folders = Counter(p.parent for p in MODULES if p.name != "__init__.py")
    listed(
        [
            f"{folder.relative_to(ROOT)} holds {n} modules: give a theme a folder of its own"
            for folder, n in folders.items()
            if n > 36
        ]
    )


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_functions_fit_on_a_screen():
    listed(
        [
            f"{name_of(p)}.{f.name}: {f.end_lineno - f.lineno + 1} lines"
            for p in MODULES
            for f in functions(p)
            if f.end_lineno - f.lineno + 1 > 60
        ]
    )


def test_lines_are_short():
    wrong = []
    for path in [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]:
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong += [f"{path.relative_to(ROOT)}:{i}: {len(line)} characters" for i, line in enumerate(lines, 1) if len(line) > 130]
    listed(wrong)


def test_public_things_say_what_they_are():
    wrong = []
    for path in MODULES:
        wrong += [] if ast.get_docstring(tree(path)) else [name_of(path)]
        for node in tree(path).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            wrong += [f"{name_of(path)}.{node.name}"] if public and not ast.get_docstring(node) else []
    listed(wrong)


def test_dataclasses_are_frozen():
    wrong = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            marks = [ast.unparse(mark) for mark in node.decorator_list] if isinstance(node, ast.ClassDef) else []
            loose = [mark for mark in marks if "dataclass" in mark and "frozen=True" not in mark]
            wrong += [f"{name_of(path)}.{node.name}: @{mark}" for mark in loose]
    listed(wrong)


def test_only_the_command_line_prints():
    listed(
        [
            f"{name_of(p)}:{node.lineno}"
            for p in MODULES
            if p.parent.name != "cli"
            for node in ast.walk(tree(p))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    )


def test_no_bare_except():
    wrong = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("BaseException", "Exception")
                broad &= name_of(path) != "scans.readers"  # decoding libraries raise whatever they like
                broad &= name_of(path) != "observe.watch"  # nothing in it may end somebody's training
                wrong += [f"{name_of(path)}:{node.lineno}"] if broad else []
    listed(wrong)


def test_no_module_is_a_drawer():
    banned = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "tools"}
    wrong = [name_of(p) for p in MODULES if banned & set(p.stem.lower().split("_"))]
    wrong += [
        f"{name_of(p)}.{node.name}"
        for p in MODULES
        for node in tree(p).body
        if isinstance(node, ast.ClassDef) and re.search(r"Manager|Helper|Utils", node.name)
    ]
    listed(wrong)


def test_no_environment_variable_and_no_generator_of_the_process():
    patterns = (
        r"os\.environ",
        r"getenv",
        r"np\.random\.(seed|rand|randn|randint|normal|uniform|choice|permutation)\(",
        r"np\.random\.default_rng\(\)",
        r"^\s*import random\b|^\s*from random import",
    )
    wrong = []
    for path in MODULES:
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = any(re.search(pattern, line) for pattern in patterns)
            found &= (name_of(path), line.strip()) != ("observe.probe", "import random")  # to give it back as it was
            wrong += [f"{name_of(path)}:{i}: {line.strip()}"] if found else []
    listed(wrong)


def test_no_annotations_from_the_future_where_shapes_are_checked():
    listed([name_of(p) for p in MODULES if "jaxtyping" in others(p) and "__future__.annotations" in imported(p)])


def tracked() -> list[Path]:
    """Files of the checkout that git knows or would take."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found if (ROOT / name).is_file()]


def test_no_path_of_a_machine():
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{i}: {line.strip()[:100]}"
            for i, line in enumerate(text.splitlines(), 1)
            if re.search(r"(?<![\w.~*}-])/(work|home|root|Users|mnt|scratch)/\w", line)
        ]
    listed(wrong)


def test_no_large_or_binary_junk():
    listed([f"{p.relative_to(ROOT)}: {p.stat().st_size / 2**20:.1f} MiB" for p in tracked() if p.stat().st_size > 2**20])


def child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


HEAVY = ("torch", "monai", "matplotlib", "sklearn", "scipy", "nibabel", "jinja2")


def test_importing_and_asking_for_help_is_light():
    """Nothing heavy is imported: that is what keeps both under two seconds."""
    told = f"import sys; heavy = [name for name in {HEAVY} if name in sys.modules]; assert not heavy, heavy"
    for code in ("import headwater; headwater.Settings; headwater.run; headwater.Request", "import headwater.cli"):
        done = child(f"{code}\n{told}")
        assert done.returncode == 0, (code, done.stderr)
    for arguments in ([], ["run"], ["look"], ["doctor"]):
        code = f"import headwater.cli\ntry:\n    headwater.cli.main({[*arguments, '--help']})\n"
        code += "except SystemExit as end:\n    assert end.code == 0"
        done = child(f"{code}\n{told}")
        assert done.returncode == 0 and "usage: headwater" in done.stdout, (arguments, done.stderr)


def test_help_names_every_command():
    said = child("import headwater.cli; headwater.cli.main(['--help'])").stdout
    for command in ("run", "look", "pretrain", "observe", "adapt", "report", "demo", "doctor"):
        assert re.search(rf"^\W*{command}\b", said, re.MULTILINE), command


def test_the_python_names_stay_functions():
    done = child(
        "import headwater, headwater.observe, headwater.report\n"
        "bad = [name for name in headwater.__all__ if not callable(getattr(headwater, name))]\nassert not bad, bad"
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    done = child(
        "import headwater\nfor name in headwater.__all__: getattr(headwater, name)\n"
        "try:\n    headwater.nothing\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit(1)"
    )
    assert done.returncode == 0, done.stderr


def test_every_module_has_its_test():
    """tests/ mirrors the package; a module without a test of its name is tested by its room's, which is named here."""
    elsewhere = {
        "__init__",
        "__main__",
        "errors",
        "progress",
        "interrupt",
        "provenance",
        "device",
        "api",
        "session",
        "request",
        "terminal",
        "cli.options",
        "cli.making",
        "cli.looking",
        "cli.judging",
        "cli.using",  # test_cli, test_loop
        "scans.scan",
        "scans.words",  # test_readers, test_passport
        "backbones.features",
        "backbones.families",
        "backbones.patches",  # test_backbone_contract, test_vit
        "objectives.network",  # test_objectives
        "observe.portrait",  # test_cli
        "report.record",
        "report.figures",
        "report.gallery",
        "report.strips",  # test_page
    }
    tests = {p.relative_to(ROOT / "tests").with_suffix("").as_posix() for p in (ROOT / "tests").rglob("test_*.py")}
    wrong = []
    for path in MODULES:
        if path.name == "__init__.py" or name_of(path) in elsewhere:
            continue
        *room, module = name_of(path).split(".")
        if "/".join([*room, f"test_{module}"]) not in tests:
            wrong.append(name_of(path))
    listed(wrong)
