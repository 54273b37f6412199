// The openai package for JavaScript, as its users write it.
import OpenAI from "openai";
import { BASE_URL, HELLO, check, checkThrows } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "Hello!" }];

const models = await client.models.list();
check("models.list", models.data.some((model) => model.id === "tiny"), models.data);
check("models.retrieve", (await client.models.retrieve("tiny")).id === "tiny");

const answer = await client.chat.completions.create({ model: "tiny", messages, temperature: 0 });
check("chat", answer.choices[0].message.content === HELLO, answer);

let text = "";
const stream = await client.chat.completions.create({ model: "tiny", messages, temperature: 0, stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
check("chat stream", text === HELLO, text);

const runner = client.chat.completions.stream({ model: "tiny", messages, temperature: 0 });
check("chat.completions.stream helper", (await runner.finalContent()) === HELLO);

const completion = await client.completions.create({ model: "tiny", prompt: "Once upon", max_tokens: 8, temperature: 0 });
check("completions", completion.choices[0].text.length > 0, completion);

const vectors = await client.embeddings.create({ model: "tiny", input: ["one", "two"] });
check("embeddings", vectors.data.length === 2 && vectors.data[0].embedding.length === 256, vectors.usage);

const response = await client.responses.create({ model: "tiny", input: "Hello!", temperature: 0 });
check("responses.create", response.output_text === HELLO, response);
const kinds = [];
for await (const event of await client.responses.create({ model: "tiny", input: "Hello!", temperature: 0, stream: true })) kinds.push(event.type);
check("responses stream", kinds.at(-1) === "response.completed", kinds);

await checkThrows("an unknown model is NotFoundError", OpenAI.NotFoundError, () =>
  client.chat.completions.create({ model: "none", messages }),
);
const leaving = await client.chat.completions.create({ model: "endless", messages, stream: true });
for await (const _ of leaving) break;
check("stream left early", true);
