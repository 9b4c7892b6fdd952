"""Mutation testing: one small change of a module at a time, and whether the module's own tests notice it.

    python tests/mutate.py                                    # every module of TESTS, a sample of each
    python tests/mutate.py metrics/depth.py --sample 1000     # all changes of one module

A change is another comparison, sign, operator, number or truth value, ``and`` for ``or``, a condition turned round.
Annotations, decorators, the words of errors and `zip`'s ``strict`` are left alone. Tests run in copies of the working
tree, in processes that have the large packages imported already: those that execute the changed line or start other
processes, the quickest first; all of them where none is seen to execute it (what is compiled, or done at import). A
change is noticed when one fails, or when they take far longer than without it.
"""

# ruff: noqa: T201 - a command
import argparse
import ast
import gc
import importlib
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGE = ["hypothesis", "torch", "torchmetrics", "numba", "scipy.io", "scipy.ndimage", "cv2", "lightning", "hydra",
         "timm", "albumentations"]  # fmt: skip

MEMORY = 10 * 2**30
"""What a process of tests may take, in bytes of address space, of which PyTorch reserves five thousand million."""

TESTS = {
    "metrics/boundary": ["tests/metrics/test_boundary.py", "tests/metrics/test_boundary_matching.py"],
    "metrics": ["tests/metrics/test_metrics.py"],
    "losses.py": ["tests/test_losses.py"],
    "data/sampler.py": ["tests/data/test_datamodule.py", "tests/data/test_partial.py"],
    **{
        f"data/{name}.py": ["tests/data/test_validation.py", "tests/data/test_partial.py"]
        for name in ("validation", "file_checks")
    },
    "evaluation/statistics.py": ["tests/evaluation/test_statistics.py"],
    "checkpoints.py": ["tests/test_checkpoints.py", "tests/training/test_fitting.py"],
    "training/fitting.py": ["tests/training/test_fitting.py"],
    **{
        f"training/{name}.py": [f"tests/training/test_{name}.py"]
        for name in ("checkpointing", "checkpoint_io", "validations")
    },
    "released.py": ["tests/test_released.py"],
    **{
        f"models/adapters/{name}.py": [f"tests/models/decoders/test_{name}.py::test_parity_{name}"]
        for name in ("atrc", "invpt", "mqtransformer", "mti_net", "pad_net")
    },
    "models/adapters/conv.py": [
        f"tests/models/decoders/test_{name}.py::test_parity_{name}" for name in ("mqtransformer", "pad_net")
    ],
    "models/adapters/decoder.py": [
        "tests/models/test_parity.py",
        "tests/models/decoders/test_pad_net.py::test_parity_pad_net",
    ],
    "models/adapters": ["tests/models/test_parity.py"],
}
"""A module's tests, beside its own doctests; the first entry counts that a module's path begins with.

Those of the peers' adapters need PARITY, see tests/models/decoders/conftest.py.
"""

EQUIVALENT = [
    ("metrics/boundary/curve.py", "zorder=", "which of two lines that cross lies above"),
    ("metrics/boundary/curve.py", "linewidth=[", "how thick a line is"),
    ("metrics/boundary/curve.py", "[200 -> 201]", "of how many pieces a line is drawn"),
    ("metrics/boundary/curve.py", "textcoords='offset point", "how far from the frame a number stands"),
    ("metrics/boundary/curve.py", "fontsize=[", "how large letters are"),
    ("metrics/boundary/curve.py", "wrap=[", "how a long title is broken"),
    ("metrics/boundary/evaluate.py", "itemsize >= [4 -> 5]", "single precision, made single, is itself"),
    ("metrics/boundary/evaluate.py", "transient=[", "whether the bar stays when all is done"),
    ("metrics/boundary/matching.py", "if base <[ -> =] best:", "a price changes by 0"),
    ("metrics/boundary/matching.py", "UNMATCHED = -[1 -> 2]", "any number that is no pixel's"),
    ("metrics/boundary/matching.py", "UNIT = [2 -> 3] ** 20", "how finely distances are rounded"),
    ("metrics/boundary/matching.py", "+ [2 -> 3] * reach", "a wider margin holds no pixels either"),
    ("metrics/boundary/matching.py", "heap = [(np.int64([0 -> 1])", "it is emptied, and there for its type"),
    ("metrics/boundary/matching.py", "pixels[i, 1] [+ -> -] offsets[k, 1]]", "the disc is symmetric"),
    ("metrics/boundary/scores.py", "where(total > 0, total, [1 -> 2]", "0 divided by 1 is 0 divided by 2"),
    ("metrics/boundary/scores.py", "arange([101 -> 102])", "beyond the curve's end heights are 0"),
    ("metrics/delta_m.py", "[* -> /] (-1 if", "division by 1 or -1 is multiplication"),
    ("metrics/normals.py", "target[:, [0 -> 1]]", "an unknown normal is 255 in all components"),
    ("metrics/normals.py", "clamp(min=[1e -> 2e]-12)", "vectors so short are 0 to any measurement"),
    ("metrics/saliency.py", "clamp(min=[1e -> 2e]-12)", "no precision or recall but 0 is so small"),
    ("losses.py", "target[:, [0 -> 1]]", "an unknown normal is 255 in all components"),
    ("evaluation/statistics.py", "_CHUNK = [", "how many images are scored at once"),
    ("data/validation.py", "count <[ ->", "only counts that differ come there"),
    ("models/adapters/mti_net.py", "if s >[ -> =] 0:", "no tensor is called propagate.-1"),
    ("released.py", "[0]) + [1 -> 2]) // 2", "the side of the table is odd"),
    ("training/fitting.py", "optimizer.step(lambda: [", "a closure's loss moves no parameter where the gradient is 0"),
    ("training/fitting.py", "requires_grad=[", "a gradient is put there, not computed"),
    ("checkpoints.py", "mmap=[", "whether tensors that nobody looks at are read; the values are the same"),
]
"""Why no test is to notice a change: module, part of the change as it is printed, reason."""

OTHERS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.And: (ast.Or,),
    ast.Or: (ast.And,), ast.USub: (ast.UAdd,),
}  # fmt: skip
ANYWHERE = ("", 0)
"""What a test executes that starts processes."""
LEFT_ALONE = {"annotation", "returns", "decorator_list", "type_params"}


def nodes(node: ast.AST, raising: bool = False) -> Iterator[ast.AST]:
    """The nodes below one that may be changed, itself included."""
    raising = raising or isinstance(node, ast.Raise)
    strict = isinstance(node, ast.keyword) and node.arg == "strict"
    if strict or (raising and isinstance(node, ast.JoinedStr)):
        return
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in LEFT_ALONE:
                yield from nodes(child, raising)


def variants(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """A field of a node and what it may be changed to."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield from (("ops", [*ops[:i], other(), *ops[i + 1 :]]) for other in OTHERS[type(op)])
        case ast.UnaryOp(op=ast.Not() | ast.Invert() as op, operand=operand):
            yield "operand", ast.UnaryOp(op, operand)
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) | ast.UnaryOp(op=op):
            yield from (("op", other()) for other in OTHERS.get(type(op), ()))
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value)):
            yield "value", value + 1
        case ast.Constant(value=float(value)):
            yield "value", value * 2 or 1.0
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not isinstance(test, ast.Compare | ast.Constant) and ast.unparse(test) != "TYPE_CHECKING":
                yield "test", ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=[ast.Name() | ast.Attribute() | ast.Call() as test]):
            yield "ifs", [ast.UnaryOp(ast.Not(), test)]


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Every changed source of a module: line of the original, the change in words, the source."""
    tree = ast.parse(source)
    before = ast.unparse(tree)
    line = 0
    for node in nodes(tree):
        line = getattr(node, "lineno", line)
        for field, value in variants(node):
            kept = getattr(node, field)
            setattr(node, field, value)
            after = ast.unparse(ast.fix_missing_locations(tree))
            setattr(node, field, kept)
            yield line, change(before, after), after


def change(before: str, after: str) -> str:
    """The first line that differs: ``what stood [was -> is] there``."""
    old, new = next((a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=False) if a != b)
    old, new = (re.findall(r"[\w.]+|\W", line) for line in (old, new))
    start = common(old, new)
    end = common(old[start:][::-1], new[start:][::-1])
    was, now = ("".join(line[start : len(line) - end]) for line in (old, new))
    return f"{''.join(old[:start])[-40:].lstrip()}[{was} -> {now}]{''.join(old[len(old) - end :])[:30].rstrip()}"


def common(one: list[str], other: list[str]) -> int:
    """How many words two begin with alike."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


class Plugin:
    """Runs the chosen tests in their order; without a choice all, noting what each of them executes."""

    def __init__(self, order: dict[str, float] | None, notes: Path):
        self.order, self.notes = order, notes
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items):
        if self.order is not None:
            items[:] = sorted((x for x in items if x.nodeid in self.order), key=lambda x: self.order[x.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        package, lines, begun = f"{Path.cwd()}/src/mtmamba/", self.lines[item.nodeid], time.monotonic()

        def trace(frame, event, argument):
            name = frame.f_code.co_filename
            if name.endswith(("/subprocess.py", "/multiprocessing/process.py")):
                lines.add(ANYWHERE)
            if not name.startswith(package):
                return None
            lines.add((name.removeprefix(package), frame.f_lineno))
            return trace

        sys.settrace(trace if self.order is None else None)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.monotonic() - begun

    def pytest_sessionfinish(self):
        if self.order is None:
            self.notes.write_bytes(pickle.dumps((self.seconds, dict(self.lines))))


def run_tests(tree: Path, files: list[str], order: dict[str, float] | None = None, limit: float = 3600) -> int:
    """Run tests of a tree in a process of its own; return its exit status, or 1 when it is stopped after the limit."""
    if pid := os.fork():
        until = time.monotonic() + limit
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 1
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(ended[1])
    status = 3
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(tree)
        os.environ |= {"PYTHONPATH": f"{tree}/src", "NO_ALBUMENTATIONS_UPDATE": "1"}
        sys.path[:] = [f"{tree}/src", *(p for p in sys.path if p not in (f"{ROOT}/tests", f"{ROOT}/src"))]
        sys.dont_write_bytecode = order is not None  # which tells a file by its second and size
        with (tree / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        plugin = Plugin(order, tree / "notes")
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *files], [plugin])
    finally:
        os._exit(status)


def settle(first: Path) -> None:
    """Give a process of the pool its own copy of the tree."""
    global own_tree
    own_tree = shutil.copytree(first, first.with_name(str(os.getpid())))


def is_noticed(work: tuple[str, int, str, str, dict[str, float]]) -> tuple[str, int, str, bool]:
    """Change a module of this process's tree, run the tests in their order, and change it back."""
    module, line, text, source, order = work
    path = own_tree / "src/mtmamba" / module
    original = path.read_text()
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()
    path.write_text(source)
    status = run_tests(
        own_tree, sorted({test.partition("::")[0] for test in order}), order, 90 + 5 * sum(order.values())
    )
    path.write_text(original)
    if status > 2:
        raise RuntimeError(f"Expected tests of {module} to pass or fail:\n{(own_tree / 'output.txt').read_text()}")
    return module, line, text, status != 0


def plan(
    tree: Path, modules: list[str], sample: int, seed: int
) -> Iterator[tuple[str, int, str, str, dict[str, float]]]:
    """Choose changes of each module, and for each the tests to be run, in their order with their seconds."""
    notes: dict[str, tuple[dict[str, float], dict[str, set[tuple[str, int]]]]] = {}
    for module in modules:
        group = next(group for group in TESTS if module.startswith(group))
        if group not in notes:
            sources = [f"src/mtmamba/{name}" for name in modules if name.startswith(group)]
            if run_tests(tree, [*TESTS[group], *sources]):
                raise SystemExit(f"Expected green tests of {group}:\n{(tree / 'output.txt').read_text()}")
            notes[group] = pickle.loads((tree / "notes").read_bytes())
        seconds, lines = notes[group]
        known = list(mutants((tree / "src/mtmamba" / module).read_text()))
        chosen = random.Random(f"{seed} {module}").sample(known, min(sample, len(known)))
        print(f"{module}: {len(known)} changes, {len(chosen)} tried", flush=True)
        for line, text, source in chosen:
            here = {test for test in seconds if (module, line) in lines[test]}
            order = {test: seconds[test] for test in seconds if not here or test in here or ANYWHERE in lines[test]}
            yield module, line, text, source, order


def copy_tree(target: Path) -> None:
    """Copy what git tracks or does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="files or folders in src/mtmamba")
    parser.add_argument("--sample", type=int, default=40, help="at most so many changes a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    package = ROOT / "src/mtmamba"
    paths = [p for name in options.modules for p in sorted((package / name).rglob("*.py")) or [package / name]]
    modules = list(dict.fromkeys(str(path.relative_to(package)) for path in paths))
    for name in LARGE:
        importlib.import_module(name)
    gc.freeze()  # so that a collection in a forked process touches, and thereby copies, none of this
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        copy_tree(first)
        work = list(plan(first, modules, options.sample, options.seed))
        with multiprocessing.get_context("fork").Pool(options.jobs, settle, (first,)) as pool:
            try:
                for module, line, text, noticed in pool.imap_unordered(is_noticed, work):
                    equivalent = any(module == where and part in text for where, part, _ in EQUIVALENT)
                    counts[module]["noticed" if noticed else "equivalent" if equivalent else "not noticed"] += 1
                    if not noticed and not equivalent:
                        print(f"not noticed: {module}:{line}: {text}", flush=True)
            finally:  # after Ctrl-C too
                for module, found in counts.items():
                    share = 1 - found["not noticed"] / found.total()
                    print(f"{module}: {', '.join(f'{n} {what}' for what, n in sorted(found.items()))}: {share:.1%}")


if __name__ == "__main__":
    main()
