"""A hook of mkdocs: what the pages link to outside of docs/ becomes pages of the site, and their links lead there.

README.md, CONTRIBUTING.md and CHANGELOG.md are pages as they are; another file of the repository that a page links to is a page
that shows its text, and a folder one that lists its files. So one Markdown serves readers of the repository and of the site.
A link that leads nowhere is left as it is, for `mkdocs build --strict` to refuse.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
LOADED_FROM_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|<link[^>]+stylesheet[^>]+(?:https?:)?//"
)
LANGUAGES = {".py": "python", ".yml": "yaml", ".sh": "bash"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand outside of docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    for path, address in PAGES.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / path)))
    for path in sorted(linked_sources()):
        text = source_page(path)
        files.append(File.generated(config, site_path(path), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page with its links as the site has them."""
    paths = {address: path for path, address in PAGES.items()}
    address = page.file.src_uri
    return (
        markdown if address.startswith("source/") else with_site_links(markdown, paths.get(address, f"docs/{address}"))
    )


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that a browser would fetch something for from another host."""
    if loaded := LOADED_FROM_ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} loads something from elsewhere: {loaded[0]}")
    return output


def with_site_links(markdown: str, path: str) -> str:
    """Return the Markdown of a file of the repository with its links to other files as the site has them."""
    folder = os.path.dirname(site_path(path))

    def rewritten(link: re.Match[str]) -> str:
        target = repository_path(link["target"], path)
        return f"{os.path.relpath(site_path(target), folder)}{link['anchor'] or ''}" if target else link[0]

    return LINK.sub(rewritten, markdown)


def repository_path(link: str, page: str) -> str:
    """Return what a page links to, as a path from the root of the repository; "" where there is no such file."""
    path = os.path.normpath(os.path.join(os.path.dirname(page), link))
    return path if "://" not in link and not path.startswith("..") and (ROOT / path).exists() else ""


def site_path(path: str) -> str:
    """Return where a file of the repository stands in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    source = f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"
    return PAGES.get(path, source)


def linked_sources() -> set[str]:
    """Return the files and folders of the repository that some page links to and that aren't pages, with the folders' files."""
    pages = [*PAGES, *(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))]
    linked = {path for page in pages for path in _links(page)}
    sources = {path for path in linked if not path.startswith("docs/") and path not in PAGES}
    return sources | {file for path in sources if (ROOT / path).is_dir() for file in _files(path)}


def source_page(path: str) -> str:
    """Return the page of a file, with its text, or of a folder, with its files."""
    head = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n"
    if (ROOT / path).is_dir():
        return head + "\n".join(f"- [{os.path.basename(file)}]({os.path.basename(file)}.md)" for file in _files(path))
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"{head}~~~~~ {language}\n{(ROOT / path).read_text(encoding='utf-8').rstrip()}\n~~~~~\n"


def _links(page: str) -> Iterator[str]:
    for link in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if target := repository_path(link["target"], page):
            yield target


def _files(folder: str) -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for file in (ROOT / folder).iterdir() if file.is_file())
