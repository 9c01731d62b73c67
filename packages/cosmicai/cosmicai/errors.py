"""The named errors of CosmicAI.

The state machine matches on these class names (``Retry`` and ``Catch`` in
``statemachine/inference.asl.json``), so renaming one is a change of contract.
Every message says what was expected, what was found and what to do.
"""

import json
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

LONGEST_MESSAGE = 2000
"""Characters of an error's message: whatever it quotes, it stays readable."""


def load_json(text: str | bytes) -> Any:
    """Return the document of a JSON text from outside.

    Raises
    ------
    ValueError
        If it is not JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def problems_of(error: "ValidationError", model: "type[BaseModel] | None" = None) -> str:
    """Return what pydantic found wrong, in a line; ``model`` says which keys are known."""
    problems = []
    for problem in error.errors(include_url=False):
        steps = [str(at) for at in problem["loc"] if not str(at).startswith("function")]
        key = ".".join(steps)
        found = json.dumps(problem["input"], default=str)[:80]
        if problem["type"] == "missing":
            problems.append(f"key {key!r} is missing")
        elif problem["type"] == "extra_forbidden":
            fields = model.model_fields if model and len(steps) == 1 else {}
            known = ", ".join(field.alias or name for name, field in fields.items())
            problems.append(f"unknown key {key!r}" + (f"; known keys: {known}" if known else ""))
        else:
            message = problem["msg"].removeprefix("Value error, ")
            where = f"key {key!r}: " if key else ""
            problems.append(f"{where}{message}" + (f" (found {found})" if key else ""))
    return "; ".join(problems)


def readable(text: str) -> str:
    """Return a text as a message may hold it: of bounded length, without control characters."""
    if len(text) > LONGEST_MESSAGE:
        left, right = text[: LONGEST_MESSAGE * 3 // 4], text[-LONGEST_MESSAGE // 8 :]
        text = f"{left} … ({len(text) - len(left) - len(right)} characters left out) … {right}"
    if text.isprintable():
        return text
    return "".join(
        repr(character)[1:-1]
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} and character != "\n"
        else character
        for character in text
    )


class CosmicAIError(Exception):
    """Base of every error that CosmicAI raises on purpose."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(readable(a) if isinstance(a, str) else a for a in arguments))


class InvalidInput(CosmicAIError):
    """The execution input, or an option, breaks its documented schema."""


class PartitionNotFound(CosmicAIError):
    """The bucket or prefix holds no partitions, or a planned partition is gone."""


class CorruptPartition(CosmicAIError):
    """A partition cannot be read: truncated, wrong shapes or dtypes, or unsafe content."""


class PartitionMismatch(CorruptPartition):
    """A partition is sound, but not what the model takes: other bands, side, magnitudes, columns.

    The state machine sees this name, and Python code may catch either.
    """


class ModelNotFound(CosmicAIError):
    """The model folder holds no bundle (``config.json`` and the files of its architecture)."""


class ModelMismatch(CosmicAIError):
    """The bundle's tensors do not match the architecture that its config describes."""


class UnsafePickle(CosmicAIError):
    """A pickle asks for something outside the allow list; nothing of it was executed."""


class UnsafeModel(CosmicAIError):
    """A model file asks for an operator or a file outside the allow list; nothing was executed."""


class ResultPathInUse(CosmicAIError):
    """Another execution, running or finished, holds the result path."""


class IncompleteResults(CosmicAIError):
    """Ranks failed for good, so the combined result would not be whole."""


class FmiTimeout(CosmicAIError):
    """A collective operation passed its deadline; the message names the absent ranks."""


class TransientStorageError(CosmicAIError):
    """Object storage failed in a way that a retry may fix."""


class ObjectNotFound(CosmicAIError):
    """An object, or its bucket, does not exist."""


class StorageDenied(CosmicAIError):
    """Object storage refuses access: a policy is missing, or the credentials are wrong."""


class PreconditionFailed(CosmicAIError):
    """A conditional write lost: the object is not in the state that the writer expected."""
