"""
One run: an arm, a seed and a folder. The run writes its record while it trains, resumes exactly
where it was killed, and ends with a result.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.audit import audit, first_failure
from experiments.declare.spec import Spec
from experiments.records.record import (
    SCHEMA,
    Log,
    RunFiles,
    code_version,
    config_hash,
    environment,
    new_id,
    now,
    process,
    read_record,
    write_record,
)
from experiments.train.evaluate import evaluate
from experiments.train.observer import Observer
from experiments.train.process import peak_memory_mb, relayed
from experiments.train.resume import (
    Counters,
    changed_data,
    changed_settings,
    clear_leftovers,
    holds_rows,
    identity,
    listed,
    log_so_far,
    own_checkpoint,
    requeued,
)
from experiments.train.seeded import SeededTrainer, build_model, describe_model, row_length
from experiments.weights import checkpoint
from experiments.weights.begin import audit_options
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX, BadInput

DONE, FAILED, INTERRUPTED = 0, 1, 3   # exit codes; run_single.sh knows 3


class Run:
    """One training run and its files. `execute` trains and returns the exit code."""

    def __init__(self, spec: Spec, seed: int, out: Path, corpus, command: str = "",
                 observer: Any = None, name: str | None = None):
        self.spec, self.seed, self.corpus, self.observer = (
            spec, seed, corpus, observer or Observer())
        self.files = RunFiles(Path(out), spec.study.name if spec.study else None, name or spec.arm,
                              seed)
        self.settings, self.limits = spec.settings, spec.settings.run
        self.signal: int | None = None
        self.record = {"schema": SCHEMA, "study": self.files.study,
                       "study_hash": spec.study.hash if spec.study else None,
                       "declaration": spec.study.declaration(spec.arm) if spec.study else None,
                       "match": spec.match and spec.match.to_dict(), "arm": self.files.arm,
                       "seed": seed, "id": new_id(), "notes": [spec.note] if spec.note else [],
                       "status": "running", "message": None, "process": process(),
                       "command": command,
                       "changes": spec.changes, "config": spec.settings.to_dict(),
                       "config_hash": config_hash(spec.settings.to_dict()), "preset": spec.preset,
                       "code": code_version(), "data": corpus.describe(), "start": now(),
                       "end": None, "result": None}

    # -- from start to end -------------------------------------------------------------------------

    def execute(self, resume: str = "auto") -> int:
        """Train to the end and return the exit code. `resume` is "auto" (continue an earlier
        attempt, if there is one) or "restart". Raises BadInput where the run cannot start."""
        source = self.limits.init
        if source and Path(source).resolve() == self.files.checkpoint.resolve():
            raise BadInput(f"--init {source} is this run's own checkpoint, which it would "
                           f"overwrite: give another --out or --arm")
        resume = requeued(resume, self.files)
        if (code := self._already(resume)) is not None:
            return code
        self._prepare()                                     # raises before anything is written
        with checkpoint.locked(self.files.checkpoint):
            if (code := self._already(resume)) is not None:
                return code                                 # another process finished it meanwhile
            self._restore(resume)
            if self.state and self.state.get("result"):
                return self._complete()
            try:
                with self._signals():
                    self.trainer.run()
            except Exception as error:
                # On a full disk _finish fails too; the first error is the one to report.
                with contextlib.suppress(OSError):
                    self._finish("failed", f"{type(error).__name__}: {error}")
                raise
            return self._conclude()

    def _already(self, resume: str) -> int | None:
        """The exit code if an earlier attempt finished this run, else None."""
        earlier = None if resume == "restart" else self._earlier()
        if not earlier or earlier["status"] not in ("done", "diverged"):
            return None
        self.observer.say(f"{self.files.name} is {earlier['status']} already: {self.files.json}")
        return DONE if earlier["status"] == "done" else FAILED

    def _earlier(self) -> dict | None:
        """The record of an earlier attempt, or None. Raises BadInput where its settings or data
        differ from this run's."""
        if not self.files.json.exists():
            if holds_rows(self.files.csv) and checkpoint.read_state(self.files.checkpoint) is None:
                raise BadInput(f"{self.files.csv} holds rows, but neither a record nor a "
                               f"checkpoint says of which run: move it away, or use "
                               f"--resume restart")
            return None
        earlier = read_record(self.files.json)
        changed = changed_settings(earlier["config"], self.settings)
        if earlier["data"].get("hash") != self.record["data"].get("hash"):
            changed |= changed_data(earlier["config"], self.record["config"], changed)
        if changed:
            raise BadInput(f"{self.files.json}: {earlier['status']} under other settings: "
                           f"{listed(changed)}; give another --out or --arm, or use "
                           f"--resume restart")
        return earlier

    def _prepare(self) -> None:
        """Build the model and the trainer, and audit the model. Raises BadInput where the audit
        fails."""
        settings, limits = self.settings, self.limits
        if limits.threads:
            torch.set_num_threads(limits.threads)
        seed = self.seed + limits.seed_offset
        model = build_model(settings, self.corpus, seed)
        T = row_length(settings)
        batches = self.corpus.train(T, settings.trainer.batch_size, seed)
        self.validation = self.corpus.validation(T, settings.data.val_tokens)
        self.record["data"]["validation"] = self.corpus.identify(self.validation)
        self._note_validation()
        self.eval_batch = limits.eval_batch_size or settings.trainer.batch_size
        self.trainer = SeededTrainer(settings.trainer, model, batches, seed)
        self.flops_per_step = (model.flops_per_token(T) * batches.positions_per_batch
                               * settings.trainer.accumulation_steps)  # padding is computed as well
        self.record |= {"environment": environment(self.trainer.device),
                        "model": describe_model(model, T),
                        "init": model.begun,
                        "audit": audit(model, settings.trainer, batches, **audit_options(settings))}
        failure = first_failure(self.record["audit"])
        if failure and not limits.allow_audit_fail:
            raise BadInput(f"audit of {self.files.arm}: {failure}; --allow-audit-fail trains it "
                           f"anyway")
        self.trainer.add_callback("on_train_start", self._start)
        self.trainer.add_callback("on_iteration_end", self._after_iteration)

    def _note_validation(self) -> None:
        """Add a note to the record where the validation set is much smaller than asked for."""
        found, asked = self.validation.tokens, self.settings.data.val_tokens
        if found < 0.9 * asked:
            self.record["notes"].append(f"the validation set has {found:,} tokens, where "
                                        f"data.val_tokens asks for {asked:,}: the held-out "
                                        f"documents have no more")

    def _restore(self, resume: str) -> None:
        """Load the state of an interrupted run, if there is one. A restart discards the old
        checkpoint first."""
        clear_leftovers(self.files)
        if resume == "restart":
            checkpoint.discard(self.files.checkpoint)
        self.state, told = own_checkpoint(self.files, self.record, self.settings)
        self.before = None                                  # the CSV up to the checkpoint
        if self.state:
            self.before = log_so_far(self.files, self.state, self.observer.say)
            checkpoint.load_model(self.files.checkpoint, self.trainer.model, state=self.state)
            self.record["start"] = self.state["start"]
            self.record["id"] = self.state.get("run", self.record)["id"]
        if told:
            self.observer.say(f"  {told}")

    def _start(self, trainer: Trainer) -> None:
        """Before the first iteration: restore counts and optimizer, or write the first row."""
        self.count = Counters()
        if self.state:
            self.count = Counters.from_state(self.state)
            checkpoint.load_optimizer(self.files.checkpoint, self.state, trainer.model,
                                      trainer.optimizer)
            trainer.iter_num = self.state["iteration"]
            if self.count.tokens is None:  # an older checkpoint: count in the batches again
                self.count.tokens = self._targets_of(trainer.iter_num)
                self.count.row_tokens = self._targets_of(self.count.row_iteration)
        self.outcome = ("done", None)
        self.record["progress"] = {"iteration": trainer.iter_num,
                                   "max_iters": trainer.config.max_iters}
        # The record is written before the CSV, so that no rows exist without a record.
        write_record(self.files.json, self.record)
        self.log = Log(self.files.csv, self.before)
        self.observer.start(self, resumed_at=trainer.iter_num if self.state else None)
        if not self.state:
            self._evaluate(trainer)
            self._row(trainer, loss=None)
        trainer.rehearse(self.limits.rehearsals)
        self.clock = time.perf_counter()

    def _targets_of(self, iterations: int) -> int:
        """The number of predicted tokens in the first `iterations` iterations."""
        steps = range(iterations * self.settings.trainer.accumulation_steps)
        return sum(int((self.trainer.train_dataset.batch(t)[1] != IGNORE_INDEX).sum())
                   for t in steps)

    # -- every iteration ---------------------------------------------------------------------------

    def _after_iteration(self, trainer: Trainer) -> None:
        """Log, evaluate, save and stop, each when it is due. An iteration in which nothing is due
        does not wait for the device."""
        n, last = trainer.iter_num, trainer.iter_num == trainer.config.max_iters
        self.count.loss_sum = self.count.loss_sum + trainer.loss.double()
        self.count.loss_count += 1
        self.count.tokens += trainer.targets
        evaluate_now = last or n % self.limits.eval_every == 0
        if evaluate_now or n % self.limits.log_every == 0:
            # float() waits for the device, so the clock is read after it.
            loss = float(self.count.loss_sum) / self.count.loss_count
            self._tick()
            if evaluate_now and math.isfinite(loss):
                self._evaluate(trainer)
            self._row(trainer, loss, measured=evaluate_now)
            self._check(trainer, loss)
            self.clock = time.perf_counter()
        if not trainer.stop and not last and (self.signal or n % self.limits.checkpoint_every == 0):
            self._tick()
            self._save(trainer)
            self.clock = time.perf_counter()
        if self.signal and not trainer.stop and not last:
            self._stop(trainer, "interrupted", f"signal {signal.Signals(self.signal).name}")

    def _tick(self) -> None:
        """Add the seconds since the last tick to the training time. The clock restarts after
        evaluating and saving, so their time does not count."""
        self.count.seconds += time.perf_counter() - self.clock
        self.clock = time.perf_counter()

    def _evaluate(self, trainer: Trainer) -> None:
        """Measure the validation loss, and note whether it is the best so far."""
        count = self.count
        count.evaluation = evaluate(trainer.model, self.validation, self.eval_batch,
                                    trainer.autocast())
        if count.best is None or count.evaluation["val_loss"] < count.best["val_loss"]:
            count.best = {"val_loss": count.evaluation["val_loss"], "iteration": trainer.iter_num}
            count.bad_evaluations = 0
            if self.limits.keep_best:
                name = f"best-{trainer.iter_num:06d}"
                count.best["file"] = checkpoint.save_weights(self.files.checkpoint, name,
                                                             trainer.model)
        else:
            count.bad_evaluations += 1

    def _row(self, trainer: Trainer, loss: float | None, measured: bool = True) -> None:
        """Write one row of the CSV and bring the record's progress up to date. Without `measured`
        the row has no val_loss."""
        n, count = trainer.iter_num, self.count
        tokens, seconds = count.tokens - count.row_tokens, count.seconds - count.row_seconds
        row = {"iteration": n, "loss": loss,
               "val_loss": count.evaluation["val_loss"] if measured else None,
               "learning_rate": trainer.lr if n else None,
               "grad_norm": float(trainer.grad_norm) if n else None,
               "tokens": count.tokens, "flops": n * self.flops_per_step, "seconds": count.seconds,
               "tokens_per_second": tokens / seconds if seconds > 0 else None,
               "peak_memory_mb": peak_memory_mb(trainer.device)}
        self.log.row(row)
        count.loss_sum, count.loss_count = 0.0, 0
        count.row_iteration, count.row_seconds, count.row_tokens = n, count.seconds, count.tokens
        self.record["progress"] |= {
            "iteration": n, "seconds": count.seconds,
            **{k: row[k] for k in ("loss", "val_loss", "tokens_per_second")
               if row[k] is not None}}
        if statistics := trainer.model.statistics():
            self.record["progress"]["statistics"] = statistics
        write_record(self.files.json, self.record)
        self.observer.row(row, count.evaluation)

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
        state = {"start": self.record["start"], "run": identity(self.record),
                 **self.count.to_dict(),
                 "model": trainer.model.config.to_dict(), "tokenizer": self.settings.data.tokenizer,
                 "result": result, "message": self.outcome[1]}
        checkpoint.save(self.files.checkpoint, trainer.iter_num, trainer.model,
                        trainer.optimizer if result is None else None, state, self.log.content())

    # -- the end -----------------------------------------------------------------------------------

    def _conclude(self) -> int:
        """Save the result of a finished run, end its record, and return the exit code."""
        status, message = self.outcome
        if status == "done":
            self.record["result"] = self._result()
            self._save(self.trainer, self.record["result"])
        self._finish(status, message)
        self.observer.end(self, status, message)
        return {"done": DONE, "interrupted": INTERRUPTED}.get(status, FAILED)

    def _complete(self) -> int:
        """Write the final record of a run that was killed after its last checkpoint and before that
        record."""
        self.log = Log(self.files.csv, self.before)
        self.trainer.iter_num, self.record["result"] = self.state["iteration"], self.state["result"]
        self.record["progress"] = {"iteration": self.state["iteration"],
                                   "max_iters": self.settings.trainer.max_iters,
                                   "seconds": self.state["seconds"]}
        self._finish("done", self.state["message"])
        self.observer.end(self, "done", self.state["message"])
        return DONE

    def _result(self) -> dict[str, Any]:
        """The result of a finished run, for its record."""
        n, count = self.trainer.iter_num, self.count
        best = {key: count.best[key] for key in ("val_loss", "iteration")}
        return {**count.evaluation, "best": best, "iterations": n, "tokens": count.tokens,
                "flops": n * self.flops_per_step,
                "tokens_per_second": count.tokens / count.seconds if count.seconds else None,
                "peak_memory_mb": peak_memory_mb(self.trainer.device), "seconds": count.seconds,
                **({"statistics": counted} if (counted := self.trainer.model.statistics()) else {})}

    def _finish(self, status: str, message: str | None) -> None:
        """Write the status and the end into the record, and close the CSV."""
        self.record |= {"status": status, "message": message, "end": now()}
        write_record(self.files.json, self.record)
        if hasattr(self, "log"):
            self.log.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """While inside, SIGTERM, SIGUSR1 and Ctrl-C make the run save a checkpoint and end. A
        second Ctrl-C ends it at once."""
        def ask(number: int, frame: Any) -> None:
            if self.signal == signal.SIGINT == number:
                raise KeyboardInterrupt
            self.signal = number
        with relayed(ask, (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)):
            yield
