"""Two stacks beside each other, and the end of one: `make nuke` takes what is this checkout's and nothing else."""

from __future__ import annotations

from pathlib import Path

from eds.base.settings import ROOT
from eds.runtime.docker.runtime import ComposeRuntime

from .conftest import Stack, docker


def test_a_second_checkout_does_not_take_over_the_project_of_the_first(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path)
    other.values["COMPOSE_PROJECT_NAME"] = stack.project
    before = stack.inspect("primary")["Id"]
    output = other.eds("up", code=1)
    assert "COMPOSE_PROJECT_NAME" in output
    assert "another checkout" in output
    # Nor does it stop or destroy what is not its own.
    other.eds("down")
    other.eds("nuke", "--force")
    assert stack.inspect("primary")["Id"] == before
    assert stack.value("primary", "select count(*) > 0 from operational.payments") is True


def test_a_port_that_is_taken_is_named_before_anything_starts(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path)
    other.values["WAREHOUSE_PORT"] = stack.values["WAREHOUSE_PORT"]
    output = other.eds("up", code=1)
    assert f"WAREHOUSE_PORT={stack.values['WAREHOUSE_PORT']}" in output
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={other.project}") == ""


def test_an_optional_service_whose_image_cannot_be_pulled_is_left_out_with_a_notice(stack: Stack) -> None:
    runtime = stack.runtime
    runtime.compose.config["services"]["docs"]["image"] = "127.0.0.1:1/no-such-image:1"
    assert "connection refused" in str(runtime.compose.why_no_image("docs"))
    assert runtime._why_absent("docs") == "skipped: no image 127.0.0.1:1/no-such-image:1 on this machine"
    assert runtime.compose.why_no_image("primary") is None
    assert runtime._why_absent("primary") is None


def test_an_image_that_is_pinned_is_taken_by_its_digest_alone(stack: Stack) -> None:
    digest = f"sha256:{'0' * 64}"
    for service, setting in (("docs", "nginx_digest"), ("warehouse", "postgres_digest")):
        runtime = ComposeRuntime(stack.settings.model_copy(update={setting: digest}))
        assert runtime.compose.image(service).endswith(f"@{digest}")
        # The image of the tag is there, and is not it.
        assert stack.runtime.compose.has_image(service)
        assert not runtime.compose.has_image(service)


def test_volumes_that_are_gone_are_noticed_and_nothing_takes_their_place_unasked(stack: Stack) -> None:
    stack.eds("backup", "--kind", "operational")
    payments = stack.value("primary", "select count(*) from operational.payments")
    env_file = str(stack.runtime.files.folder / "compose.env")
    assert "has a loan book already" in stack.eds("up", "--fresh", code=1)
    # As after a failover: the note names another member.
    stack.eds("failover", "--to", "replica1", "--force")
    docker("compose", "--env-file", env_file, "--file", str(ROOT / "compose.yaml"), "down", "--volumes")
    refused = stack.eds("up", code=1)
    for text in (f"{stack.project}_replica1_data", "FRESH=1", "make restore", "backup_operational_"):
        assert text in refused, refused
    label = f"label=com.docker.compose.project={stack.project}"
    assert docker("volume", "ls", "--quiet", "--filter", label) == ""
    stack.eds("up", "--fresh")
    assert stack.value("primary", "select count(*) from operational.customers") == 0
    assert stack.runtime.cluster.primary_name == "primary"
    # Other tests have left dumps as well.
    dump = max(stack.settings.backups.glob("backup_operational_*.sql.gz"), key=lambda path: path.stat().st_mtime)
    stack.eds("restore", "--file", str(dump), "--force")
    assert stack.value("primary", "select count(*) from operational.payments") == payments


def test_nuke_reports_what_it_did_not_remove(stack: Stack) -> None:
    other = f"{stack.project}_by_hand"
    docker("volume", "create", "--label", f"com.docker.compose.project={stack.project}", other)
    try:
        assert f"volume {other}" in stack.runtime.leftovers()
    finally:
        docker("volume", "rm", other)


def test_nuke_destroys_this_project_and_nothing_else(stack: Stack) -> None:
    bystander, folder = f"{stack.project}_bystander", stack.runtime.files.folder
    docker("volume", "create", bystander)
    docker("network", "create", bystander)
    try:
        assert "FORCE=1" in stack.eds("nuke", code=1)
        assert stack.value("primary", "select 1") == 1
        output = stack.eds("nuke", "--force")
        assert stack.project in output
        label = f"label=com.docker.compose.project={stack.project}"
        for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
            assert docker(*kind, "--quiet", "--filter", label) == ""
        assert not stack.env_file.exists()
        assert not folder.exists()
        assert docker("volume", "inspect", "--format", "{{.Name}}", bystander) == bystander
    finally:
        docker("volume", "rm", bystander)
        docker("network", "rm", bystander)
