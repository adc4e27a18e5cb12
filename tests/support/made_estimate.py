"""An estimate as the component writes it, without a probe."""

from mafunzo.entities.estimate import Estimate, Range, SplitRows


def made_estimate() -> Estimate:
    """Return an estimate with a round number everywhere."""
    return Estimate(
        model="tiny-llama:1",
        rows={"train": SplitRows(50, 48, 8390, {"it has no assistant message": 2}), "test": SplitRows(6, 6, 1000, {})},
        tokens=25_170,
        steps=36,
        epochs=3.0,
        rows_per_step=4,
        evaluations=1,
        saves=1,
        start_s=6.0,
        time_s=Range(7200.0, 6000.0, 8400.0),
        memory_bytes=Range(2 * 10**9, 1_800_000_000, 2_200_000_000),
        free_memory_bytes=8 * 10**9,
        disk_bytes=3 * 10**8,
        free_disk_bytes=10**10,
        device="cpu",
        computed_in="float32",
        forward_tokens=512,
        plan="up to 512 tokens in a forward pass",
        stops_early=False,
        probed_passes=32,
    )
