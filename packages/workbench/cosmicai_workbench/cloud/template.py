"""Read the SAM template into what the local cloud has to run.

The template is parsed and its ``Globals`` are merged by the libraries that ``sam`` itself uses.
Intrinsic functions are resolved here, as CloudFormation would, for the resources that the local
cloud creates: buckets, functions and state machines. They are resolved only where their value is
needed, so that a resource the local cloud has no use for (a role, a log group, a network) may say
what it likes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

from cosmicai_workbench.defaults import STACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ACCOUNT = "123456789012"
REGION = "us-east-1"

_FUNCTION = "AWS::Serverless::Function"
_LAYER = "AWS::Serverless::LayerVersion"
_STATE_MACHINE = "AWS::Serverless::StateMachine"
_BUCKET = "AWS::S3::Bucket"
_LOG_GROUP = "AWS::Logs::LogGroup"
_ROLE = "AWS::IAM::Role"
_POLICY = "AWS::IAM::ManagedPolicy"
_NO_VALUE = object()
_NAMES = {_FUNCTION: "FunctionName", _BUCKET: "BucketName", _LOG_GROUP: "LogGroupName"}
_DEFAULT_TIMEOUT_SECONDS = 3
_DEFAULT_MEMORY_MB = 128


@dataclass(frozen=True)
class Function:
    """A Lambda function of the template.

    ``timeout`` is in seconds, ``memory_size`` in MB (of 1,048,576 bytes, as Lambda counts).
    """

    name: str
    arn: str
    code: Path
    handler: str
    timeout: int
    memory_size: int
    environment: dict[str, str]
    layers: tuple[Path, ...]
    log_group: str = ""


@dataclass(frozen=True)
class StateMachine:
    """A state machine of the template: its definition file and what to substitute in it."""

    name: str
    arn: str
    definition: Path
    substitutions: dict[str, str]


@dataclass(frozen=True)
class Stack:
    """What a template amounts to, once its parameters are known."""

    name: str
    parameters: dict[str, str]
    functions: tuple[Function, ...]
    state_machines: tuple[StateMachine, ...]
    buckets: tuple[str, ...]
    outputs: dict[str, str] = field(default_factory=dict)
    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Policy documents by the name of a function or state machine, where they were asked for."""


def load_stack(
    template: Path,
    *,
    name: str = STACK,
    parameters: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None,
    with_policies: bool = False,
) -> Stack:
    """Read a SAM template.

    Parameters
    ----------
    template
        Path of ``template.yaml``; the paths in it are relative to its folder.
    name
        Name of the stack.
    parameters
        Values for the template's parameters, over their defaults.
    preferred
        Values that count before the defaults, for those parameters that the template has.
    with_policies
        Work out what functions and state machines may do, too.

    Raises
    ------
    InvalidInput
        If the template cannot be read, a parameter is unknown or breaks its constraints, or a
        value that is needed uses something the local cloud does not know.
    """
    from samcli.yamlhelper import yaml_parse
    from yaml import YAMLError

    try:
        document = yaml_parse(template.read_text())
    except (OSError, YAMLError) as error:
        raise InvalidInput(f"cannot read the SAM template {template}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise InvalidInput(f"{template} is not a CloudFormation template: it has no Resources")
    declared = document.get("Parameters", {})
    given = {key: value for key, value in (preferred or {}).items() if key in declared}
    reader = _Reader(template, document, name, {**given, **(parameters or {})})
    stack = reader.stack()
    return replace(stack, policies=reader.policies()) if with_policies else stack


class _Reader:
    """Turns one parsed template into a :class:`Stack`."""

    def __init__(
        self, path: Path, document: dict[str, Any], name: str, parameters: Mapping[str, str]
    ) -> None:
        from samtranslator.plugins.globals.globals import Globals

        self._path = path
        self._folder = path.resolve().parent
        self._name = name
        self._document = document
        self._parameters = _parameters(document.get("Parameters", {}), parameters)
        self._pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::StackName": name,
            "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/local",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::NoValue": _NO_VALUE,
        }
        shared = Globals(document)
        self._resources: dict[str, dict[str, Any]] = {
            logical_id: {
                **resource,
                "Properties": shared.merge(
                    resource["Type"], resource.get("Properties", {}), logical_id
                ),
            }
            for logical_id, resource in document["Resources"].items()
            if self._holds(resource.get("Condition"))
        }

    def stack(self) -> Stack:
        return Stack(
            name=self._name,
            parameters={key: str(value) for key, value in self._parameters.items()},
            functions=tuple(self._function(each) for each in self._of_type(_FUNCTION)),
            state_machines=tuple(self._machine(each) for each in self._of_type(_STATE_MACHINE)),
            buckets=tuple(str(self._ref(each)) for each in self._of_type(_BUCKET)),
            outputs={
                key: str(self._resolve(output["Value"]))
                for key, output in self._document.get("Outputs", {}).items()
                if self._holds(output.get("Condition"))
            },
        )

    def policies(self) -> dict[str, list[dict[str, Any]]]:
        """Return the policy documents of every function and state machine, by its name."""
        return {
            self._physical_name(each): self._policies(self._resources[each]["Properties"])
            for each in [*self._of_type(_FUNCTION), *self._of_type(_STATE_MACHINE)]
        }

    def _policies(self, properties: Mapping[str, Any]) -> list[dict[str, Any]]:
        documents = list(properties.get("Policies", []))
        for role in self._of_type(_ROLE):
            if self._resolve(properties.get("Role")) != self._attribute(role, "Arn"):
                continue
            found = self._resources[role]["Properties"]
            documents += [each["PolicyDocument"] for each in found.get("Policies", [])]
            attached = self._resolve(found.get("ManagedPolicyArns", []))
            documents += [
                self._resources[policy]["Properties"]["PolicyDocument"]
                for policy in self._of_type(_POLICY)
                if self._ref(policy) in attached
            ]
        return [self._resolve(document) for document in documents]

    def _of_type(self, kind: str) -> list[str]:
        return [name for name, resource in self._resources.items() if resource["Type"] == kind]

    def _function(self, logical_id: str) -> Function:
        properties = self._resources[logical_id]["Properties"]
        variables = self._resolve(properties.get("Environment", {})).get("Variables", {})
        name = str(self._ref(logical_id))
        logging = self._resolve(properties.get("LoggingConfig", {}))
        return Function(
            name=name,
            arn=self._attribute(logical_id, "Arn"),
            code=self._folder / self._resolve(properties.get("CodeUri", ".")),
            handler=self._resolve(properties["Handler"]),
            timeout=int(self._resolve(properties.get("Timeout", _DEFAULT_TIMEOUT_SECONDS))),
            memory_size=int(self._resolve(properties.get("MemorySize", _DEFAULT_MEMORY_MB))),
            environment={key: str(value) for key, value in variables.items()},
            layers=tuple(
                self._layer(arn, logical_id) for arn in self._resolve(properties.get("Layers", []))
            ),
            log_group=str(logging.get("LogGroup", f"/aws/lambda/{name}")),
        )

    def _layer(self, arn: str, function: str) -> Path:
        for layer in self._of_type(_LAYER):
            if self._ref(layer) == arn:
                content = self._resolve(self._resources[layer]["Properties"]["ContentUri"])
                return self._folder / str(content)
        raise InvalidInput(
            f"{self._path}: {function} uses the layer {arn!r}, which this template does not "
            "define; the local cloud runs only layers from the source tree"
        )

    def _machine(self, logical_id: str) -> StateMachine:
        properties = self._resources[logical_id]["Properties"]
        return StateMachine(
            name=self._physical_name(logical_id),
            arn=str(self._ref(logical_id)),
            definition=self._folder / self._resolve(properties["DefinitionUri"]),
            substitutions={
                key: str(value)
                for key, value in self._resolve(
                    properties.get("DefinitionSubstitutions", {})
                ).items()
            },
        )

    def _physical_name(self, logical_id: str) -> str:
        resource = self._resources[logical_id]
        key = _NAMES.get(resource["Type"], "Name")
        given = resource["Properties"].get(key)
        if isinstance(given, (str, dict)):
            return str(self._resolve(given))
        name = f"{self._name}-{logical_id}"
        return name.lower() if resource["Type"] == _BUCKET else name

    # Intrinsic functions

    def _resolve(self, value: Any) -> Any:
        """Return a value of the template with its intrinsic functions worked out."""
        if isinstance(value, list):
            items = [self._resolve(item) for item in value]
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            function, argument = next(iter(value.items()))
            if function == "Ref" or function.startswith("Fn::") or function == "Condition":
                return self._call(function, argument)
        pairs = {key: self._resolve(item) for key, item in value.items()}
        return {key: item for key, item in pairs.items() if item is not _NO_VALUE}

    def _call(self, function: str, argument: Any) -> Any:
        functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Condition": self._holds,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::If": self._if,
            "Fn::Equals": lambda pair: self._equal(*pair),
            "Fn::Not": lambda inner: not self._resolve(inner[0]),
            "Fn::And": lambda inner: all(self._resolve(each) for each in inner),
            "Fn::Or": lambda inner: any(self._resolve(each) for each in inner),
            "Fn::Join": lambda pair: str(pair[0]).join(map(str, self._resolve(pair[1]))),
            "Fn::Select": lambda pair: self._resolve(pair[1])[int(self._resolve(pair[0]))],
            "Fn::Split": lambda pair: str(self._resolve(pair[1])).split(pair[0]),
            "Fn::FindInMap": self._find_in_map,
        }
        if function not in functions:
            raise InvalidInput(
                f"{self._path}: the local cloud does not know {function}; it knows "
                + ", ".join(functions)
            )
        return functions[function](argument)

    def _equal(self, left: Any, right: Any) -> bool:
        return str(self._resolve(left)) == str(self._resolve(right))

    def _if(self, argument: list[Any]) -> Any:
        condition, then, otherwise = argument
        return self._resolve(then if self._holds(condition) else otherwise)

    def _find_in_map(self, argument: list[Any]) -> Any:
        found = self._document.get("Mappings", {})
        for key in self._resolve(argument):
            try:
                found = found[key]
            except KeyError:
                raise InvalidInput(f"{self._path}: Mappings has no {argument}") from None
        return found

    def _holds(self, condition: str | None) -> bool:
        if condition is None:
            return True
        try:
            return bool(self._resolve(self._document["Conditions"][condition]))
        except KeyError:
            raise InvalidInput(f"{self._path}: there is no condition named {condition!r}") from None

    def _ref(self, name: str) -> Any:
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._parameters:
            return self._parameters[name]
        function, _, version = name.partition(".")
        if version in ("Alias", "Version") and function in self._resources:
            return self._attribute(function, "Arn")  # here a function has one version
        if name not in self._resources:
            raise InvalidInput(f"{self._path}: !Ref {name} names no parameter or resource")
        kind = self._resources[name]["Type"]
        if kind == _STATE_MACHINE:
            return _arn("states", f"stateMachine:{self._physical_name(name)}")
        if kind == _LAYER:
            return _arn("lambda", f"layer:{self._name}-{name}:1")
        return self._physical_name(name)

    def _get_att(self, argument: Any) -> str:
        parts = argument.split(".", 1) if isinstance(argument, str) else argument
        return self._attribute(str(parts[0]), str(parts[1]))

    def _attribute(self, name: str, attribute: str) -> str:
        kind = str(self._resources.get(name, {}).get("Type", "no such resource"))
        attributes: dict[tuple[str, str], Callable[[], Any]] = {
            (_FUNCTION, "Arn"): lambda: _arn("lambda", f"function:{self._physical_name(name)}"),
            (_STATE_MACHINE, "Arn"): lambda: self._ref(name),
            (_STATE_MACHINE, "Name"): lambda: self._physical_name(name),
            (_ROLE, "Arn"): lambda: f"arn:aws:iam::{ACCOUNT}:role/{self._physical_name(name)}",
            (_LOG_GROUP, "Arn"): lambda: _arn("logs", f"log-group:{self._physical_name(name)}"),
            (_BUCKET, "Arn"): lambda: f"arn:aws:s3:::{self._physical_name(name)}",
        }
        if (kind, attribute) not in attributes:
            raise InvalidInput(
                f"{self._path}: the local cloud does not know {name}.{attribute} ({kind})"
            )
        return str(attributes[kind, attribute]())

    def _sub(self, argument: Any) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in given:
                return str(self._resolve(given[name]))
            return str(self._get_att(name) if "." in name else self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", value, text)


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def _parameters(declared: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of every declared parameter, checked as CloudFormation checks it."""
    if unknown := sorted(set(given) - set(declared)):
        raise InvalidInput(
            f"the template has no parameter {', '.join(unknown)}; it has {', '.join(declared)}"
        )
    values = {}
    for name, rules in declared.items():
        if name not in given and "Default" not in rules:
            raise InvalidInput(f"the template's parameter {name} has no default: give it a value")
        values[name] = given.get(name, rules.get("Default"))
        _check_parameter(name, str(values[name]), rules)
    return values


def _check_parameter(name: str, value: str, rules: dict[str, Any]) -> None:
    allowed = [str(each) for each in rules.get("AllowedValues", [])]
    if allowed and value not in allowed:
        raise InvalidInput(f"parameter {name}: expected one of {', '.join(allowed)}, found {value}")
    pattern = rules.get("AllowedPattern")
    if pattern and not re.fullmatch(pattern, value):
        raise InvalidInput(f"parameter {name}: {value!r} does not match {pattern}")
    if rules.get("Type") == "Number":
        try:
            number = float(value)
        except ValueError:
            raise InvalidInput(f"parameter {name}: expected a number, found {value!r}") from None
        low = float(rules.get("MinValue", "-inf"))
        high = float(rules.get("MaxValue", "inf"))
        if not low <= number <= high:
            raise InvalidInput(f"parameter {name}: expected {low:g} to {high:g}, found {value}")
