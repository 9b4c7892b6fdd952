"""What the documents show works as it stands there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_examples_of_the_evaluation_page_run():
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "evaluation.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})


def test_the_files_that_the_architecture_page_names_exist():
    page, _, _ = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## Files one must touch")
    named = re.findall(r"`((?:[\w]+/)*\w+(?:\.(?:py|yaml|md)|/))`", page)
    named = [name for name in named if "NAME" not in name and not name.startswith(("DIR", "pictures", "predictions"))]
    assert len(named) > 20
    assert [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "src/mtmamba"))] == []
