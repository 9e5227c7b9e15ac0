// Continues a prompt: streamed as it comes, then three choices at once. `node --import tsx examples/01-generate.ts`
import { LLM } from 'needletail';
import { fileURLToPath } from 'node:url';

const model = fileURLToPath(new URL('../models/llama-tales-8m', import.meta.url));
const llm = await LLM.load(model);

for await (const chunk of llm.generate('Once upon a time', { maxTokens: 60, temperature: 0.7 })) {
  process.stdout.write(chunk.text);
}
console.log('\n');

const { choices, usage } = await llm
  .generate('The little fox', { n: 3, maxTokens: 20, seed: 1, stop: '.' })
  .collect();
for (const choice of choices)
  console.log(`${choice.index}: The little fox${choice.text} [${choice.finishReason}]`);
console.log(`${usage.promptTokens} prompt tokens, ${usage.completionTokens} generated`);

await llm.close();
