"""Lesson 14 builds what the module has, and what it concludes is in the record."""

import contextlib
import io
import re

import pytest
import torch
from small_models import TINY, small_model

from course import hardware, recorded
from course.notebooks.files import ROOT, read
from reference.generate import generate_tokens
from reference.speculative import PromptLookup, Tree, expected_tokens
from reference.transformer import KVCache

LESSON = "14_speculative_decoding.ipynb"


def cells(kind: str = "code", folder: str = "notebooks") -> list[str]:
    return [c.source for c in read(ROOT / folder / LESSON).cells if c.cell_type == kind]


def cell(text: str) -> str:
    """The source of the lesson's one code cell that contains a text."""
    (found,) = [source for source in cells() if text in source]
    return found


def prose() -> str:
    return "\n\n".join(cells("markdown"))


def run(source: str, **names) -> dict:
    exec(source, names)
    return names


def test_the_lesson_s_look_up_is_the_module_s():
    look_up = run(cell("def look_up("))["look_up"]
    module, rng, found = PromptLookup(longest=3, shortest=3, depth=8), torch.Generator(), 0
    for seed in range(200):
        rng.manual_seed(seed)
        text = torch.randint(0, 3, (int(torch.randint(1, 30, (), generator=rng)),), generator=rng)
        guess = look_up(text.tolist())
        assert guess == list(module(text.tolist(), 8).tokens)
        found += bool(guess)
    assert 50 < found < 200


@pytest.mark.parametrize("kind", ["oracle", "nonsense", "nothing", "half"])
def test_the_lesson_s_loop_writes_what_plain_decoding_writes(kind):
    model = small_model()
    prompt = list(b"keys, keys")
    wanted = list(generate_tokens(model, prompt, max_tokens=20))
    draft = {
        "oracle": lambda text: wanted[len(text) - len(prompt) :][:4],
        "nonsense": lambda text: [0, 1, 2],
        "nothing": lambda text: [],
        "half": lambda text: [*wanted[len(text) - len(prompt) :][:2], 0, 0],
    }[kind]
    names = {"torch": torch, "KVCache": KVCache, "model": model}
    got, passes = run(cell("def speculate("), **names)["speculate"](prompt, draft, 14)
    assert got == wanted[:14]
    assert passes == {"oracle": 3, "nonsense": 14, "nothing": 14, "half": 5}[kind]
    assert TINY.context == 40  # the loop's cache, 10 + 14 + 16, just fits


def test_numbers_of_the_first_section():
    llama, h100 = hardware.model_named("Llama-3 8B"), hardware.Device.named("H100 SXM")
    weights = llama.parameters * 2e9
    assert round(weights / 1e9) == 16 and round(weights / h100.bandwidth / 1e6, 1) == 4.8
    at_once = h100.tensor_tflops * weights / h100.bandwidth / 1e9 * 1e3
    assert round(at_once, -2) == 4700 and "4,700 billion operations" in prose()
    assert round(2 * llama.parameters) == 16
    assert 256 * 5 == 1280 and "1,280 rows" in prose()


def test_the_tree_of_the_figure_is_what_the_text_says():
    paths = run(cell('paths = [["cat"'), Tree=Tree)["paths"]
    tree = Tree.of_paths(paths)
    slots = {word: [i + 1 for i, token in enumerate(tree.tokens) if token == word]
             for word in tree.tokens}  # fmt: skip
    assert slots["sat"] == [2, 7] and slots["ran"] == [5] and slots["still"] == [4]
    assert '"sat" after "cat" is in slot 2, "sat" after "dog" in slot 7' in prose()
    assert 'slot 5 ("ran") moves to slot 2' in prose()
    assert [tree.tokens[node] for node in (0, 4)] == ["cat", "ran"]  # those of the figure


def test_claims_about_the_record_hold():
    rows = {
        (r["model"], r["task"], r["draft"]): r
        for r in recorded.load("speculative")["rows"]
        if r["temperature"] == 0
    }
    for claim in CLAIMS:
        assert claim(rows), claim.__doc__


def look(rows, model, task, tokens=8):
    return rows[model, task, f"look-up, {tokens} tokens"]


def three_layers_guess_best(rows):
    """Of the small model's layers, three are accepted most often, and one is the least trouble."""
    found = [rows["bytes", "continue", f"{n} of 4 layers, 3 tokens"] for n in (1, 2, 3)]
    return max(found, key=lambda r: r["acceptance"]) is found[2]


def a_tree_gives_more_than_its_chain(rows):
    """Three looked-up branches give at least the tokens of one, and so does the model's tree."""
    chains = [
        (rows[model, task, "look-up, tree of 3"], rows[model, task, "look-up, 4 tokens"])
        for model, task, draft in rows
        if draft == "look-up, 8 tokens"
    ]
    pairs = [(tree["tokens_per_step"], chain["tokens_per_step"]) for tree, chain in chains]
    return all(tree >= chain for tree, chain in pairs)


def copying_is_where_look_up_shines(rows):
    """SmolLM2 copies a text in fewer passes than it answers a question."""
    copy, answer = (look(rows, "smollm2", task)["tokens_per_step"] for task in ("copy", "answer"))
    return copy > answer


def what_the_text_quotes(rows):
    """2.8, 2.4 and 2.57 tokens per pass, and no early exit that pays."""
    found = [
        round(look(rows, "smollm2", "copy")["tokens_per_step"], 1),
        round(look(rows, "bytes", "continue")["tokens_per_step"], 1),
        round(rows["bytes", "continue", "3 of 4 layers, 3 tokens"]["tokens_per_step"], 2),
    ]
    exits = [row for (*_, draft), row in rows.items() if "layers" in draft]
    return found == [2.8, 2.4, 2.57] and all(row["ratio"] < 1 for row in exits)


def look_ups_pay_where_they_are_right(rows):
    """About one and a half times where text repeats; less than plain where it does not."""
    pays = [look(rows, "bytes", "continue"), look(rows, "smollm2", "copy")]
    not_so = look(rows, "smollm2", "answer")
    return all(1.4 < row["ratio"] < 1.6 for row in pays) and not_so["ratio"] < 1


CLAIMS = (
    what_the_text_quotes,
    look_ups_pay_where_they_are_right,
    three_layers_guess_best,
    a_tree_gives_more_than_its_chain,
    copying_is_where_look_up_shines,
)


def test_the_table_is_the_record():
    """What is stored in the lesson is what the record says today."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run(cell("record = recorded("), recorded=recorded.load)
    stored = next(
        c.outputs[0].text
        for c in read(ROOT / "notebooks" / LESSON).cells
        if c.cell_type == "code" and "record = recorded(" in c.source
    )
    assert out.getvalue() == stored
    assert len(re.findall(r"\d+%", stored)) >= 12


def test_what_the_text_says_of_passes():
    ratio = {(r["model"], r["queries"]): r["ratio"] for r in recorded.load("speculative")["passes"]}
    said = {
        ("bytes", 2): "1.25",
        ("smollm2", 2): "1.55",
        ("bytes", 9): "1.4",
        ("smollm2", 9): "2.2",
    }
    for key, text in said.items():
        assert f"{ratio[key]:.{len(text) - 2}f}" == text and text in prose()


def test_by_hand_in_the_last_section():
    assert expected_tokens(0.5, 3) == 1.875 and "= 1.875$" in prose()
