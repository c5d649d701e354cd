"""Chat on the terminal with a local language model.

python examples/chat.py --model bloom-tiny
python examples/chat.py --model path/to/folder --optimization packed

The model is a shipped bundle, a bundle folder, or a folder written by transformers. An empty line
ends the chat.
"""

import argparse
import sys

import cupola


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bloom-tiny")
    parser.add_argument("--optimization", default="none", help="none, packed or int8")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()

    predictor = cupola.Predictor.load(args.model, optimization=args.optimization)
    history = ""
    while True:
        print("you: ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            break
        history += f"User: {line}\nAssistant:"
        sample = predictor.sample(
            history,
            {
                "max_tokens": args.max_tokens,
                "temperature": args.temperature,
                "stop": ["\nUser:", "\n\n"],
            },
        )
        stream = predictor.open_stream()
        stream.add("chat", sample)
        print("model:", end="", flush=True)
        while stream.active:
            for chunk in stream.step():
                print(chunk.data["text"], end="", flush=True)
                history += chunk.data["text"]
        print()
        history += "\n"


if __name__ == "__main__":
    main()
