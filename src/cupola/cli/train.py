"""`cupola train CONFIG`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A config file, or the name of a shipped one.")],
    work_dir: Annotated[
        Path | None, typer.Option(help="Where checkpoints and logs go [work_dirs/CONFIG].")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module that registers your own classes.")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="Print nothing but errors.")] = False,
    bundle_only: Annotated[
        bool, typer.Option(help="Do not train: make a bundle of the best checkpoint so far.")
    ] = False,
) -> None:
    """Trains a model from a config; the run ends with a bundle where the config asks for one."""
    from cupola.train.recipe import train_recipe

    written = train_recipe(
        config,
        work_dir=work_dir,
        overrides=set_ or [],
        resume=resume,
        plugins=plugin or [],
        quiet=quiet,
        bundle_only=bundle_only,
    )
    if written is not None:
        record_answer(written)
        print(written)


def record_answer(bundle: Path) -> None:
    """Answers the bundle's example/request.json into example/response.json, where there is one.

    A server takes a version into service only when it gives this answer again.
    """
    request = bundle / "example" / "request.json"
    if not request.is_file():
        return
    import json

    import numpy as np

    from cupola.runtime.predictor import Predictor

    predictor = Predictor.load(bundle)
    asked = json.loads(request.read_text())
    types = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}
    tensors = {
        each["name"]: np.array(each["data"], types[each["datatype"]]).reshape(each["shape"])
        for each in asked["inputs"]
    }
    parameters = asked.get("parameters", {})
    answer = predictor.encode(predictor.run(predictor.decode(tensors, parameters)), parameters)
    outputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(answer[spec.name].shape),
            "data": [
                item.decode() if isinstance(item, bytes) else item
                for item in answer[spec.name].reshape(-1).tolist()
            ],
        }
        for spec in predictor.outputs
        if spec.name in answer
    ]
    response = {"model_name": predictor.name, "model_version": predictor.version}
    request.with_name("response.json").write_text(
        json.dumps({**response, "outputs": outputs}, indent=1) + "\n"
    )
