"""What the documents show works as it stands there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_examples_of_the_evaluation_page_run():
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "evaluation.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
