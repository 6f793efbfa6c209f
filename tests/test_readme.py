"""README and docs do what they say: loss, hook and snippets run, links lead somewhere, every flag is explained."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import open_clip_fff
from open_clip_fff.config.fields import value_text
from open_clip_fff.config.flags import FLAG_GROUPS, as_flag, flag_parser, flags_of
from open_clip_fff.config.methods import METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))) if path.exists()
]
TEXT = "\n".join(path.read_text() for path in PAGES if path.name != "flags.md")  # which is made of the flags
OF_TRAINING = ("captions", "faults", "losses", "mafa", "mining")  # pages whose flags are training's
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings as GitHub names them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Relative links of a page whose file or heading is not there."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            dead.append(f"{page.name}: {target}")
    return dead


def test_its_loss_and_its_hook_train(trainer, tmp_path, monkeypatch):
    parts = next(block for block in BLOCKS if "register_batch_hook" in block)
    (tmp_path / "readme_parts.py").write_text(parts)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--plugin", "readme_parts", "--loss", "hinge", "--batch-hooks", "caption-dropout"]
    argv = [*flags, "--captions-per-image", "3", "--json-text-key", "captions"]
    assert trainer(*argv, "--name", "plugin") == 0
    log = trainer.log("plugin")
    losses = [float(loss) for loss in re.findall(r"Contrastive_loss: ([\d.]+)", log)]
    assert len(losses) == 4 and all(loss > 0 for loss in losses)
    # each part is 15 lines or fewer
    for part in re.split(r"^@", parts, flags=re.MULTILINE)[1:]:
        assert len(part.strip().splitlines()) <= 15
    # the README's loss is this one
    in_readme = next(
        block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "register_loss" in block
    )
    assert in_readme.partition("\n@")[2] in parts


@pytest.mark.parametrize("snippet", [block for block in BLOCKS if "similarity_assignment" in block])
def test_its_snippet_runs(snippet):
    torch.manual_seed(0)
    names = {
        "image": F.normalize(torch.randn(4, 8), dim=-1),
        "text": F.normalize(torch.randn(4, 2, 8), dim=-1),
        "frozen_image": F.normalize(torch.randn(4, 6), dim=-1),
        "frozen_text": F.normalize(torch.randn(4, 2, 6), dim=-1),
        "logit_scale": torch.tensor(2.0),
        "logit_bias": torch.tensor(-2.0),
    }
    exec(snippet, names)
    assert names["loss"].isfinite() and names["positives"].shape == (4, 4, 2)


def test_a_rate_is_held_in_ones_own_loop():
    (snippet,) = [block for block in BLOCKS if "after_step" in block]
    torch.manual_seed(0)
    unit = lambda *shape: F.normalize(torch.randn(*shape), dim=-1)  # noqa: E731
    image = unit(128, 8).requires_grad_()
    rest = torch.ones(128, 2, dtype=torch.bool), torch.arange(128)
    names = {
        "batches": [(image, unit(128, 2, 8), unit(128, 6), unit(128, 2, 6), *rest) for _ in range(20)],
        "logit_scale": torch.tensor(2.0),
        "logit_bias": torch.tensor(-2.0),
    }
    exec(snippet, names)
    assert image.grad.isfinite().all() and names["miner"].step == 20
    mined = (names["assignment"].to_tensor() > 0).sum().item() / 128 - 2  # without its own two
    assert mined == pytest.approx(1.0, abs=0.4)


def test_what_own_parts_are_built_from_can_be_imported():
    named = set(re.findall(r"`(\w+Context)`", (ROOT / "docs" / "extend.md").read_text()))
    assert len(named) == 3 and named <= set(open_clip_fff.__all__)


def test_every_flag_of_ours_is_explained():
    for action in flag_parser()._actions:
        assert f"{action.option_strings[0]}" in TEXT, action.option_strings[0]


def test_defaults_that_pages_quote_are_the_settings():
    flags = {as_flag(flag.name): flag for group in FLAG_GROUPS for flag, _ in flags_of(group)}
    quoted = set()
    pages = "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in OF_TRAINING)
    for table in re.findall(r"^\| flag \| default \|.*\n((?:\|.*\n)+)", pages, flags=re.MULTILINE):
        for row in table.splitlines():
            cells = re.split(r" (?<!\\)\|(?: |$)", row.removeprefix("| "))
            flag = flags.get(cells[0].strip("| `").split()[0])
            # where there are words for it, pages have words of their own
            if flag and flag.default not in (None, ()) and flag.default_text == value_text(flag.default):
                quoted.add(flag.name)
                assert flag.default_text in cells[1], row
    assert {"p1", "p1_prime", "group_queue", "smoothing", "timeout", "trim_multiple"} <= quoted


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_in_its_table(method):
    assert f"| `{method}` |" in README


def test_the_readme_is_short_and_names_every_page():
    assert len(README.splitlines()) <= 250
    assert [page.name for page in PAGES[1:] if f"]({page.relative_to(ROOT)})" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_every_folder_of_the_package_is_in_the_architecture():
    table = re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    assert sorted(table) == sorted(path.parent.name for path in (ROOT / "open_clip_fff").glob("*/__init__.py"))
