"""Changes to the distributed Map of moto's interpreter; see ``interpreter.py``.

moto counts failed children and goes on, whatever the Map tolerates, and knows no EXPRESS children.
"""

from __future__ import annotations

from typing import Any

EXPRESS = "EXPRESS"
"""Comment of an ItemProcessor whose children are EXPRESS; moto's grammar takes no other sign."""


def enable(express_seconds: int) -> None:
    """Apply the changes; call once.

    Parameters
    ----------
    express_seconds
        How long an EXPRESS child may take.
    """
    _iterate_workers()
    _limit_express_children(express_seconds)


def _iterate_workers() -> None:
    """Let a worker take its items in a loop, and end the Map when more failed than it tolerates.

    moto's worker calls itself once an item, so that 2,000 items on 2 workers overflow the stack.
    """
    from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration.itemprocessor import (  # noqa: E501
        distributed_item_processor_worker as module,
    )

    def eval_pool(self: Any, job: Any, worker_frame: Any) -> None:
        while job is not None:
            job_frame = worker_frame.open_inner_frame()
            self._eval_job(env=job_frame, job=job)
            _count_time_out(self._map_run_record, job_frame, job)
            if _is_over_tolerance(self._map_run_record, self._job_pool):
                job.job_output = _exceeded(worker_frame)
            worker_frame.delete_frame(job_frame)
            last = isinstance(job.job_output, Exception) or self.stopped()
            following = None if last else self._job_pool.next_job()
            if following is None:
                # Before the job is closed: the Map goes on as soon as the last one is.
                self._env.delete_frame(worker_frame)
            self._job_pool.close_job(job)
            job = following

    module.DistributedItemProcessorWorker._eval_pool = eval_pool  # type: ignore[method-assign]


def _limit_express_children(seconds: int) -> None:
    """Give the program of an EXPRESS child its limit; moto runs it with none."""
    from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import TimeoutSeconds
    from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration import (
        distributed_iteration_component as module,
    )

    make = module.DistributedIterationComponent._get_iteration_program

    def get_iteration_program(self: Any) -> Any:
        program: Any = make(self)
        if self._comment is not None and self._comment.comment == EXPRESS:
            program.timeout_seconds = TimeoutSeconds(timeout_seconds=seconds)
        return program

    component: Any = module.DistributedIterationComponent
    component._get_iteration_program = get_iteration_program


def _count_time_out(record: Any, job_frame: Any, job: Any) -> None:
    """Count a child that timed out as such: moto counts it among those that succeeded."""
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramTimedOut

    if isinstance(job_frame.program_state(), ProgramTimedOut):
        job.job_output = None
        for counter in (record.item_counter, record.execution_counter):
            counter.succeeded.offset(-1)
            counter.results_written.offset(-1)
            counter.timed_out.count()


def _is_over_tolerance(record: Any, pool: Any) -> bool:
    """Say whether more children failed than the Map's percentage or number, by default none."""
    counter = record.item_counter
    failed = counter.failed.get() + counter.timed_out.get()
    percentage, number = record.tolerated_failure_percentage, record.tolerated_failure_count
    if failed == 0:
        return False
    if not percentage and not number:
        return True
    share = 100 * failed / pool._jobs_number
    return bool((percentage and share > percentage) or (number and failed > number))


def _exceeded(env: Any) -> Exception:
    """Return the error with which a Map fails that tolerates no more failures."""
    from moto.stepfunctions.parser.api import ExecutionFailedEventDetails, HistoryEventType
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import (
        StatesErrorName,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
        StatesErrorNameType,
    )
    from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

    kind = StatesErrorNameType.StatesExceedToleratedFailureThreshold
    details = ExecutionFailedEventDetails(
        error=kind.to_name(), cause="The specified tolerated failure threshold was exceeded"
    )
    made: Any = EventDetails
    event = FailureEvent(
        env=env,
        error_name=StatesErrorName(typ=kind),
        event_type=HistoryEventType.ExecutionFailed,
        event_details=made(executionFailedEventDetails=details),
    )
    return FailureEventException(failure_event=event)
