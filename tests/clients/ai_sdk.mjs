// Vercel's AI SDK over @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, streamText } from "ai";
import { BASE_URL, HELLO, check } from "./checks.mjs";

const myllm = createOpenAICompatible({ name: "myllm", baseURL: `${BASE_URL}/v1`, apiKey: "none", includeUsage: true });
const model = myllm("tiny");

const answer = await generateText({ model, prompt: "Hello!", temperature: 0, maxRetries: 0 });
check("generateText", answer.text === HELLO, answer.text);
check("usage", answer.usage.outputTokens > 0, answer.usage);
check("finishReason", answer.finishReason === "stop", answer.finishReason);

const stream = streamText({ model, prompt: "Hello!", temperature: 0, maxRetries: 0 });
let text = "";
for await (const piece of stream.textStream) text += piece;
check("streamText", text === HELLO, text);
check("streamText usage", (await stream.usage).outputTokens > 0, await stream.usage);

const completion = await generateText({ model: myllm.completionModel("tiny"), prompt: "Once upon", maxOutputTokens: 8, temperature: 0 });
check("completionModel", completion.text.length > 0, completion.text);

const { embedding } = await embed({ model: myllm.embeddingModel("tiny"), value: "one" });
check("embed", embedding.length === 256, embedding.length);
