"""The SAM template, read as the local cloud needs it."""

from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cloud.template import load_stack

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests/functional/small_stack/template.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "template.yaml"
    path.write_text(text)
    return path


def test_the_application_that_deploys_is_understood_whole() -> None:
    stack = load_stack(ROOT / "template.yaml", name="trial")
    functions = {function.name: function for function in stack.functions}
    inference = functions["trial-ModelInferenceFunction"]
    assert inference.code == ROOT / "functions/model_inference"
    assert inference.handler == "app.handler"
    assert inference.memory_size == 3008
    # The layer that all functions share comes from Globals, before the function's own.
    assert inference.layers[:2] == (ROOT / "layers/cosmicai", ROOT / "layers/native")
    assert stack.outputs["StateMachineArn"] == stack.state_machines[0].arn
    assert stack.outputs["BucketName"] in stack.buckets
    arns = {function.arn for function in stack.functions}
    assert arns.issuperset(stack.state_machines[0].substitutions.values())


def test_parameters_reach_environment_conditions_and_names() -> None:
    stack = load_stack(SMALL, name="one", parameters={"Bucket": "mine", "MaxConcurrency": "3"})
    environment = stack.functions[0].environment
    assert environment == {"SHARED": "yes", "BUCKET": "mine", "CONCURRENCY": "3"}
    assert stack.buckets == ()
    assert stack.state_machines[0].name == "one-machine"
    assert stack.outputs["BucketName"] == "mine"


def test_a_preferred_value_gives_way_to_a_given_one_and_to_a_missing_parameter() -> None:
    preferred = {"MaxConcurrency": "2", "NoSuchParameter": "1"}
    assert load_stack(SMALL, preferred=preferred).parameters["MaxConcurrency"] == "2"
    both = load_stack(SMALL, preferred=preferred, parameters={"MaxConcurrency": "5"})
    assert both.parameters["MaxConcurrency"] == "5"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"MaxConcurency": "2"}, "no parameter MaxConcurency"),
        ({"MaxConcurrency": "0"}, "expected 1 to 5000, found 0"),
        ({"MaxConcurrency": "many"}, "expected a number, found 'many'"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(parameters: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        load_stack(SMALL, parameters=parameters)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("!Ref AWS::Region", "us-east-1"),
        ("!Sub '${AWS::StackName}-${!literal}-${Name}'", "s-${literal}-n"),
        ("!Sub ['${a}', {a: !Ref Name}]", "n"),
        ("!Join ['-', [a, !Ref Name]]", "a-n"),
        ("!Select [1, !Split [',', 'x,y']]", "y"),
        ("!If [Yes, 1, 2]", "1"),
        ("!If [No, 1, 2]", "2"),
        ("!FindInMap [Sizes, !Ref Name, big]", "9"),
    ],
)
def test_intrinsic_functions(tmp_path: Path, expression: str, value: str) -> None:
    template = write(
        tmp_path,
        f"""
        Parameters: {{Name: {{Type: String, Default: n}}}}
        Mappings: {{Sizes: {{n: {{big: 9}}}}}}
        Conditions:
          "Yes": !And [!Equals [!Ref Name, n], !Not [!Condition "No"]]
          "No": !Or [!Equals [a, b], !Equals [c, d]]
        Resources: {{Bucket: {{Type: "AWS::S3::Bucket"}}}}
        Outputs: {{Value: {{Value: {expression.replace("Yes", '"Yes"').replace("No,", '"No",')}}}}}
        """,
    )
    assert load_stack(template, name="s").outputs["Value"] == value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("!Ref Nothing", "!Ref Nothing names no parameter or resource"),
        ("!GetAtt Bucket.DomainName", "does not know Bucket.DomainName"),
        ("!ImportValue other", "does not know Fn::ImportValue"),
        ("!If [Maybe, 1, 2]", "no condition named 'Maybe'"),
    ],
)
def test_what_it_cannot_resolve_is_named(tmp_path: Path, value: str, says: str) -> None:
    template = write(
        tmp_path,
        f"""
        Resources: {{Bucket: {{Type: "AWS::S3::Bucket"}}}}
        Outputs: {{Value: {{Value: {value}}}}}
        """,
    )
    with pytest.raises(InvalidInput, match=says):
        load_stack(template)


def test_unneeded_resources_may_say_what_they_like(tmp_path: Path) -> None:
    template = write(
        tmp_path,
        """
        Resources:
          Bucket: {Type: "AWS::S3::Bucket"}
          Role: {Type: "AWS::IAM::Role", Properties: {X: !ImportValue other}}
        """,
    )
    assert load_stack(template, name="s").buckets == ("s-bucket",)


def test_a_file_that_is_no_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read the SAM template"):
        load_stack(tmp_path / "nothing.yaml")
    with pytest.raises(InvalidInput, match="has no Resources"):
        load_stack(write(tmp_path, "[1, 2]"))
    with pytest.raises(InvalidInput, match="cannot read the SAM template"):
        load_stack(write(tmp_path, "a: [1"))
