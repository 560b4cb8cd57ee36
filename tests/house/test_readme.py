"""The README keeps its word: its snippets run, its links lead somewhere, its map is complete."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_three_snippets():
    calls = ("flash_decode(", "flash_attn_with_kvcache(", "set_attn_implementation(")
    assert [call in snippet for call, snippet in zip(calls, SNIPPETS, strict=True)] == [True] * 3


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["ours", "flash-attn", "transformers"])
def test_snippet_runs(snippet, capsys):
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    if "transformers" in snippet:
        pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")
    promised = re.search(r"print\(.*\)  # (.*)", snippet).group(1)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == promised


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_lesson_is_on_the_map():
    lessons = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert lessons == set(re.findall(r"\(notebooks/([^)]+)\)", TEXT))


def test_minutes_are_those_the_lessons_say():
    said = dict(re.findall(r"\(notebooks/([^)]+)\) \| (\d+)", TEXT))
    for name, minutes in said.items():
        lesson = (ROOT / "notebooks" / name).read_text()
        assert re.search(r"\*\*Time\*\* (\d+) minutes", lesson).group(1) == minutes, name
