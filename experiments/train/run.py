"""
One run: an arm, a seed and a folder. The run writes its record while it trains, resumes exactly
where it was killed, and ends with a result.
"""

from __future__ import annotations

import contextlib
import math
import signal
from pathlib import Path
from typing import Any

import torch

from experiments.declare.spec import Spec
from experiments.records import codefiles
from experiments.records.record import RunFiles, now
from experiments.system import NO_ROOM
from experiments.train import account
from experiments.train.evaluate import evaluate
from experiments.train.forecast import Forecast
from experiments.train.observer import Observer
from experiments.train.process import relayed
from experiments.train.resume import (
    clear_leftovers,
    earlier_record,
    identity,
    log_so_far,
    own_checkpoint,
    requeued,
)
from experiments.train.sample import final_sample
from experiments.train.seeded import SeededTrainer, build_model, row_length
from experiments.train.unusual import Spikes, beginning
from experiments.train.writer import Bystander, Writer, mark_interrupted
from experiments.weights import checkpoint
from mingpt.parallel.processes import Processes, is_lost
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN


class Run:
    """One training run and its files. `execute` trains and returns the exit code. Several
    `processes` may execute one run together; then the first of them writes the files."""

    def __init__(self, spec: Spec, seed: int, out: Path, corpus, command: str = "",
                 observer: Any = None, name: str | None = None,
                 processes: Processes | None = None):
        self.processes = processes or Processes()
        self.seed, self.corpus, self.observer = seed, corpus, observer or Observer()
        self.files = RunFiles(Path(out), spec.study.name if spec.study else None, name or spec.arm,
                              seed)
        self.settings, self.limits = spec.settings, spec.settings.run
        self._heard: int | None = None                      # the signal that this process got
        self.statistics: dict[str, Any] = {}                # what the model counts about itself
        self.writer = (Writer if self.processes.first else Bystander)(
            self.files, self.observer.say, lambda: self._heard)
        self.record = account.new_record(spec, self.files, corpus.describe(), command)
        self.record["processes"] = account.hosts(self.processes)

    # -- from start to end -------------------------------------------------------------------------

    def execute(self, resume: str = "auto") -> int:
        """Train to the end and return the exit code. `resume` is "auto" (continue an earlier
        attempt, if there is one) or "restart". Raises BadInput where the run cannot start."""
        source = self.limits.init
        if source and Path(source).resolve() == self.files.checkpoint.resolve():
            raise BadInput(f"--init {source} is this run's own checkpoint, which it would "
                           f"overwrite: give another --out or --arm")
        resume, code = self.processes.agree(lambda: self._begin(resume))
        if code is not None:
            return code
        self._prepare()                                     # raises before anything is written
        with self.writer.locked():
            # another run may have finished it meanwhile
            code = self.processes.agree(lambda: self._already(resume))
            if code is not None:
                return code
            self._restore(resume)
            if self.state and self.state.get("result"):
                return self._complete()
            with relayed(self._ask_to_end, (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)):
                lost = self._train()
            return self._conclude() if lost is None else lost

    def _train(self) -> int | None:
        """Train to the end or to the first interruption. Returns the exit code where another
        process has ended, so that nothing can be saved, else None."""
        try:
            self.trainer.run()
        except Exception as error:
            if is_lost(error):
                return self._lost()
            if self._heard and isinstance(error, OSError) and error.errno in NO_ROOM:
                return account.INTERRUPTED      # asked to end while it waited for room
            # On a full disk _finish fails too; the first error is the one to report.
            with contextlib.suppress(OSError):
                self._finish("failed", f"{type(error).__name__}: {error}")
            raise
        return None

    def _lost(self) -> int:
        """Another process has ended: end the record, in place of the first process where that is
        the one. The run continues from its last checkpoint."""
        if self.processes.first:
            return self._end("interrupted", "another process of this run has ended")
        mark_interrupted(self.files, "the first process of this run has ended")
        return account.INTERRUPTED

    def _begin(self, resume: str) -> tuple[str, int | None]:
        """What this start does about an earlier one: (the value of `resume`, the exit code where
        the run is finished already)."""
        resume = requeued(resume, self.files)
        return resume, self._already(resume)

    def _already(self, resume: str) -> int | None:
        """The exit code if an earlier attempt finished this run, else None."""
        earlier = (None if resume == "restart"
                   else earlier_record(self.files, self.record, self.settings))
        if not earlier or earlier["status"] not in ("done", "diverged"):
            return None
        self.observer.say(f"{self.files.name} is {earlier['status']} already: {self.files.json}")
        return account.exit_code(earlier["status"])

    def _prepare(self) -> None:
        """Build the model and the trainer, and audit the model. Raises BadInput where the audit
        fails, and for an error in the user's own code."""
        with codefiles.blaming():
            self._build()

    def _build(self) -> None:
        settings, limits = self.settings, self.limits
        if limits.threads:
            torch.set_num_threads(limits.threads)
        seed = self.seed + limits.seed_offset
        T = row_length(settings)
        batches = self.corpus.train(T, settings.trainer.batch_size, seed)
        account.refuse_repeats(batches, settings)
        self.validation = self.corpus.validation(T, settings.data.val_tokens)
        self.record["data"]["validation"] = self.corpus.identify(self.validation)
        self.record["notes"] += account.validation_note(self.validation.tokens,
                                                        settings.data.val_tokens)
        self.eval_batch = limits.eval_batch_size or settings.trainer.batch_size
        # Where the processes share one model, the first audits a whole one, on the CPU.
        sharded = self.processes.sharded
        whole = (self._trainer(batches, Processes()) if self.processes.first or not sharded
                 else None)
        self.record |= self.processes.agree(lambda: account.describe_built(
            self.record, self.files, whole, settings))
        self.trainer = self._trainer(batches, self.processes) if sharded else whole
        self.flops_per_step = (self.record["model"]["flops_per_token"] * batches.positions_per_batch
                               * settings.trainer.accumulation_steps)  # padding is computed as well
        self.trainer.add_callback("on_train_start", self._start)
        self.trainer.add_callback("on_iteration_end", self._after_iteration)

    def _trainer(self, batches: Any, processes: Processes) -> SeededTrainer:
        """A trainer of a new model, of which each of the `processes` may hold a part."""
        seed = self.seed + self.limits.seed_offset
        model = build_model(self.settings, self.corpus, seed, processes=processes)
        config = self.settings.trainer
        if self.processes.sharded and not processes.sharded:    # a device may not hold it whole
            config = CN(**{**config.to_dict(), "device": "cpu"})
        return SeededTrainer(config, model, batches, seed, self.processes)

    def _restore(self, resume: str) -> None:
        """Load the state of an interrupted run, if there is one. A restart discards the old
        checkpoint first."""
        self.state, told, self.before = self.processes.agree(lambda: self._saved(resume))
        if self.state:
            checkpoint.load_model(self.files.checkpoint, self.trainer.model, state=self.state)
            self.record["start"] = self.state.get("start")
            self.record["id"] = self.state.get("run", self.record)["id"]
        self.record |= self.processes.agree(
            lambda: beginning(self.files, self.record, self.state))
        if told:
            self.observer.say(f"  {told}")

    def _saved(self, resume: str) -> tuple[dict[str, Any] | None, str | None, bytes | None]:
        """(the state to resume from, a sentence for the user, the CSV up to then), each None where
        there is none."""
        clear_leftovers(self.files)
        if resume == "restart":
            checkpoint.discard(self.files.checkpoint)
        state, told = own_checkpoint(self.files, self.record, self.settings)
        if state:
            checkpoint.tidy(self.files.checkpoint)
        return state, told, state and log_so_far(self.files, state, self.observer.say)

    def _start(self, trainer: Trainer) -> None:
        """Before the first iteration: restore counts and optimizer, or write the first row."""
        self.count = account.Counters()
        if self.state:
            self.count = account.Counters.from_state(self.state)
            checkpoint.load_optimizer(self.files.checkpoint, self.state, trainer.model,
                                      trainer.optimizer)
            trainer.iter_num = self.state["iteration"]
            if self.count.tokens is None:  # an older checkpoint: count in the batches again
                self.count.tokens = trainer.targets_in(trainer.iter_num)
                self.count.row_tokens = trainer.targets_in(self.count.row_iteration)
        self.outcome = ("done", None)
        self.forecast = Forecast(trainer.config.max_iters, self.limits.eval_every,
                                 self.limits.checkpoint_every, trainer.iter_num,
                                 self.count.seconds)
        self.record["progress"] = {"iteration": trainer.iter_num,
                                   "max_iters": trainer.config.max_iters}
        # The record is written before the CSV, so that no rows exist without a record.
        self.writer.record(self.record, wait=False)     # a disk that is full already is refused
        self.writer.open_log(self.before, self.validation.source_columns)
        self.spikes = Spikes(self.before)
        self.observer.start(self, resumed_at=trainer.iter_num if self.state else None)
        if not self.state:
            self._evaluate(trainer)
            self._row(trainer, loss=None)
        self.forecast.rehearsed(trainer.rehearse(self.limits.rehearsals))
        if self.limits.rehearsals:
            self.record["progress"] |= self.forecast.progress()
            self.writer.record(self.record)
        self.observer.ready(self)
        self.count.start_clock()

    # -- every iteration ---------------------------------------------------------------------------

    def _after_iteration(self, trainer: Trainer) -> None:
        """Log, evaluate, save and stop, each when it is due. An iteration in which nothing is due
        does not wait for the device."""
        n, last = trainer.iter_num, trainer.iter_num == trainer.config.max_iters
        self.count.add(trainer)
        evaluate_now = last or n % self.limits.eval_every == 0
        if evaluate_now or n % self.limits.log_every == 0:
            loss = self.count.mean_loss()   # waits for the device, so the clock is read after it
            self.count.tick()
            if evaluate_now and math.isfinite(loss):
                self._evaluate(trainer)
            self._row(trainer, loss, measured=evaluate_now)
            self._check(trainer, loss)
            self.count.start_clock()
        asked = self.processes.signal
        if not trainer.stop and not last and (asked or n % self.limits.checkpoint_every == 0):
            self.count.tick()
            self._save(trainer)
            self.count.start_clock()
        if asked and not trainer.stop and not last:
            self._stop(trainer, "interrupted", f"signal {signal.Signals(asked).name}")

    def _evaluate(self, trainer: Trainer) -> None:
        """Measure the validation loss, and note whether it is the best so far."""
        found = evaluate(trainer.model, self.validation, self.eval_batch, trainer.autocast(),
                         self.processes)
        if self.count.add_evaluation(found, trainer.iter_num) and self.limits.keep_best:
            self.count.best["file"] = self.writer.best(
                trainer.iter_num, checkpoint.model_tensors(trainer.model, self.processes.first))

    def _row(self, trainer: Trainer, loss: float | None, measured: bool = True) -> None:
        """Write one row of the CSV and bring the record's progress up to date. Without `measured`
        the row has no val_loss."""
        memory, self.statistics = account.shared(self.processes, trainer)
        row = self.count.row(trainer, loss, self.flops_per_step, measured, memory)
        self.writer.row(row)
        self.spikes.add(row["iteration"], row["loss"])
        if self.spikes.found:
            self.record["spikes"] = self.spikes.found
        self.forecast.row(row["iteration"], row["seconds"], measured)
        shown = {key: row[key] for key in ("loss", "val_loss", "tokens_per_second")
                 if row[key] is not None}
        self.record["progress"] |= {"iteration": row["iteration"], "seconds": row["seconds"],
                                    **self.forecast.progress(), **shown,
                                    **self.statistics}
        self.writer.record(self.record)
        self.observer.row(row, self.count.evaluation)

    def _check(self, trainer: Trainer, loss: float) -> None:
        """Stop the run where it has diverged, or where its patience is used up."""
        if not math.isfinite(loss) or not math.isfinite(self.count.evaluation["val_loss"]):
            self._stop(trainer, "diverged", f"loss {loss} at iteration {trainer.iter_num}")
        elif (self.limits.patience is not None
              and self.count.bad_evaluations >= self.limits.patience):
            self._stop(trainer, "done",
                       f"no better evaluation in {self.count.bad_evaluations}: stopped early")

    def _stop(self, trainer: Trainer, status: str, message: str) -> None:
        trainer.stop, self.outcome = True, (status, message)

    def _save(self, trainer: Trainer, result: dict[str, Any] | None = None) -> None:
        """Save a checkpoint. With a result the run is finished, so the optimizer is left out."""
        built = codefiles.without_unused({"model": trainer.model.config.to_dict()})
        state = {"start": self.record["start"], "run": identity(self.record),
                 **self.count.to_dict(), **built,
                 "tokenizer": self.settings.data.tokenizer,
                 "result": result, "message": self.outcome[1]}
        model, keep = trainer.model, self.processes.first
        optimizer = (checkpoint.optimizer_tensors(model, trainer.optimizer, keep)
                     if result is None else None)
        self.writer.checkpoint(trainer.iter_num, checkpoint.model_tensors(model, keep), optimizer,
                               state)

    # -- the end -----------------------------------------------------------------------------------

    def _conclude(self) -> int:
        """Save the result of a finished run, end its record, and return the exit code."""
        status, message = self.outcome
        if status == "done":
            memory, counted = account.shared(self.processes, self.trainer)
            self.record["result"] = {**self.count.result(self.trainer, self.flops_per_step, memory),
                                     **counted}
            self._save(self.trainer, self.record["result"])
        return self._end_with_sample(status, message)

    def _complete(self) -> int:
        """Write the final record of a run that was killed after its last checkpoint and before that
        record."""
        self.writer.open_log(self.before, self.validation.source_columns)
        self.trainer.iter_num, self.record["result"] = self.state["iteration"], self.state["result"]
        self.record["progress"] = {"iteration": self.state["iteration"],
                                   "max_iters": self.settings.trainer.max_iters,
                                   "seconds": self.state.get("seconds")}
        return self._end_with_sample("done", self.state.get("message"))

    def _end_with_sample(self, status: str, message: str | None) -> int:
        """End the record, with a sample of text where the run is done."""
        if status == "done" and self.processes.first:
            self.record["sample"] = self._sample()
        return self._end(status, message)

    def _end(self, status: str, message: str | None) -> int:
        """End the record, tell the observer, and return the exit code."""
        self._finish(status, message)
        self.observer.end(self, status, message)
        return account.exit_code(status)

    def _finish(self, status: str, message: str | None) -> None:
        """Write the status and the end into the record, and close the CSV."""
        self.record |= {"status": status, "message": message, "end": now()}
        # a failed run perhaps cannot write, and does not wait for room
        self.writer.record(self.record, wait=status != "failed")
        self.writer.close()

    def _sample(self) -> dict[str, Any] | None:
        """A sample of text for the record. None where it cannot be drawn, because a sample must not
        cost the result."""
        try:
            model = self.trainer.model
            if self.processes.sharded:      # this process draws alone, from the whole model
                model = build_model(self.settings, self.corpus, self.seed, fetch=False)
                checkpoint.load_model(self.files.checkpoint, model)
            return final_sample(model, self.corpus.tokenizer, self.limits, self.seed)
        except Exception as error:
            self.observer.say(f"no sample of text: {type(error).__name__}: {error}")
            return None

    def _ask_to_end(self, number: int, frame: Any) -> None:
        """Handle SIGTERM, SIGUSR1 and Ctrl-C: the run saves a checkpoint and ends. A second Ctrl-C
        ends it at once."""
        if self._heard == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._heard = number
        self.processes.ask_to_end(number)
