"""Make the state machine definition that deploys fit for the local interpreter.

Nothing of what the states do changes. The interpreter (moto's) takes STANDARD children only, and
wants failure percentages as decimals.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

from cosmicai_workbench.cloud.map_runs import EXPRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.cloud.template import StateMachine


def load_definition(machine: StateMachine) -> str:
    """Read a definition, fill in its substitutions and adapt it to the local interpreter.

    Raises
    ------
    InvalidInput
        If it cannot be read, is not JSON, or uses a substitution that the template does not give.
    """
    try:
        text = machine.definition.read_text()
    except OSError as error:
        raise InvalidInput(f"cannot read the definition of {machine.name}: {error}") from error

    def value(match: re.Match[str]) -> str:
        try:
            return machine.substitutions[match[1]]
        except KeyError:
            raise InvalidInput(
                f"{machine.definition} uses ${{{match[1]}}}, which DefinitionSubstitutions of "
                f"{machine.name} does not give"
            ) from None

    try:
        definition = json.loads(re.sub(r"\$\{(\w+)\}", value, text))
    except ValueError as error:
        raise InvalidInput(f"{machine.definition} is not JSON: {error}") from error
    for state in _maps(definition):
        processor = state.get("ItemProcessor", {})
        config = processor.get("ProcessorConfig", {})
        if config.get("ExecutionType") == EXPRESS:
            config["ExecutionType"] = "STANDARD"
            processor["Comment"] = EXPRESS  # tells the interpreter of the limit in time
        if "ToleratedFailurePercentage" in state:
            state["ToleratedFailurePercentage"] = float(state["ToleratedFailurePercentage"])
    return json.dumps(definition)


def _maps(program: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every Map state of a program, however deep."""
    for state in program.get("States", {}).values():
        if state.get("Type") == "Map":
            yield state
            yield from _maps(state.get("ItemProcessor", state.get("Iterator", {})))
        for branch in state.get("Branches", []):
            yield from _maps(branch)
