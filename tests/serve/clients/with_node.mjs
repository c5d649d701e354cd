// What the openai client for Node does with a server of the model `toy`.
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const parameters = {
  type: "object",
  properties: { level: { enum: [1, 2, 3] } },
  required: ["level"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "set_level", parameters } }];
const how = { model: "toy", messages: [{ role: "user", content: "It is" }], max_tokens: 60, seed: 1 };

const whole = await client.chat.completions.create(how);
assert.equal(whole.usage.completion_tokens, 60);
let text = "";
const options = { include_usage: true };
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...how, stream: true, stream_options: options })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, 60);

const forced = { ...how, tools, tool_choice: "required" };
const called = await client.chat.completions.create(forced);
const calls = called.choices[0].message.tool_calls;
assert.ok([1, 2, 3].includes(JSON.parse(calls[0].function.arguments).level));
const runner = client.chat.completions.stream(forced);
const final = await runner.finalChatCompletion();
assert.deepEqual(
  final.choices[0].message.tool_calls.map((call) => call.function.arguments),
  calls.map((call) => call.function.arguments),
);
const form = { type: "json_schema", json_schema: { name: "x", schema: parameters, strict: true } };
const answer = await client.chat.completions.create({ ...how, response_format: form });
assert.ok([1, 2, 3].includes(JSON.parse(answer.choices[0].message.content).level));

const completion = await client.completions.create({ model: "toy", prompt: [44, 55], max_tokens: 3, logprobs: 2 });
assert.equal(completion.choices[0].logprobs.tokens.length, 3);
assert.deepEqual((await client.models.list()).data.map((model) => model.id), ["toy"]);
await assert.rejects(client.models.retrieve("none"), (error) => error.status === 404 && error.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ ...how, temperature: 9 }), (error) => error.param === "temperature");
