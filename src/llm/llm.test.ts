import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { FakeEngine } from '../../test/support/fake-engine.ts';
import { createLLM, EOS, MODEL_FOLDER } from '../../test/support/test-server.ts';
import { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { GenerationChunk } from './chunk.ts';
import type { GenerateParams } from './generate-params.ts';
import type { Prompt } from './llm.ts';
import { NEUTRAL_DEFAULTS } from './resolve.ts';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await Tokenizer.load(MODEL_FOLDER);
});

/** An engine that says `text` whatever it is asked, and then ends. */
function engineSaying(text: string): FakeEngine {
  const ids = [...tokenizer.encode(text, { addSpecialTokens: false }), EOS];
  return new FakeEngine({ script: (_request, _choice, position) => ids[position] ?? EOS });
}

const llmSaying = (text: string) => createLLM(engineSaying(text), tokenizer);

async function chunksOf(chunks: AsyncIterable<GenerationChunk>): Promise<GenerationChunk[]> {
  const all: GenerationChunk[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

describe('generate', () => {
  test('streams the text that collect returns', async () => {
    const llm = llmSaying('The fox ran — 🦊 — home.');
    const chunks = await chunksOf(llm.generate('Once'));
    const result = await llm.generate('Once').collect();
    expect(chunks.map((chunk) => chunk.text).join('')).toBe('The fox ran — 🦊 — home.');
    expect(result.text).toBe('The fox ran — 🦊 — home.');
    expect(result.choices[0]).toMatchObject({ finishReason: 'stop', stopReason: null });
    expect(result.choices[0].tokenIds.at(-1)).toBe(EOS);
    expect(result.usage.completionTokens).toBe(result.choices[0].tokenIds.length);
  });

  test('takes token ids as a prompt', async () => {
    const llm = llmSaying('yes');
    await llm.generate({ promptTokenIds: [0, 5, 9] }).collect();
    expect([...(llm.engine as FakeEngine).requests[0].promptTokenIds]).toEqual([0, 5, 9]);
  });

  test('gives n choices their own text', async () => {
    const words = ['red', 'green', 'blue'].map((word) => tokenizer.encode(word, { addSpecialTokens: false }));
    const engine = new FakeEngine({ script: (_request, choice, position) => words[choice][position] ?? EOS });
    const result = await createLLM(engine, tokenizer).generate('x', { n: 3 }).collect();
    expect(result.choices.map((choice) => choice.text)).toEqual(['red', 'green', 'blue']);
  });

  test('fills defaults from the generation config and lets a request overrule them', async () => {
    const defaults = { ...NEUTRAL_DEFAULTS, temperature: 0.7, topP: 0.9, maxTokens: 5, eosTokenIds: [1, 2] };
    const engine = engineSaying('a');
    const llm = createLLM(engine, tokenizer, { defaults });
    await llm.generate('x').collect();
    await llm.generate('x', { temperature: 0, topP: 1, maxTokens: 7, stopTokenIds: [3] }).collect();
    await llm.generate('x', { ignoreEos: true, maxTokens: 2, temperature: 1e-9 }).collect();
    const [first, second, third] = engine.requests.map((request) => request.sampling);
    expect(first).toMatchObject({ temperature: 0.7, topP: 0.9, maxTokens: 5, stopTokenIds: [1, 2] });
    expect(second).toMatchObject({ temperature: 0, topP: 1, maxTokens: 7, stopTokenIds: [1, 2, 3] });
    expect(third).toMatchObject({ temperature: 0, stopTokenIds: [] });
  });

  test('generates to the end of the context where nothing says otherwise', async () => {
    const engine = new FakeEngine({ maxModelLen: 40 });
    const result = await createLLM(engine, tokenizer)
      .generate({ promptTokenIds: [7, 8, 9] })
      .collect();
    expect(result.choices[0]).toMatchObject({ finishReason: 'length' });
    expect(result.usage).toMatchObject({ promptTokens: 3, completionTokens: 37 });
  });

  test('draws different seeds for requests that name none, the same ones after a restart', async () => {
    const seedsOf = async () => {
      const engine = engineSaying('a');
      const llm = createLLM(engine, tokenizer, { seed: 42 });
      for (let i = 0; i < 3; i++) await llm.generate('x').collect();
      await llm.generate('x', { seed: -1 }).collect();
      return engine.requests.map((request) => request.sampling.seed);
    };
    const seeds = await seedsOf();
    expect(new Set(seeds).size).toBe(4);
    expect(seeds[3]).toBe(2n ** 64n - 1n);
    expect(await seedsOf()).toEqual(seeds);
  });

  test('computes the prompt only with maxTokens 0', async () => {
    const params = { maxTokens: 0, echo: true, logprobs: 1 };
    const { choices, usage } = await llmSaying('never').generate('Once upon', params).collect();
    expect(choices[0]).toMatchObject({ text: 'Once upon', tokenIds: [], finishReason: 'length' });
    expect(choices[0].logprobs?.map((entry) => entry.logprob)).toEqual([null, -1, -1, -1]);
    expect(usage.completionTokens).toBe(0);
  });
});

describe('stop rules', () => {
  test('a stop string is cut off, ends the choice in the engine, and is the reason', async () => {
    const engine = engineSaying('one two three four');
    const result = await createLLM(engine, tokenizer)
      .generate('x', { stop: ['o th', 'zzz'] })
      .collect();
    expect(result.text).toBe('one tw');
    expect(result.choices[0]).toMatchObject({ finishReason: 'stop', stopReason: 'o th' });
    expect(engine.aborts).toEqual([{ requestId: engine.requests[0].requestId, index: 0 }]);
    expect(engine.numRunning).toBe(0);
  });

  test('a stop string can be kept', async () => {
    const params = { stop: 'two', includeStopStrInOutput: true };
    expect((await llmSaying('one two three').generate('x', params).collect()).text).toBe('one two');
  });

  test('a stop string ends its own choice only', async () => {
    const words = ['stop here now', 'go on for ever'].map((text) =>
      tokenizer.encode(text, { addSpecialTokens: false }),
    );
    const engine = new FakeEngine({ script: (_request, choice, position) => words[choice][position] ?? EOS });
    const result = await createLLM(engine, tokenizer).generate('x', { n: 2, stop: ' here' }).collect();
    expect(result.choices.map((choice) => choice.text)).toEqual(['stop', 'go on for ever']);
    expect(result.choices.map((choice) => choice.stopReason)).toEqual([' here', null]);
  });

  test('stop strings do not count before minTokens', async () => {
    const text = 'a b a b a b';
    const numTokens = tokenizer.encode('a b a', { addSpecialTokens: false }).length;
    const result = await llmSaying(text).generate('x', { stop: ' b', minTokens: numTokens }).collect();
    expect(result.text).toBe('a b a');
    const later = await llmSaying(text)
      .generate('x', { stop: ' b', minTokens: numTokens + 1 })
      .collect();
    expect(later.text).toBe('a b a b a');
  });

  test('a stop token of the request is the reason and no part of the text', async () => {
    const [stopId] = tokenizer.encode(' three', { addSpecialTokens: false });
    const params: GenerateParams = { stopTokenIds: [stopId] };
    const result = await llmSaying('one two three four').generate('x', params).collect();
    expect(result.text).toBe('one two');
    expect(result.choices[0]).toMatchObject({ finishReason: 'stop', stopReason: stopId });
    const kept = await llmSaying('one two three four')
      .generate('x', { ...params, includeStopStrInOutput: true })
      .collect();
    expect(kept.text).toBe('one two three');
  });

  test('any text, any stop string: what streams is the text up to its first occurrence', async () => {
    const alphabet = fc.string({
      unit: fc.constantFrom('a', 'b', ' ', 'é', '🦊', '日', '\n'),
      maxLength: 24,
    });
    const stops = fc.array(
      alphabet.filter((stop) => stop.length > 0 && stop.length < 4),
      { maxLength: 3 },
    );
    await fc.assert(
      fc.asyncProperty(alphabet, stops, fc.boolean(), async (text, stop, includeStopStrInOutput) => {
        const params = { stop, includeStopStrInOutput };
        const chunks = await chunksOf(llmSaying(text).generate('x', params));
        const collected = await llmSaying(text).generate('x', params).collect();
        const streamed = chunks.map((chunk) => chunk.text).join('');
        expect(streamed).toBe(collected.text);
        expect(streamed).toBe(cutAtFirstStop(text, stop, includeStopStrInOutput));
      }),
      { numRuns: 200 },
    );
  });
});

/** The stop string that ends first wins, then the longer one. */
function cutAtFirstStop(text: string, stops: readonly string[], include: boolean): string {
  for (let end = 0; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    const [longest] = found.sort((a, b) => b.length - a.length);
    if (longest !== undefined) return text.slice(0, include ? end : end - longest.length);
  }
  return text;
}

describe('log-probabilities', () => {
  test('come with their tokens, the prompt apart', async () => {
    const llm = llmSaying('one two');
    const result = await llm.generate('Once', { logprobs: 2, promptLogprobs: 1 }).collect();
    const { logprobs, tokenIds } = result.choices[0];
    expect(logprobs?.map((entry) => entry.tokenId)).toEqual(tokenIds);
    expect(logprobs?.map((entry) => entry.token).join('')).toBe('one two<|eos|>');
    expect(logprobs?.[0]).toMatchObject({ logprob: -1, rank: 2, top: [{ logprob: -0.5 }, { logprob: -1 }] });
    expect(result.promptLogprobs?.[0]).toMatchObject({ token: '<|bos|>', logprob: null });
    expect(result.promptLogprobs?.slice(1).every((entry) => entry.top.length === 1)).toBe(true);
  });

  test('of an echoed prompt stand before the output of every choice', async () => {
    const result = await llmSaying('yes').generate('Once', { n: 2, echo: true, logprobs: 0 }).collect();
    for (const { text, logprobs } of result.choices) {
      expect(text).toBe('Onceyes');
      expect(logprobs?.map((entry) => entry.token).join('')).toBe('<|bos|>Onceyes<|eos|>');
    }
    expect(result.promptLogprobs).toBeNull();
  });
});

describe('chat', () => {
  const question = [{ role: 'user', content: ' Why? ' }];

  test('renders the template, with the prompt for an answer', async () => {
    const llm = llmSaying('Because.');
    expect((await llm.chat(question).collect()).text).toBe('Because.');
    const { promptTokenIds } = (llm.engine as FakeEngine).requests[0];
    expect(tokenizer.decode(promptTokenIds, { skipSpecialTokens: false })).toBe(
      '<|bos|><|user|>Why?<|assistant|>',
    );
  });

  test('goes on with the last message', async () => {
    const messages = [...question, { role: 'assistant', content: 'Because the' }];
    const { text } = await llmSaying('').encodeChat(messages, { continueFinalMessage: true });
    expect(text).toBe('<|bos|><|user|>Why?<|assistant|>Because the');
    const both = { continueFinalMessage: true, addGenerationPrompt: true };
    await expect(llmSaying('').encodeChat(messages, both)).rejects.toMatchObject({ code: 'invalid_request' });
  });

  test('uses another template', async () => {
    const llm = createLLM(engineSaying('x'), tokenizer, {
      chatTemplate: '{{ messages[0].content }}!{{ mood }}',
    });
    const { text } = await llm.encodeChat(question, { templateKwargs: { mood: 'glad' } });
    expect(text).toBe(' Why? !glad');
  });
});

describe('cancelling', () => {
  test('a signal ends the request in the engine and the loop with an error', async () => {
    const engine = new FakeEngine({ isManual: true });
    const llm = createLLM(engine, tokenizer);
    const controller = new AbortController();
    const reading = chunksOf(llm.generate('x', {}, { signal: controller.signal }));
    await expect.poll(() => engine.numRunning).toBe(1);
    controller.abort();
    await expect(reading).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.numRunning).toBe(0);
  });

  test('leaving the loop ends the request in the engine', async () => {
    const engine = new FakeEngine({ maxModelLen: 1_000_000 });
    for await (const chunk of createLLM(engine, tokenizer).generate('Once'))
      if (chunk.tokenIds.length > 0) break;
    expect(engine.numRunning).toBe(0);
    expect(engine.aborts).toHaveLength(1);
  });
});

describe('bad requests', () => {
  const cases: [string, Prompt, object, string, string][] = [
    ['an absurd temperature', 'x', { temperature: 1e9 }, 'invalid_request', 'temperature'],
    ['NaN', 'x', { topP: NaN }, 'invalid_request', 'topP'],
    ['too many choices', 'x', { n: 10_000 }, 'invalid_request', 'n'],
    ['a million stop strings', 'x', { stop: new Array(1e6).fill('x') }, 'invalid_request', 'stop'],
    ['an empty stop string', 'x', { stop: [''] }, 'invalid_request', 'stop[0]'],
    ['an unknown parameter', 'x', { bestOf: 2 }, 'invalid_request', 'bestOf'],
    ['more least than most tokens', 'x', { minTokens: 5, maxTokens: 4 }, 'invalid_request', 'minTokens'],
    ['a bias of an unknown token', 'x', { logitBias: { 99999: 1 } }, 'invalid_request', 'logitBias'],
    ['an unknown stop token', 'x', { stopTokenIds: [6144] }, 'invalid_request', 'stopTokenIds'],
    ['a priority nobody heeds', 'x', { priority: 1 }, 'invalid_request', 'priority'],
    ['an empty prompt', { promptTokenIds: [] }, {}, 'invalid_request', 'prompt'],
    ['a token id beyond the vocabulary', { promptTokenIds: [6144] }, {}, 'invalid_request', 'prompt'],
    ['a fraction for a token id', { promptTokenIds: [1.5] }, {}, 'invalid_request', 'prompt'],
    [
      'a prompt as long as the context',
      { promptTokenIds: new Array(1024).fill(5) },
      {},
      'context_length_exceeded',
      'prompt',
    ],
    ['more output than fits', 'x', { maxTokens: 1023 }, 'context_length_exceeded', 'prompt'],
  ];
  test.each(cases)('%s', async (_name, prompt, params, code, param) => {
    const llm = llmSaying('a');
    await expect(llm.generate(prompt, params).collect()).rejects.toMatchObject({ code, param });
    expect((llm.engine as FakeEngine).requests).toEqual([]);
  });

  test('a prompt that is too long is refused with the counts', async () => {
    const promise = llmSaying('a')
      .generate({ promptTokenIds: new Array(1000).fill(5) }, { maxTokens: 100 })
      .collect();
    await expect(promise).rejects.toThrow(/1024 tokens.*1100.*1000 in the prompt, 100 to generate/);
  });

  test('a text or chat that no context holds is refused before it is tokenized', async () => {
    const llm = llmSaying('a');
    const text = 'word '.repeat(60_000);
    for (const asked of [llm.generate(text), llm.chat([{ role: 'user', content: text }])])
      await expect(asked.collect()).rejects.toThrow(/holds 1024 tokens, but the prompt has at least \d{4}/);
    expect((await llm.encodeChat([{ role: 'user', content: text }], {})).tokenIds.length).toBeGreaterThan(
      1024,
    );
  });
});

describe('without a tokenizer', () => {
  test('token ids go in and come out, and text stays empty', async () => {
    const llm = createLLM(new FakeEngine(), null);
    const result = await llm.generate({ promptTokenIds: [5, 6] }, { maxTokens: 4, logprobs: 1 }).collect();
    expect(result.choices[0]).toMatchObject({ text: '', tokenIds: [5, 6, 5, 6] });
  });

  test('what needs text is refused', async () => {
    const llm = createLLM(new FakeEngine(), null);
    const refused = { code: 'unprocessable' };
    await expect(llm.generate('text').collect()).rejects.toMatchObject(refused);
    await expect(llm.chat([{ role: 'user', content: 'x' }]).collect()).rejects.toMatchObject(refused);
    const stop = llm.generate({ promptTokenIds: [5] }, { stop: 'x' }).collect();
    await expect(stop).rejects.toMatchObject(refused);
  });
});

test('disposing closes the engine', async () => {
  const engine = new FakeEngine();
  {
    await using _llm = createLLM(engine, tokenizer);
  }
  expect(engine.isClosed).toBe(true);
});
