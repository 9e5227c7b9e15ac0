// A server inside of one's own program, asked like any OpenAI server, with two requests at once.
import { LLM } from 'needletail';
import { startServer } from 'needletail/server';
import { fileURLToPath } from 'node:url';

const model = fileURLToPath(new URL('../models/llama-tales-8m', import.meta.url));
const llm = await LLM.load(model, { maxNumSeqs: 16 });
const server = await startServer({ llm, servedModelNames: ['tales'], port: 0, logLevel: 'silent' });
console.log(`listening at ${server.url}`);

interface Completion {
  readonly choices: readonly { readonly message: { readonly content: string } }[];
  readonly usage: { readonly completion_tokens: number };
}

async function ask(content: string): Promise<Completion> {
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'tales', messages: [{ role: 'user', content }], max_tokens: 40 }),
  });
  return (await response.json()) as Completion;
}

for (const { choices, usage } of await Promise.all([
  ask('Tell a tale of a cat.'),
  ask('Tell a tale of a dog.'),
])) {
  console.log(`${choices[0].message.content} [${usage.completion_tokens} tokens]`);
}

await server.close();
