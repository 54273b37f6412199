// The ollama package for JavaScript: every method that does not need an account at ollama.com.
import { Ollama } from "ollama";
import { HELLO, OLLAMA_URL, check, checkThrows } from "./checks.mjs";

const client = new Ollama({ host: OLLAMA_URL });
const messages = [{ role: "user", content: "Hello!" }];
const options = { temperature: 0, num_ctx: 2048 };
const names = async () => (await client.list()).models.map((model) => model.name);

check("version", (await client.version()).version.split(".").map(Number).every(Number.isInteger));
check("list", (await names()).includes("tiny:latest"), await names());
check("generate without a prompt loads", (await client.generate({ model: "tiny", prompt: "" })).done_reason === "load");
check("ps", (await client.ps()).models.some((model) => model.name === "tiny:latest"));
const shown = await client.show({ model: "tiny" });
check("show", shown.model_info["llama.context_length"] === 2048 && shown.capabilities.includes("tools"), shown.details);

const answer = await client.chat({ model: "tiny", messages, options });
check("chat", answer.message.content === HELLO && answer.done_reason === "stop", answer);
let text = "";
let last;
for await (const chunk of await client.chat({ model: "tiny", messages, options, stream: true })) {
  text += chunk.message.content;
  last = chunk;
}
check("chat stream", text === HELLO && last.done && last.eval_count > 0, last);

check("generate", (await client.generate({ model: "tiny", prompt: "Hello!", options })).response === HELLO);
text = "";
for await (const chunk of await client.generate({ model: "tiny", prompt: "Hello!", options, stream: true })) text += chunk.response;
check("generate stream", text === HELLO, text);
const leaving = await client.generate({ model: "endless", prompt: "Write a very long story.", stream: true });
setTimeout(() => leaving.abort(), 50);
const left = await (async () => {
  for await (const _ of leaving);
})().catch((error) => error);
check("abort", left?.name === "AbortError", left);

const vectors = await client.embed({ model: "tiny", input: ["one", "two"] });
check("embed", vectors.embeddings.length === 2 && vectors.embeddings[0].length === 256);
check("embeddings", (await client.embeddings({ model: "tiny", prompt: "one" })).embedding.length === 256);

check("copy", (await client.copy({ source: "tiny", destination: "of-npm" })).status === "success" && (await names()).includes("of-npm:latest"));
const steps = [];
for await (const step of await client.create({ model: "of-npm", from: "tiny", system: "You are Marvin.", stream: true })) steps.push(step.status);
check("create", steps.at(-1) === "success", steps);
check("delete", (await client.delete({ model: "of-npm" })).status === "success" && !(await names()).includes("of-npm:latest"));
check("pull", (await client.pull({ model: "tiny" })).status === "success");
for await (const step of await client.pull({ model: "tiny", stream: true })) last = step;
check("pull stream", last.status === "success", last);

const missing = await checkThrows("an unknown model throws", Error, () => client.chat({ model: "none", messages }));
check("in Ollama's words", missing.message === "model 'none' not found", missing.message);
await checkThrows("push throws", Error, () => client.push({ model: "tiny" }));
