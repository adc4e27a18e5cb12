from mafunzo.compute.device.topology import sockets


def test_cores_are_counted_by_their_socket(tmp_path):
    for core, socket in enumerate((0, 0, 1, 1)):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{socket}\n")
    assert sockets(tmp_path) == 2


def test_a_machine_that_does_not_say_has_one(tmp_path):
    assert sockets(tmp_path) == 1
