"""Online endpoints with the Azure SDK: what differs from the plain way through, at the cost of no model where that can be."""

from typing import Any

from mafunzo import Workspace


def test_an_endpoint_of_the_command_line_is_read(client: Any, workspace: Workspace) -> None:
    workspace.endpoints.create("cli-ep")
    assert client.online_endpoints.get("cli-ep").traffic == {}
    assert "cli-ep" in {found.name for found in client.online_endpoints.list()}
