"""The glossary and the symbols page agree with the package and with the chapters."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
from browser import ROOT, pages

import fedlab_helpers as fl
from fedlab_helpers import algorithms, optimisers, schedule
from fedlab_helpers.hyperparameters import RANGES, Checked

BOOK = ROOT / "book"
GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
SYMBOLS = (BOOK / "symbols.md").read_text(encoding="utf-8")
CHINESE = re.compile(r"[\u4e00-\u9fff]")

# What the source article calls its topics.
OF_THE_ARTICLE = "联邦学习 个性化联邦学习 联邦迁移学习 多任务学习 元学习 模型分层 参数迁移 知识蒸馏"
OF_THE_ARTICLE += " 推荐系统 医疗诊断 强化学习 动态模型 跨域迁移 增量学习 实时联邦学习"


def entries() -> list[list[str]]:
    """The terms of each entry of the glossary."""
    (body,) = re.findall(r"```\{glossary\}\n(.*?)```", GLOSSARY, re.DOTALL)
    blocks = [block.splitlines() for block in body.split("\n\n")]
    return [
        [line for line in lines if not line.startswith((" ", ":"))] for lines in blocks if lines[-1]
    ]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the symbols page."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", SYMBOLS, re.DOTALL | re.MULTILINE)
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- glossary ------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [e for e in entries() if e], ids=lambda terms: terms[0])
def test_every_entry_has_an_english_and_a_chinese_term(terms: list[str]) -> None:
    assert not CHINESE.search(terms[0])
    assert CHINESE.search(terms[-1])


def test_the_topics_of_the_article_are_in_the_glossary() -> None:
    assert set(OF_THE_ARTICLE.split()) <= {term for terms in entries() for term in terms}


def test_no_term_is_explained_twice() -> None:
    terms = [term for entry in entries() for term in entry]
    assert sorted(terms) == sorted(set(terms))


def test_every_chapter_explains_a_word_of_the_glossary() -> None:
    chapters = [page.split("/")[-1] for page in pages() if (ROOT / f"{page}.ipynb").is_file()]
    named = set(re.findall(r"\{doc\}`(?:[^`<]*<)?(\w+)>?`", GLOSSARY))
    assert [chapter for chapter in chapters if chapter not in named] == []


# --- symbols -------------------------------------------------------------------------------------


def settings() -> dict[str, set[str]]:
    """Every setting of the package's algorithms, optimisers and schedules, and whose it is."""
    modules = [algorithms, optimisers, schedule]
    found: dict[str, set[str]] = {}
    for cls in {c for module in modules for c in vars(module).values() if inspect.isclass(c)}:
        if not (issubclass(cls, Checked) and is_dataclass(cls)) or cls.__name__.startswith("_"):
            continue
        inherited = {
            field.name
            for base in cls.__mro__[1:]
            if is_dataclass(base) and not base.__name__.startswith("_")
            for field in fields(base)
        }
        for field in fields(cls):
            if field.name not in inherited:
                found.setdefault(field.name, set()).add(cls.__name__)
    return found


def test_every_setting_is_on_the_symbols_page() -> None:
    table = {
        name.strip("`"): set(re.findall(r"`(\w+)`", owners))
        for _, _, name, owners in rows("Settings of the algorithms")
    }
    assert table == settings()


def test_every_number_that_can_be_set_has_a_line() -> None:
    assert set(RANGES) - set(settings()) == set()


def exists(name: str) -> bool:
    """Whether `Class.method(argument)` names something in the package."""
    path, _, argument = name.partition("(")
    thing: object = fl
    if not hasattr(fl, path.split(".")[0]):
        if find_spec(f"fedlab_helpers.{path.split('.')[0]}") is None:
            return False
        import_module(f"fedlab_helpers.{path.split('.')[0]}")
    for part in path.split("."):
        owner, thing = thing, getattr(thing, part, None)
        if thing is None:  # what is set when an object is made
            made = inspect.getsource(owner) if inspect.isclass(owner) else ""
            return bool(re.search(rf"^    {part}:|self\.{part}\b.* = ", made, re.MULTILINE))
    return not argument or argument.rstrip(")") in inspect.signature(thing).parameters  # type: ignore[arg-type]


def test_names_in_the_code_are_told_from_others() -> None:
    assert exists("Cohort.weights")
    assert exists("FedAvg.aggregate(uploads)")
    assert not exists("Cohort.weight")
    assert not exists("FedAvg.aggregate(upload)")


@pytest.mark.parametrize("heading", ["Clients and data", "Models and losses", "Rounds"])
def test_every_name_on_the_symbols_page_exists(heading: str) -> None:
    names = [name for row in rows(heading) for name in re.findall(r"`([^`]+)`", row[-1])]
    assert names
    assert [name for name in names if not exists(name)] == []
