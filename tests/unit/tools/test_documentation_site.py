"""Links of the pages as the site has them, and the pages of what stands outside of docs/."""

import pytest

from tools.documentation_site import (
    linked_sources,
    on_post_page,
    repository_path,
    site_path,
    source_page,
    with_site_links,
)


class FakeFile:
    src_uri = "page.md"


class FakePage:
    file = FakeFile


@pytest.mark.parametrize(
    ("path", "markdown", "expected"),
    [
        pytest.param("README.md", "[q](docs/quickstart.md)", "[q](quickstart.md)", id="from the README into docs"),
        pytest.param("README.md", "![demo](docs/demo.png)", "![demo](demo.png)", id="a picture"),
        pytest.param("README.md", "[e](examples)", "[e](source/examples/index.md)", id="a folder"),
        pytest.param(
            "docs/howto/use-mlflow.md",
            "[a](../../mafunzo/errors.py), [b](../concepts.md#words)",
            "[a](../source/mafunzo/errors.py.md), [b](../concepts.md#words)",
            id="from docs to a source, and to a page's heading",
        ),
        pytest.param("docs/concepts.md", "[r](../README.md)", "[r](index.md)", id="from docs to the README"),
        pytest.param("README.md", "[x](https://example.com/docs)", "[x](https://example.com/docs)", id="another host"),
        pytest.param(
            "README.md", "[x](docs/nowhere.md)", "[x](docs/nowhere.md)", id="nowhere: left for mkdocs to refuse"
        ),
        pytest.param("docs/concepts.md", "[x](../../outside)", "[x](../../outside)", id="out of the repository"),
    ],
)
def test_a_link_leads_to_the_same_file_in_the_site(path, markdown, expected):
    assert with_site_links(markdown, path) == expected


def test_every_file_of_the_repository_that_a_page_links_to_is_a_page_of_the_site():
    sources = linked_sources()
    assert {"LICENSE", "examples", "examples/azure_pipeline.py", "tests/sdk/test_ground.py"} <= sources
    assert not [path for path in sources if path.startswith("docs/")]


def test_the_page_of_a_file_shows_its_text_and_that_of_a_folder_lists_its_files():
    assert "~~~~~ python\n" in source_page("examples/azure_pipeline.py")
    assert "- [azure_pipeline.py](azure_pipeline.py.md)" in source_page("examples").splitlines()


def test_a_path_out_of_the_repository_is_no_page():
    assert repository_path("../../secret", "README.md") == ""
    assert site_path("LICENSE") == "source/LICENSE.md"


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://example.com/a.js">',
        '<img alt="a" src="//example.com/a.png">',
        '<link rel="stylesheet" href="https://example.com/a.css">',
    ],
)
def test_a_page_that_loads_something_from_another_host_is_refused(tag):
    with pytest.raises(ValueError, match=r"page\.md loads something from elsewhere"):
        on_post_page(f"<p>{tag}</p>", FakePage, None)


def test_a_link_to_another_host_loads_nothing():
    assert on_post_page('<a href="https://example.com">x</a>', FakePage, None)
