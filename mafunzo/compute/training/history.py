"""The history of a run: numbers over steps, kept in the state (so in checkpoints) and logged as the step's metrics."""

from collections.abc import Mapping

from mafunzo.compute.training.run import Run
from mafunzo.compute.training.state import TrainingState


class History:
    """Accumulates the steps' metrics, and logs them when due."""

    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run, self._state = run, state
        if not state.since_log:
            self._clear()

    def add(self, loss: float, counts: Mapping[str, float], grad_norm: float, learning_rate: float) -> None:
        """Count a step in."""
        sums = self._state.since_log
        sums["loss"] += loss
        sums["steps"] += 1
        for name, count in counts.items():
            sums[name] += count
        sums |= {"grad_norm": grad_norm, "learning_rate": learning_rate}

    def write_if_due(self) -> None:
        """Log the accumulated metrics, every `logging_steps` steps or each epoch, and after the last step."""
        step, order, arguments = self._state.step, self._run.order, self._run.arguments
        interval = order.steps_per_epoch if arguments.logging_strategy == "epoch" else arguments.logging_steps
        if step % interval == 0 or step == order.total_steps:
            self.write_steps()

    def write_steps(self) -> None:
        """Write the mean loss and the metrics of the steps since this was last done, if there are any."""
        sums = self._state.since_log
        if not sums["steps"]:
            return
        self.write(
            {
                "loss": sums["loss"] / sums["steps"],
                "grad_norm": sums["grad_norm"],
                "learning_rate": sums["learning_rate"],
                **self._run.objective.metrics(sums),
                "num_tokens": self._state.tokens,
            }
        )
        self._clear()

    def write(self, numbers: Mapping[str, float]) -> None:
        """Write numbers at the current step."""
        step = self._state.step
        entry = {**numbers, "epoch": round(self._run.order.epoch_after(step), 6)}
        self._state.history.append({**entry, "step": step})
        self._run.request.metrics.log(step, entry)

    def _clear(self) -> None:
        self._state.since_log = {"loss": 0.0, "steps": 0, **dict.fromkeys(self._run.objective.counts, 0)}
