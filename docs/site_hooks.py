"""What the site has beyond the files of docs/: the README, the reference, formulas as MathML, the page of `make web`."""

from __future__ import annotations

import pathlib
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = ROOT / "web/dist"
PACKAGE = "hcflow_tf"
CODE_OR_FORMULA = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$", re.DOTALL | re.MULTILINE
)


def rooms() -> dict[str, list[str]]:
    """Room of the package -> its modules; commands are the modules of no room."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        *folders, name = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        if name == "__main__" or (name == "__init__" and not folders):
            continue
        module = ".".join([PACKAGE, *folders, *([] if name == "__init__" else [name])])
        found.setdefault(folders[0] if folders else "commands", []).append(module)
    return found


def reference(module: str) -> str:
    """The module's part of its room's page; of a package only what it says of itself, since its names are its modules'."""
    is_package = (ROOT / module.replace(".", "/")).is_dir()
    return f"::: {module}" + ("\n    options: {members: false}" if is_package else "")


def root_page(name: str) -> str:
    """A document of the root as a page of the site, where links to files outside docs/ are text."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("(CONTRIBUTING.md)", "(contributing.md)")

    def link(match: re.Match) -> str:
        outside = not match[2].startswith("docs/") and (ROOT / match[2]).exists()
        return f"`{match[1].strip('`')}`" if outside else match[0]

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)#:\s]+)\)", link, text).replace("(docs/", "(")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Completes the navigation."""
    reference = next(entry for entry in config.nav if isinstance(entry, dict) and "Reference" in entry)
    reference["Reference"] = [{room: f"reference/{room}.md"} for room in rooms()]
    if (DEMO / "index.html").is_file():
        config.nav.insert(1, {"Try it": "demo/index.html"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and files that do not lie in docs/."""
    pages = {"index.md": root_page("README.md"), "contributing.md": root_page("CONTRIBUTING.md")}
    for room, modules in rooms().items():
        pages[f"reference/{room}.md"] = f"# {room}\n\n" + "\n\n".join(map(reference, modules)) + "\n"
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for path in sorted(DEMO.rglob("*")) if (DEMO / "index.html").is_file() else ():
        if path.is_file():
            name = f"demo/{path.relative_to(DEMO).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Takes the formulas out, so that Markdown does not read them."""
    page.meta["formulas"] = []

    def formula(match: re.Match) -> str:
        if match["code"]:
            return match["code"]
        kind = "block" if match["block"] else "inline"
        page.meta["formulas"].append(convert(match[kind], display=kind))
        return f"FORMULA{len(page.meta['formulas']) - 1}END"

    return CODE_OR_FORMULA.sub(formula, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the formulas back as MathML, which browsers show without a script."""
    formulas = page.meta.pop("formulas", [])
    return re.sub(r"FORMULA(\d+)END", lambda match: formulas[int(match[1])], html)
