"""The named errors of CosmicAI.

The state machine matches on these class names (``Retry`` and ``Catch`` in
``statemachine/inference.asl.json``), so renaming one is a change of contract.
Every message says what was expected, what was found and what to do.
"""


class CosmicAIError(Exception):
    """Base of every error that CosmicAI raises on purpose."""


class InvalidInput(CosmicAIError):
    """The execution input, or an option, breaks its documented schema."""


class PartitionNotFound(CosmicAIError):
    """The bucket or prefix holds no partitions, or a planned partition is gone."""


class CorruptPartition(CosmicAIError):
    """A partition cannot be read: truncated, wrong shapes or dtypes, or unsafe content."""


class ModelNotFound(CosmicAIError):
    """The model folder holds no bundle (``model.safetensors`` and ``config.json``)."""


class ModelMismatch(CosmicAIError):
    """The bundle's tensors do not match the architecture that its config describes."""


class UnsafePickle(CosmicAIError):
    """A pickle asks for something outside the allow list; nothing of it was executed."""


class ResultPathInUse(CosmicAIError):
    """Another execution, running or finished, holds the result path."""


class IncompleteResults(CosmicAIError):
    """Ranks failed for good, so the combined result would not be whole."""


class FmiTimeout(CosmicAIError):
    """A collective operation passed its deadline; the message names the absent ranks."""


class TransientStorageError(CosmicAIError):
    """Object storage failed in a way that a retry may mend."""


class ObjectNotFound(CosmicAIError):
    """An object, or its bucket, does not exist."""


class StorageDenied(CosmicAIError):
    """Object storage refuses access: a policy is missing, or the credentials are wrong."""


class PreconditionFailed(CosmicAIError):
    """A conditional write lost: the object is not in the state that the writer expected."""
