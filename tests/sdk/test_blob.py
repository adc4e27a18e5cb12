"""Azure Storage's own client against the blobs of a home: contents, conditions, lists, blocks, containers, keys and signatures."""

import hashlib
import http.client
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobPrefix,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from mafunzo import Workspace

LONG_AGO, SOON = datetime(2020, 1, 1, tzinfo=UTC), timedelta(minutes=5)


@pytest.fixture(scope="module")
def key(client: Any) -> str:
    """The account's key, as the SDK asks for it."""
    return str(client.datastores._list_secrets("workspaceblobstore", expirable_secret=False).key)


@pytest.fixture(scope="module")
def account(workspace: Workspace, key: str) -> Iterator[BlobServiceClient]:
    """The account, opened with its key."""
    with BlobServiceClient(f"{workspace.up().https_url}/mafunzo.blob.local", credential=key, retry_total=0) as opened:
        yield opened


@pytest.fixture
def box(account: BlobServiceClient, request: pytest.FixtureRequest) -> Iterator[ContainerClient]:
    """A container of the test's own, opened with the account's key."""
    name = f"box-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"
    made = account.create_container(name)
    yield made
    made.delete_container()


def refusal(error: "pytest.ExceptionInfo[HttpResponseError]") -> tuple[int | None, str]:
    """Return the status and the service's code of a refusal."""
    code = getattr(error.value, "error_code", None)
    return error.value.status_code, str(getattr(code, "value", code))


# Contents


def test_a_blob_comes_back_with_all_that_was_said_of_it(box: ContainerClient) -> None:
    settings = ContentSettings("text/plain", "identity", "sw", 'attachment; filename="x"', "no-store")
    box.upload_blob(
        "a/b.txt", b"habari", metadata={"name": "x", "upload_status": "completed"}, content_settings=settings
    )
    blob = box.get_blob_client("a/b.txt")
    found = blob.get_blob_properties()
    assert (found.name, found.size, found.blob_type) == ("a/b.txt", 6, "BlockBlob")
    assert found.metadata == {"name": "x", "upload_status": "completed"}
    assert vars(found.content_settings) | {"content_md5": None} == vars(settings)
    assert found.content_settings.content_md5 == hashlib.md5(b"habari").digest()
    assert found.etag and found.last_modified <= datetime.now(UTC) and found.creation_time == found.last_modified
    download = blob.download_blob()
    assert download.readall() == b"habari"
    assert download.properties.content_settings.cache_control == "no-store"


def test_what_is_said_of_a_blob_can_be_changed(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"x", metadata={"a": "1"})
    before = blob.get_blob_properties()
    blob.set_blob_metadata({"b": "2"})
    blob.set_http_headers(ContentSettings(content_type="text/csv"))
    after = blob.get_blob_properties()
    assert (after.metadata, after.content_settings.content_type) == ({"b": "2"}, "text/csv")
    assert after.etag != before.etag


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_bytes_are_the_same_whichever_way_they_come(box: ContainerClient, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    blob = box.upload_blob("x", body)
    small = BlobClient(
        f"https://{blob.primary_hostname.split('/')[0]}/mafunzo.blob.local",
        box.container_name,
        "x",
        credential=blob.credential,
        max_single_get_size=1000,
        max_chunk_get_size=7777,
    )
    assert small.download_blob(max_concurrency=2).readall() == body
    assert b"".join(small.download_blob().chunks()) == body
    assert blob.download_blob(validate_content=True).readall() == body


def test_a_range_is_sent_alone(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"0123456789")
    assert blob.download_blob(offset=3, length=4).readall() == b"3456"
    assert blob.download_blob(offset=7).readall() == b"789"
    assert blob.download_blob(offset=8, length=100, validate_content=True).readall() == b"89"
    with pytest.raises(HttpResponseError) as refused:
        blob.download_blob(offset=10, length=1)
    assert refusal(refused) == (416, "InvalidRange")


def test_bytes_that_changed_on_the_way_are_refused(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"right", validate_content=True)
    with pytest.raises(HttpResponseError) as refused:
        blob.upload_blob(b"wrong", overwrite=True, headers={"Content-MD5": "XrY7u+Ae7tCTyyK7j1rNww=="})
    assert refusal(refused) == (400, "Md5Mismatch")
    with pytest.raises(HttpResponseError) as refused:
        blob.stage_block("1", b"wrong", headers={"Content-MD5": "XrY7u+Ae7tCTyyK7j1rNww=="})
    assert refusal(refused) == (400, "Md5Mismatch")
    blob.stage_block("1", b"right", validate_content=True)
    assert blob.download_blob().readall() == b"right"


def test_what_is_no_block_blob_is_refused(box: ContainerClient, account: BlobServiceClient) -> None:
    blob = box.get_blob_client("x")
    for told, attempt in (
        ("AppendBlob", blob.create_append_blob),
        ("PageBlob", lambda: blob.create_page_blob(512)),
        ("x-ms-copy-source", lambda: blob.start_copy_from_url(f"{box.url}/y")),
        ("x-ms-copy-source", lambda: blob.upload_blob_from_url(f"{box.url}/y")),
        ("x-ms-tags", lambda: blob.upload_blob(b"x", tags={"a": "b"})),
        ("comp=lease", blob.acquire_lease),
        ("x-ms-if-tags", lambda: blob.upload_blob(b"x", if_tags_match_condition="a='b'")),
    ):
        with pytest.raises(HttpResponseError, match=told) as refused:
            attempt()
        assert refusal(refused)[0] == 400
    assert not blob.exists()


# Conditions


def test_a_blob_that_is_there_is_overwritten_only_when_asked(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"first")
    with pytest.raises(ResourceExistsError) as refused:
        box.upload_blob("x", b"second")
    assert refusal(refused) == (409, "BlobAlreadyExists")
    large = b"second" * 100
    with (
        pytest.raises(ResourceExistsError),
        BlobClient.from_blob_url(
            blob.url, credential=blob.credential, max_single_put_size=64, max_block_size=100
        ) as small,
    ):
        small.upload_blob(large)
    box.upload_blob("x", b"second", overwrite=True)
    assert blob.download_blob().readall() == b"second"


def test_a_write_happens_only_to_what_the_client_knows(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"1")
    old = blob.get_blob_properties().etag
    known = {"etag": old, "match_condition": MatchConditions.IfNotModified}
    blob.upload_blob(b"2", overwrite=True, **known)
    for attempt in (
        lambda: blob.upload_blob(b"3", overwrite=True, **known),
        lambda: blob.set_blob_metadata({"a": "b"}, **known),
        lambda: blob.delete_blob(**known),
        lambda: blob.download_blob(**known),
        lambda: blob.upload_blob(b"3", overwrite=True, if_unmodified_since=LONG_AGO),
        lambda: blob.upload_blob(b"3", overwrite=True, if_modified_since=datetime.now(UTC) + SOON),
        lambda: box.get_blob_client("none").upload_blob(
            b"3", overwrite=True, match_condition=MatchConditions.IfPresent
        ),
    ):
        with pytest.raises(ResourceModifiedError) as refused:
            attempt()
        assert refusal(refused) == (412, "ConditionNotMet")
    assert blob.download_blob().readall() == b"2"
    blob.delete_blob(etag=old, match_condition=MatchConditions.IfModified)
    assert not blob.exists()


def test_what_the_client_has_already_is_not_sent_again(box: ContainerClient) -> None:
    blob = box.upload_blob("x", b"1")
    found = blob.get_blob_properties()
    for attempt in (
        lambda: blob.download_blob(etag=found.etag, match_condition=MatchConditions.IfModified),
        lambda: blob.download_blob(if_modified_since=found.last_modified),
        lambda: blob.get_blob_properties(if_modified_since=found.last_modified + SOON),
    ):
        with pytest.raises(HttpResponseError) as refused:
            attempt()
        assert refusal(refused) == (304, "ConditionNotMet")
    assert blob.download_blob(if_modified_since=LONG_AGO, if_unmodified_since=found.last_modified).readall() == b"1"


# Blocks


def test_blocks_are_listed_kept_and_replaced(box: ContainerClient) -> None:
    blob = box.get_blob_client("x")
    for id, body in (("1", b"one "), ("2", b"two ")):
        blob.stage_block(id, body)
    committed, waiting = blob.get_block_list("all")
    assert (committed, sorted((block.id, block.size) for block in waiting)) == ([], [("1", 4), ("2", 4)])
    assert not blob.exists()
    blob.commit_block_list(
        [BlobBlock("2"), BlobBlock("1")], metadata={"a": "b"}, content_settings=ContentSettings("a/b")
    )
    blob.stage_block("3", b"three ")
    committed, waiting = blob.get_block_list("all")
    assert [(block.id, block.size) for block in committed] == [("2", 4), ("1", 4)]
    assert [(block.id, block.size) for block in waiting] == [("3", 6)]
    assert [len(blocks) for blocks in blob.get_block_list("committed")] == [2, 0]
    assert [len(blocks) for blocks in blob.get_block_list("uncommitted")] == [0, 1]
    blob.commit_block_list([BlobBlock("3"), BlobBlock("1")])
    assert blob.download_blob().readall() == b"three one "
    assert blob.get_block_list("all")[1] == []


def test_a_block_that_is_not_there_is_told(box: ContainerClient) -> None:
    blob = box.get_blob_client("x")
    with pytest.raises(HttpResponseError) as refused:
        blob.commit_block_list([BlobBlock("1")])
    assert refusal(refused) == (400, "InvalidBlockList")
    with pytest.raises(ResourceNotFoundError):
        blob.get_block_list("all")


# Lists


def test_a_list_is_folded_at_the_delimiter(box: ContainerClient) -> None:
    for name in ("a", "dir/b", "dir/sub/c", "dir/sub/d", "dir-x", "zebra/e"):
        box.upload_blob(name, b"x")
    assert sorted(item.name for item in box.walk_blobs()) == ["a", "dir-x", "dir/", "zebra/"]
    assert [item.name for item in box.walk_blobs(name_starts_with="dir/")] == ["dir/sub/", "dir/b"]
    folder = next(item for item in box.walk_blobs() if item.name == "dir/")
    assert isinstance(folder, BlobPrefix)
    assert [item.name for item in folder] == ["dir/sub/", "dir/b"]
    pages = box.walk_blobs(results_per_page=1).by_page()
    assert [[item.name for item in page] for page in pages] == [["a"], ["dir-x"], ["dir/"], ["zebra/"]]
    assert list(box.walk_blobs(name_starts_with="none/")) == []


def test_a_list_goes_on_after_its_marker(box: ContainerClient) -> None:
    names = [f"{number:02d} é&<>" for number in range(5)]
    for name in names:
        box.upload_blob(name, b"x", metadata={"number": name[:2]})
    first = box.list_blobs(results_per_page=2).by_page()
    assert [blob.name for blob in next(first)] == names[:2]
    rest = box.list_blobs(results_per_page=2).by_page(continuation_token=first.continuation_token)
    assert [blob.name for page in rest for blob in page] == names[2:]
    assert [blob.metadata for blob in box.list_blobs(include="metadata")] == [{"number": name[:2]} for name in names]
    one = next(iter(box.list_blobs(include=["metadata", "snapshots"])))
    assert (one.size, one.blob_type, one.content_settings.content_type) == (1, "BlockBlob", "application/octet-stream")
    assert one.etag == box.get_blob_client(names[0]).get_blob_properties().etag
    with pytest.raises(HttpResponseError, match="aren't whole yet"):
        list(box.list_blobs(include="uncommittedblobs"))


def test_a_case_is_a_difference(box: ContainerClient) -> None:
    for name in ("A/x", "a/x"):
        box.upload_blob(name, name.encode())
    assert [blob.name for blob in box.list_blobs("a/")] == ["a/x"]
    assert box.download_blob("A/x").readall() == b"A/x"


def test_a_blob_is_deleted_once(box: ContainerClient) -> None:
    box.upload_blob("x", b"x")
    box.delete_blob("x")
    for attempt in (lambda: box.delete_blob("x"), lambda: box.download_blob("x")):
        with pytest.raises(ResourceNotFoundError) as refused:
            attempt()
        assert refusal(refused) == (404, "BlobNotFound")


# Containers


def test_a_container_is_made_shown_and_deleted(account: BlobServiceClient) -> None:
    made = account.get_container_client("a-container")
    assert not made.exists()
    made.create_container(metadata={"of": "test"})
    with pytest.raises(ResourceExistsError) as refused:
        made.create_container()
    assert refusal(refused) == (409, "ContainerAlreadyExists")
    assert made.exists() and made.get_container_properties().metadata == {"of": "test"}
    assert "a-container" in {one.name for one in account.list_containers()}
    assert [one.metadata for one in account.list_containers("a-con", include_metadata=True)] == [{"of": "test"}]
    made.upload_blob("x", b"x")
    made.delete_container()
    for attempt in (
        made.get_container_properties,
        made.delete_container,
        lambda: list(made.list_blobs()),
        lambda: made.upload_blob("x", b"x"),
        lambda: made.download_blob("x"),
        lambda: made.delete_blob("x"),
    ):
        with pytest.raises(ResourceNotFoundError) as refused:
            attempt()
        assert refusal(refused) == (404, "ContainerNotFound")


@pytest.mark.parametrize("name", ["azureml-blobstore", "azureml"])
def test_a_container_of_the_workspaces_own_stays(account: BlobServiceClient, name: str) -> None:
    with pytest.raises(HttpResponseError, match="workspace's own"):
        account.delete_container(name)
    assert account.get_container_client(name).exists()


@pytest.mark.parametrize("name", ["ab", "a" * 64, "Upper", "under_score", "two--hyphens", "-first", "last-", "dot.s"])
def test_a_name_that_no_container_can_have_is_refused(account: BlobServiceClient, name: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        account.create_container(name)
    assert refusal(refused)[0] == 400
    assert refusal(refused)[1] in ("InvalidResourceName", "OutOfRangeInput")


def test_a_folder_is_no_blob_to_whoever_asks_and_cannot_be_written(container: ContainerClient) -> None:
    container.upload_blob("talks/one.txt", b"1")
    assert not container.get_blob_client("talks/").exists()
    with pytest.raises(HttpResponseError) as refused:
        container.upload_blob("talks/", b"2")
    assert refusal(refused)[1] == "InvalidResourceName"


# Names that lead elsewhere, which the client itself would straighten


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/../evil", "InvalidResourceName", id="up"),
        pytest.param("/%2e%2e/evil", "InvalidResourceName", id="up, encoded"),
        pytest.param("/a/..", "InvalidResourceName", id="up at the end"),
        pytest.param("/a/%2e%2e%2fevil", "InvalidResourceName", id="encoded slash, up"),
        pytest.param("/a%2fb", "InvalidUri", id="encoded slash"),
        pytest.param("/a%5c..%5cb", "InvalidResourceName", id="backslash"),
        pytest.param("/a%00b", "InvalidUri", id="NUL"),
        pytest.param("/a%0ab", "InvalidUri", id="line end"),
        pytest.param("/%ff", "InvalidResourceName", id="no UTF-8"),
        pytest.param("//etc/passwd", "InvalidResourceName", id="absolute"),
        pytest.param("/", "OutOfRangeInput", id="empty"),
        pytest.param("/" + "a/" * 512 + "b", "OutOfRangeInput", id="1025 characters"),
        pytest.param("/" + "n" * 256, "InvalidInput", id="part of 256 bytes"),
    ],
)
def test_a_name_leads_nowhere_else(workspace: Workspace, container: ContainerClient, path: str, code: str) -> None:
    before = {path for path in workspace.home.root.rglob("*") if "artifacts" not in path.parts}
    answer = put_raw(workspace, container, path)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (400, code)
    assert code.encode() in answer.read()
    assert {path for path in workspace.home.root.rglob("*") if "artifacts" not in path.parts} == before


def test_a_refusal_is_told_as_the_service_tells_it(workspace: Workspace, container: ContainerClient) -> None:
    answer = put_raw(workspace, container, "/a/..")
    assert answer.read().startswith(
        b"<?xml version='1.0' encoding='utf-8'?><Error><Code>InvalidResourceName</Code><Message>"
    )
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert answer.headers["x-ms-request-id"] and answer.headers["date"] and answer.headers["x-ms-version"]


# The account's key, and what is signed with it


def test_a_wrong_key_is_refused(box: ContainerClient, workspace: Workspace) -> None:
    url = f"{workspace.up().https_url}/mafunzo.blob.local"
    wrong = "d3Jvbmc=" * 4
    for credential in (wrong, {"account_name": "other", "account_key": box.credential.account_key}):
        with ContainerClient(url, box.container_name, credential=credential, retry_total=0) as other:
            with pytest.raises(ClientAuthenticationError) as refused:
                other.upload_blob("x", b"x")
            assert refusal(refused) == (403, "AuthenticationFailed")


def test_every_name_of_the_account_is_signed_for(box: ContainerClient, workspace: Workspace) -> None:
    host = workspace.up().https_url.removeprefix("https://")
    for name in ("mafunzo", f"{host}/mafunzo"):
        credential = {"account_name": name, "account_key": box.credential.account_key}
        with ContainerClient(f"https://{host}/mafunzo.blob.local", box.container_name, credential=credential) as other:
            other.upload_blob("a b/é ü+%&.txt", b"x", overwrite=True, metadata={"upload_status": "x", "upload": "y"})
            assert [blob.name for blob in other.list_blobs("a b/é")] == ["a b/é ü+%&.txt"]


def test_a_request_of_another_time_is_refused(box: ContainerClient) -> None:
    def put_clock_back(request: Any) -> None:
        request.http_request.headers["x-ms-date"] = "Wed, 01 Jan 2020 00:00:00 GMT"

    blob = box.get_blob_client("x")
    with pytest.raises(ClientAuthenticationError, match="more than 15 minutes away") as refused:
        box.upload_blob("x", b"x", raw_request_hook=put_clock_back)
    assert refusal(refused) == (403, "AuthenticationFailed")
    assert not blob.exists()


def test_a_signature_for_a_blob_opens_that_blob_alone(box: ContainerClient) -> None:
    blob = box.upload_blob("dir/x y", b"x")
    box.upload_blob("dir/z", b"z")
    name, key = blob.account_name, box.credential.account_key
    sas = generate_blob_sas(
        name, box.container_name, blob.blob_name, account_key=key, permission="r", expiry=now() + SOON
    )
    with BlobClient.from_blob_url(f"{blob.url}?{sas}") as opened:
        assert opened.download_blob().readall() == b"x"
        with pytest.raises(HttpResponseError) as refused:
            opened.upload_blob(b"y", overwrite=True)
        assert refusal(refused) == (403, "AuthorizationPermissionMismatch")
    for url in (f"{box.url}/dir/z", f"{box.url}/dir/x"):
        with BlobClient.from_blob_url(f"{url}?{sas}") as other, pytest.raises(ClientAuthenticationError):
            other.download_blob()
    with ContainerClient.from_container_url(f"{box.url}?{sas}") as whole, pytest.raises(HttpResponseError) as refused:
        list(whole.list_blobs())
    assert refusal(refused)[0] == 403


def test_the_sdks_own_way_to_sign_is_right(box: ContainerClient, client: Any) -> None:
    """As azure-ai-ml signs the addresses of a job's logs: with the datastore's account name."""
    store = client.datastores.get("workspaceblobstore")
    box.upload_blob("log.txt", b"line")
    sas = generate_blob_sas(
        store.account_name, box.container_name, "log.txt", account_key=box.credential.account_key, permission="r",
        expiry=now() + SOON,
    )  # fmt: skip
    url = f"https://{store.account_name}.blob.{store.endpoint}/{box.container_name}/log.txt?{sas}"
    assert BlobClient.from_blob_url(url).download_blob().readall() == b"line"


def test_a_signature_for_a_container_allows_what_it_says(box: ContainerClient) -> None:
    with signed(box, "rl") as reader:
        box.upload_blob("x", b"x")
        assert [blob.name for blob in reader.list_blobs()] == ["x"]
        assert reader.download_blob("x").readall() == b"x"
        for attempt in (
            lambda: reader.upload_blob("y", b"y"),
            lambda: reader.delete_blob("x"),
            reader.delete_container,
            reader.get_container_properties,
        ):
            with pytest.raises(HttpResponseError) as refused:
                attempt()
            assert refusal(refused) == (403, "AuthorizationPermissionMismatch")
    with signed(box, "c") as maker:
        maker.upload_blob("y", b"y")
        with pytest.raises(HttpResponseError) as refused:
            maker.upload_blob("y", b"z", overwrite=True)
        assert refusal(refused) == (403, "UnauthorizedBlobOverwrite")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"expiry": datetime.now(UTC) - SOON}, id="ended"),
        pytest.param({"start": datetime.now(UTC) + timedelta(days=1)}, id="not begun"),
        pytest.param({"ip": "127.0.0.1"}, id="for an address"),
        pytest.param({"policy_id": "policy"}, id="for a policy"),
        pytest.param({"protocol": "http"}, id="for another protocol"),
        pytest.param({"content_type": "text/html"}, id="for another content type"),
    ],
)
def test_a_signature_that_does_not_hold_is_refused(box: ContainerClient, more: dict[str, Any]) -> None:
    with signed(box, "rwl", **more) as opened, pytest.raises(AzureError) as refused:
        list(opened.list_blobs())
    assert refused.value.status_code == 403


def test_a_signature_of_our_own_time_and_protocol_holds(box: ContainerClient) -> None:
    with signed(box, "rwl", start=datetime.now(UTC) - SOON, protocol="https") as opened:
        assert list(opened.list_blobs()) == []


def test_a_signature_that_was_changed_is_refused(box: ContainerClient) -> None:
    with signed(box, "rl") as opened:
        url = opened.url.replace("sp=rl", "sp=rwl")
    with ContainerClient.from_container_url(url, retry_total=0) as opened, pytest.raises(ClientAuthenticationError):
        list(opened.list_blobs())


def test_a_signature_for_the_account_is_refused(box: ContainerClient) -> None:
    sas = generate_account_sas(box.account_name, box.credential.account_key, "sco", "rl", now() + SOON)
    opened = ContainerClient.from_container_url(f"{box.url}?{sas}", retry_total=0)
    with opened, pytest.raises(ClientAuthenticationError, match="srt"):
        list(opened.list_blobs())


def put_raw(workspace: Workspace, container: ContainerClient, path: str) -> http.client.HTTPResponse:
    """Put a blob at a path that is sent as it is."""
    address = urlsplit(container.url)
    trusting = ssl.create_default_context(cafile=workspace.home.root / "tls" / "authority.pem")
    connection = http.client.HTTPSConnection(address.netloc, context=trusting)
    headers = {"x-ms-blob-type": "BlockBlob", "x-ms-client-request-id": "mine", "connection": "close"}
    connection.request("PUT", f"{address.path}{path}?{address.query}", b"evil", headers)
    return connection.getresponse()


def now() -> datetime:
    return datetime.now(UTC)


def signed(box: ContainerClient, permission: str, **more: Any) -> ContainerClient:
    """Open a container with a signature that the client makes itself."""
    given = {"account_key": box.credential.account_key, "permission": permission, "expiry": now() + SOON} | more
    sas = generate_container_sas(box.account_name, box.container_name, **given)
    return ContainerClient.from_container_url(f"{box.url}?{sas}", retry_total=0)
