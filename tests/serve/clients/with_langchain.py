"""What langchain-openai does with a server of the model `toy`."""

from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer. Without further properties, of which a random model would write many."""

    model_config = ConfigDict(extra="forbid")

    level: Literal[1, 2, 3]
    good: bool


class Level(BaseModel):
    """What set_level takes."""

    model_config = ConfigDict(extra="forbid")

    level: Literal[1, 2, 3]


@tool(args_schema=Level)
def set_level(level: Literal[1, 2, 3]) -> str:
    """Sets the level."""
    return f"level {level}"


chat = ChatOpenAI(model="toy", max_tokens=200, seed=1, max_retries=0)
whole = chat.invoke("It is")
assert whole.content and whole.usage_metadata["output_tokens"] == 200
pieces = list(chat.stream("It is"))
assert "".join(piece.content for piece in pieces) == whole.content

with_tools = chat.bind_tools([set_level], tool_choice="any")
message = with_tools.invoke("It is")
assert message.tool_calls and set_level.invoke(message.tool_calls[0]["args"]).startswith("level")
total = None
for piece in with_tools.stream("It is"):
    total = piece if total is None else total + piece
assert [c["args"] for c in total.tool_calls] == [c["args"] for c in message.tool_calls]
first = message.tool_calls[0]
turns = [HumanMessage("It is"), message, ToolMessage("level 1", tool_call_id=first["id"])]
for call in message.tool_calls[1:]:
    turns.append(ToolMessage("level 1", tool_call_id=call["id"]))
assert isinstance(chat.bind_tools([set_level]).invoke(turns), AIMessage)
named = chat.bind_tools([set_level], tool_choice="set_level").invoke("It is")
assert [call["name"] for call in named.tool_calls] == ["set_level"]

for method in ("json_schema", "function_calling"):
    answer = chat.with_structured_output(Answer, method=method).invoke("It is")
    assert answer.level in (1, 2, 3)
short = chat.model_copy(update={"max_tokens": 2000, "seed": 2})
assert isinstance(short.with_structured_output(None, method="json_mode").invoke("It is"), dict)

text = OpenAI(model="toy", max_tokens=4, max_retries=0)
assert len(text.generate(["It is", "a wife"]).generations) == 2
assert "".join(text.stream("It is"))
