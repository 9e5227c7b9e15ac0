// An engine on the cpu and one on the GPU, at once in this process.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG } from '../src/engine/config.ts';
import { InProcessEngine } from '../src/engine/engine-client.ts';
import { loadEngine } from '../src/engine/load-engine.ts';
import { describeCuda } from './support/cuda.ts';
import { loadReference, writeReference } from './support/reference-checkpoint.ts';
import { toyRequest } from './support/toy-engine.ts';

const NUM_TOKENS = 24;

describeCuda('two engines in one process', () => {
  const reference = loadReference('llama3_gqa');
  const directory = mkdtempSync(join(tmpdir(), 'needletail-'));
  beforeAll(() => writeReference('llama3_gqa', directory));
  afterAll(() => rmSync(directory, { recursive: true }));

  const open = async (device: 'cpu' | 'cuda'): Promise<InProcessEngine> => {
    const settings = { model: directory, device, dtype: 'float32', maxModelLen: 80 } as const;
    return new InProcessEngine(await loadEngine({ ...DEFAULT_ENGINE_CONFIG, ...settings }));
  };

  async function greedy(engine: InProcessEngine, prompt: number): Promise<number[]> {
    const tokens: number[] = [];
    const request = toyRequest(`${prompt}`, reference.prompts[prompt], { maxTokens: NUM_TOKENS });
    for await (const { tokenIds } of engine.generate(request)) tokens.push(...tokenIds);
    return tokens;
  }

  it('generate the same at the same time, and one goes on when the other is closed', async () => {
    const [cpu, cuda] = await Promise.all([open('cpu'), open('cuda')]);
    const prompts = [...reference.prompts.keys()];
    const [onCpu, onCuda] = await Promise.all(
      [cpu, cuda].map((engine) => Promise.all(prompts.map((prompt) => greedy(engine, prompt)))),
    );
    expect(onCuda).toEqual(onCpu);
    await cpu.close();
    expect(await greedy(cuda, 1)).toEqual(onCpu[1]);
    await cuda.close();
  });
});
