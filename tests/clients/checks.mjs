// What the client scripts share: a line for each thing that was tried, and an end with status 1 at the first that fails.
export const HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?";
export const BASE_URL = (process.argv[2] ?? "http://127.0.0.1:8000").replace(/\/+$/, "");
export const OLLAMA_URL = (process.argv[3] ?? `${BASE_URL}/ollama`).replace(/\/+$/, "");

export function check(what, isRight, seen = "") {
  if (!isRight) {
    console.error(`WRONG  ${what}:`, seen);
    process.exit(1);
  }
  console.log(`ok  ${what}`);
}

export async function checkThrows(what, kind, call) {
  try {
    await call();
  } catch (error) {
    check(what, error instanceof kind, error);
    return error;
  }
  check(what, false, "nothing was thrown");
}
