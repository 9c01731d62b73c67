"""Changes to moto's interpreter that users rely on."""

import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent("""
    import datetime, threading, time
    from types import SimpleNamespace
    from cosmicai_workbench.cloud import interpreter
    from cosmicai_workbench.cloud.credentials import Keys

    interpreter.enable(lambda role: Keys.new(), "http://127.0.0.1:9", 300)
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramEnded
    from moto.stepfunctions.parser.backend import execution as backend

    reading = threading.Event()

    def slow_output():
        reading.set()
        time.sleep(0.3)
        return {"ranks": 11}

    ended = object.__new__(backend.Execution)
    ended.__dict__.update(
        exec_arn="arn", name="n", input_data={}, input_details=None, trace_header=None,
        state_machine=SimpleNamespace(arn="m"), start_date=datetime.datetime.now(),
        stop_date=None, exec_status=backend.ExecutionStatus.RUNNING, output=None,
        output_details=None, error=None, cause=None,
        exec_worker=SimpleNamespace(env=SimpleNamespace(
            program_state=lambda: object.__new__(ProgramEnded),
            states=SimpleNamespace(get_input=slow_output),
        )),
    )
    worker = backend.BaseExecutionWorkerCommunication(ended)
    thread = threading.Thread(target=worker.terminated)
    thread.start()
    assert reading.wait(5)
    described = ended.to_describe_output()
    thread.join()
    print(described["status"].value, described["output"])
""")


def test_an_execution_that_has_ended_has_its_output() -> None:
    # In a process of its own: enabling the interpreter changes moto for good.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == 'SUCCEEDED {"ranks":11}', done.stderr
