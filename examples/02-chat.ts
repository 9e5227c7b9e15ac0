// A conversation of two turns; the second answer is stopped by its caller. `node --import tsx examples/02-chat.ts`
import { isNeedletailError, LLM, type ChatMessage } from 'needletail';
import { fileURLToPath } from 'node:url';

const model = fileURLToPath(new URL('../models/llama-tales-8m', import.meta.url));
const llm = await LLM.load(model);

const messages: ChatMessage[] = [
  { role: 'user', content: 'Write a bedtime story called `The Lantern in the Snow`.' },
];
const first = await llm.chat(messages, { maxTokens: 80, temperature: 0 }).collect();
console.log(first.text, '\n');

messages.push({ role: 'assistant', content: first.text }, { role: 'user', content: 'Tell me another one.' });
const stop = new AbortController();
let numChunks = 0;
try {
  for await (const chunk of llm.chat(messages, {}, { signal: stop.signal })) {
    process.stdout.write(chunk.text);
    if (++numChunks === 40) stop.abort();
  }
} catch (error) {
  if (!isNeedletailError(error) || error.code !== 'aborted') throw error;
  console.log(' [stopped]');
}

await llm.close();
