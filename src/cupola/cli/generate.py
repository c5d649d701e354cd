"""`cupola generate BUNDLE PROMPT`: continues a text, printed token by token."""

from typing import Annotated, Any

import typer

from cupola.cli.options import Device, Offline, Revision

app = typer.Typer(add_completion=False)


@app.command()
def generate(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or hf://ORG/NAME.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the most likely that sum to p.")] = 0.95,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: fewer repeats.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Ends the text; may be repeated.")] = None,
    optimization: Annotated[str, typer.Option(help="auto, none, packed, int8 or int4.")] = "auto",
    deterministic: Annotated[
        bool, typer.Option(help="The same bits in every batch and number of processes.")
    ] = False,
    lookup_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens guessed from the text so far at a time.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per token.")
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = None,
) -> None:
    """Continue a text."""
    import sys

    from cupola.bundles import Bundle
    from cupola.errors import InputError
    from cupola.runtime.load import load_predictor

    opened = Bundle.load(bundle, revision, offline)
    if opened.task != "language":
        raise InputError(f"{bundle} is a {opened.task} model; generate needs a language model")
    predictor: Any = load_predictor(
        opened,
        device=device,
        optimization=optimization,
        reproducible=deterministic,
        lookup_tokens=lookup_tokens,
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    parameters = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or [],
        "logprobs": as_json,
    }
    (sample,) = predictor.decode({"prompt": [text]}, parameters)
    stream = predictor.open_stream()
    stream.add("terminal", sample)
    if not as_json:
        typer.echo(text, nl=False)
    print_chunks(stream, as_json)


def print_chunks(stream: Any, as_json: bool) -> None:
    """Print each token as soon as it is there, as text or as JSON objects."""
    import json
    import sys

    while stream.active:
        for chunk in stream.step():
            if as_json:
                typer.echo(json.dumps(dict(chunk.data), ensure_ascii=False))
            else:
                typer.echo(chunk.data["text"], nl=False)
                sys.stdout.flush()
    if not as_json:
        typer.echo()
