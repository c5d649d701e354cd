"""What litellm does with a server of the model `toy`."""

import json
import os

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "set_level",
        "parameters": {
            "type": "object",
            "properties": {"level": {"enum": [1, 2, 3]}},
            "required": ["level"],
            "additionalProperties": False,
        },
    },
}
URL = os.environ["OPENAI_BASE_URL"]
CHAT = {
    "model": "openai/toy",
    "messages": [{"role": "user", "content": "It is"}],
    "api_base": URL,
    "max_tokens": 60,
    "seed": 1,
}

whole = litellm.completion(**CHAT)
assert whole.choices[0].message.content and whole.usage.completion_tokens == 60
streamed = list(litellm.completion(**CHAT, stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
assert text == whole.choices[0].message.content
assert litellm.stream_chunk_builder(streamed).usage.completion_tokens == 60

called = litellm.completion(**CHAT, tools=[TOOL], tool_choice="required")
(call,) = called.choices[0].message.tool_calls[:1]
assert json.loads(call.function.arguments)["level"] in (1, 2, 3)
chunks = list(litellm.completion(**CHAT, tools=[TOOL], tool_choice="required", stream=True))
built = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
assert [c.function.arguments for c in built] == [
    c.function.arguments for c in called.choices[0].message.tool_calls
]
schema = {"name": "x", "schema": TOOL["function"]["parameters"]}
form = {"type": "json_schema", "json_schema": schema}
answer = litellm.completion(**CHAT, response_format=form)
assert json.loads(answer.choices[0].message.content)["level"] in (1, 2, 3)

text = litellm.text_completion(
    model="text-completion-openai/toy", prompt="It is", api_base=URL, max_tokens=4, logprobs=1
)
assert len(text.choices[0].logprobs.tokens) == 4
try:
    litellm.completion(**{**CHAT, "messages": [{"role": "user", "content": "word " * 9000}]})
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("a prompt that is too long is not recognized")
try:
    litellm.completion(**{**CHAT, "model": "openai/none"})
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("an unknown model is not recognized")
