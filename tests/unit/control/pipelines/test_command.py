"""What bash sees of a value, wherever the author put its placeholder."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mafunzo.control.pipelines.command import Placeholder, placeholders, substitute
from mafunzo.errors import InvalidParameter

NASTY = 'it\'s "a" $HOME `id` \\ $(id) \n\t!; && || > < * ? [x] {a,b} ~ #c é'


def run(command: str) -> str:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout


CONTEXTS = [
    pytest.param("printf %s ${{inputs.x}}", id="bare"),
    pytest.param("printf %s '${{inputs.x}}'", id="in single quotes"),
    pytest.param('printf %s "${{inputs.x}}"', id="in double quotes"),
    pytest.param("printf %s $'${{inputs.x}}'", id="in ANSI-C quotes"),
    pytest.param('x=${{inputs.x}}; printf %s "$x"', id="in an assignment"),
    pytest.param('printf %s "$(printf %s ${{inputs.x}}; printf .)" | head -c -1', id="bare, in $() in double quotes"),
    pytest.param("printf %s \"$(printf %s '${{inputs.x}}'; printf .)\" | head -c -1", id="in single quotes, in $()"),
    pytest.param("( printf %s '${{ inputs.x }}' )", id="with blanks, in a subshell"),
    pytest.param("cat <<< ${{inputs.x}} | head -c -1", id="in a here-string"),
    pytest.param("printf %s \\'${{inputs.x}}\\' | head -c -1 | tail -c +2", id="after an escaped quote"),
    pytest.param("# don't mind\nprintf %s ${{inputs.x}}", id="after a comment with a quote"),
    pytest.param("s='#'; a=${#s}; printf %s ${{inputs.x}}", id="after a # that is no comment"),
    pytest.param("[ $((1 + (2) << 3)) = 24 ] && printf %s ${{inputs.x}}", id="after arithmetic"),
    pytest.param("$[[printf %s '${{inputs.x}}']]", id="in an optional block"),
]


@pytest.mark.parametrize("command", CONTEXTS)
def test_the_shell_sees_exactly_the_value(command: str) -> None:
    assert run(substitute(command, {"x": NASTY}, {})) == NASTY


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(["{}", "'{}'", '"{}"'])
)
def test_any_text_survives_any_quotes(value: str, quotes: str) -> None:
    command = "printf '%s.' " + quotes.format("${{inputs.x}}")
    done = subprocess.run(["bash", "-c", substitute(command, {"x": value}, {})], capture_output=True, check=True)
    assert done.stdout == value.encode() + b"."


def test_a_placeholder_within_a_word_stays_one_word() -> None:
    assert run(substitute("printf '%s|' --x=${{inputs.x}}/end a", {"x": "b c"}, {})) == "--x=b c/end|a|"


def test_an_input_of_a_group_has_dots_in_its_name() -> None:
    assert placeholders("$[[a ${{inputs.g.h.x}}]]") == [Placeholder("inputs", "g.h.x", is_optional=True)]
    assert substitute("$[[a ${{inputs.g.h.x}}]]", {"g.h.x": "b"}, {}) == "a 'b'"


def test_outputs_are_put_in_like_inputs() -> None:
    assert substitute("cp ${{inputs.x}} ${{outputs.x}}", {"x": "a"}, {"x": "b"}) == "cp 'a' 'b'"


def test_an_optional_block_goes_without_its_input() -> None:
    command = "run $[[--a ${{inputs.a}}]] $[[--b '${{inputs.b}}' --c ${{inputs.c}}]] end"
    assert substitute(command, {"b": "1"}, {}) == "run   end"
    assert substitute(command, {"a": "1", "b": "2", "c": "3"}, {}) == "run --a '1' --b '2' --c '3' end"


def test_an_empty_text_is_a_value() -> None:
    assert run(substitute("printf '<%s>' $[[${{inputs.x}}]]", {"x": ""}, {})) == "<>"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("echo `echo ${{inputs.x}}`", "in a backtick", id="backticks"),
        pytest.param('echo `echo "${{inputs.x}}"`', "in a backtick", id="double quotes in backticks"),
        pytest.param("cat <<EOF\n${{inputs.x}}\nEOF", "in a here-document", id="here-document"),
        pytest.param("echo $((${{inputs.x}} + 1))", "'a b' isn't a whole number", id="arithmetic"),
        pytest.param("echo ${{inputs.y}}", "inputs.y, which wasn't given", id="missing"),
    ],
)
def test_where_no_quoting_is_safe_it_is_refused(command: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        substitute(command, {"x": "a b"}, {})
    assert said in str(caught.value)


def test_a_number_in_arithmetic_is_put_in() -> None:
    assert run(substitute("echo $((${{inputs.x}} + 1))", {"x": "41"}, {})) == "42\n"


def test_a_null_character_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="null character"):
        substitute("echo ${{inputs.x}}", {"x": "a\0b"}, {})


def test_the_uses_of_values_are_found() -> None:
    found = placeholders("a ${{inputs.x}} $[[--y '${{ inputs.y }}']] ${{outputs.z}}")
    assert found == [
        Placeholder("inputs", "x", False),
        Placeholder("inputs", "y", True),
        Placeholder("outputs", "z", False),
    ]


def test_placeholders_of_another_form_are_refused_together() -> None:
    with pytest.raises(InvalidParameter) as caught:
        placeholders("${{x}} ${{search_space.lr}}")
    assert len(caught.value.faults) == 2 and "${{search_space.lr}}" in caught.value.faults[1]
