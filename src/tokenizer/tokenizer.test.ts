import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Tokenizer } from './tokenizer.ts';

const SHIPPED = fileURLToPath(new URL('../../models/llama-tales-8m', import.meta.url));
const FIXTURES = fileURLToPath(new URL('../../test/fixtures/tokenizer', import.meta.url));
const SENTENCEPIECE = path.join(FIXTURES, 'tiny-sentencepiece');
const DATA = process.env['NEEDLETAIL_DATA'];

interface Case {
  readonly text: string;
  readonly ids: number[];
  readonly withSpecialTokens: number[];
  readonly specialTokensAsText: number[];
  readonly decoded: string;
  readonly decodedWithoutSpecialTokens: string;
}

const readJson = <T>(...parts: string[]) => JSON.parse(readFileSync(path.join(...parts), 'utf8')) as T;
const list = (ids: Int32Array) => Array.from(ids);

describe.each([
  ['the shipped model', SHIPPED, 'llama-tales-8m-cases.json'],
  ['a SentencePiece vocabulary', SENTENCEPIECE, 'tiny-sentencepiece/cases.json'],
])('the tokenizer of %s agrees with Hugging Face', (_, folder, casesFile) => {
  const cases = readJson<Case[]>(FIXTURES, casesFile);
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(folder);
  });

  it.each(cases.map((entry): [string, Case] => [JSON.stringify(entry.text), entry]))('on %s', (__, entry) => {
    const { text, ids } = entry;
    expect(list(tokenizer.encode(text, { addSpecialTokens: false }))).toEqual(ids);
    // Where the text begins with BOS, Hugging Face puts a second one before it; we never do.
    const expected = ids[0] === tokenizer.bosTokenId ? ids : entry.withSpecialTokens;
    expect(list(tokenizer.encode(text))).toEqual(expected);
    const asText = tokenizer.encode(text, { addSpecialTokens: false, specialTokensAsText: true });
    expect(list(asText)).toEqual(entry.specialTokensAsText);
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(entry.decoded);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(entry.decodedWithoutSpecialTokens);
  });
});

describe('a chat with the shipped model', () => {
  const { references } = readJson<{ references: { prompt: string; text: string; token_ids: number[] }[] }>(
    SHIPPED,
    'reference.json',
  );
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(SHIPPED);
  });

  it.each(references)('"$prompt" is rendered and encoded as transformers does it', async (reference) => {
    const messages = [{ role: 'user', content: reference.prompt }];
    const { text, tokenIds } = await tokenizer.encodeChat(messages, { addGenerationPrompt: true });
    expect(text).toBe(reference.text);
    expect(list(tokenIds)).toEqual(reference.token_ids);
  });

  it('has one BOS, whoever adds it', async () => {
    const { text, tokenIds } = await tokenizer.encodeChat([{ role: 'user', content: 'Hi' }], {
      addGenerationPrompt: true,
    });
    expect(list(tokenizer.encode(text, { addSpecialTokens: true }))).toEqual(list(tokenIds));
    expect(list(tokenIds).filter((id) => id === tokenizer.bosTokenId)).toHaveLength(1);
  });

  it('knows its special tokens', () => {
    expect(tokenizer).toMatchObject({
      bosToken: '<|bos|>',
      eosToken: '<|eos|>',
      bosTokenId: 0,
      eosTokenIds: [1],
      vocabSize: 6144,
      hasChatTemplate: true,
    });
    expect(tokenizer.allSpecialTokens).toContain('<|user|>');
    expect([tokenizer.tokenOf(1), tokenizer.tokenOf(7000)]).toEqual(['<|eos|>', null]);
  });
});

describe('special tokens in the texts of a chat stay text', () => {
  const template =
    '{{ bos_token }}{% for m in messages %}<|user|>{{ m.content | trim }}{{ m.more }}{% endfor %}<|end|>';
  const SPECIAL = ['<s>', '</s>', '<|user|>', '<|end|>'];
  let tokenizer: Tokenizer;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'needletail-tokenizer-'));
    await cp(SENTENCEPIECE, folder, { recursive: true });
    await writeFile(path.join(folder, 'chat_template.jinja'), template);
    tokenizer = await Tokenizer.load(folder);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const encode = (messages: { content: string; more: string }[]) =>
    tokenizer.encodeChat(
      messages.map((message) => ({ role: 'user', ...message })),
      { addGenerationPrompt: true },
    );
  const isSpecial = (id: number) => SPECIAL.includes(tokenizer.tokenOf(id)!);

  const piece = fc.constantFrom(
    ...SPECIAL,
    '<',
    '|',
    '>',
    's',
    '/',
    '<|',
    '|>',
    'us',
    'er',
    'end',
    ' ',
    'king',
    '\ufdd0',
  );
  const text = fc.array(piece, { maxLength: 5 }).map((pieces) => pieces.join(''));
  const messages = fc.array(fc.record({ content: text, more: text }), { minLength: 1, maxLength: 3 });

  it('whatever the texts are and however they meet', async () => {
    await fc.assert(
      fc.asyncProperty(messages, async (chat) => {
        const { text: rendered, tokenIds } = await encode(chat);
        const special = list(tokenIds).filter(isSpecial);
        expect(special).toHaveLength(chat.length + 2); // <s>, a <|user|> each, <|end|>
        const plain = chat.map(({ content, more }) => content.trim() + more).join('<|user|>');
        expect(rendered.replaceAll('\ufffd', '\ufdd0')).toBe(`<s><|user|>${plain}<|end|>`);
      }),
    );
  });

  it('and the texts are what the model reads', async () => {
    await fc.assert(
      fc.asyncProperty(messages, async (chat) => {
        const { tokenIds } = await encode(chat);
        const decoded = tokenizer.decode(list(tokenIds), { skipSpecialTokens: false });
        const withoutSpaces = (string: string) => string.replace(/ /g, '');
        const plain = chat.map(({ content, more }) => content.trim() + more).join('<|user|>');
        const expected = withoutSpaces(`<s><|user|>${plain}<|end|>`);
        expect(withoutSpaces(decoded).replaceAll('\ufffd', '\ufdd0')).toBe(expected);
      }),
    );
  });

  it('and texts without any are encoded as Hugging Face encodes the rendered chat', async () => {
    const { text: rendered, tokenIds } = await encode([{ content: ' the king ', more: 'and you' }]);
    expect(list(tokenIds)).toEqual(list(tokenizer.encode(rendered, { addSpecialTokens: false })));
  });

  it('in tools and keys too', async () => {
    const options = {
      addGenerationPrompt: true,
      tools: [{ name: '</s>', parameters: { '<|end|>': 1 } }],
      kwargs: { hint: '<|end|>' },
    };
    const { tokenIds } = await tokenizer.encodeChat([{ role: 'user', content: 'a' }], options);
    expect(list(tokenIds).filter(isSpecial)).toHaveLength(3);
  });

  it('and what is nested too deep is refused', async () => {
    let deep: unknown = 'x';
    for (let i = 0; i < 10_000; i++) deep = [deep];
    await expect(
      tokenizer.encodeChat([{ role: 'user', content: deep }], { addGenerationPrompt: true }),
    ).rejects.toMatchObject({ code: 'invalid_request' });
  });
});

describe('long texts', () => {
  const limits = { longTextLength: 100, longWordLength: 50, maxTextLength: 1_000_000 };
  let tokenizer: Tokenizer;
  beforeEach(async () => {
    tokenizer = await Tokenizer.load(SHIPPED, limits);
  });
  afterEach(() => tokenizer.close());

  it('have the same ids as if they were encoded here', async () => {
    const texts = [
      'Once upon a time <|eos|> there was a fox. '.repeat(50),
      'x'.repeat(80),
      'short',
      'ä'.repeat(500),
    ];
    const encoded = await Promise.all(texts.map((text) => tokenizer.encodeLong(text)));
    expect(encoded.map(list)).toEqual(texts.map((text) => list(tokenizer.encode(text))));
    const asText = { specialTokensAsText: true };
    expect(list(await tokenizer.encodeLong(texts[0], asText))).toEqual(
      list(tokenizer.encode(texts[0], asText)),
    );
  });

  it('have no fewer tokens than is said before they are encoded', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(20), (text, numRepeats) => {
        const repeated = `${text} the story`.repeat(numRepeats);
        expect(tokenizer.minNumTokens(repeated)).toBeLessThanOrEqual(tokenizer.encode(repeated).length);
      }),
    );
    expect(tokenizer.minNumTokens('a'.repeat(1_000_000))).toBeGreaterThan(10_000);
  });

  it('that certainly have too many tokens are refused before they are encoded, with the count', async () => {
    const text = 'a'.repeat(100_000);
    const least = tokenizer.minNumTokens(text);
    const messages = [{ role: 'user', content: text }];
    const calls = [
      tokenizer.encodeLong(text, { maxNumTokens: 64 }),
      tokenizer.encodeChat(messages, { addGenerationPrompt: true, maxNumTokens: 64 }),
    ];
    for (const call of calls)
      await expect(call).rejects.toMatchObject({
        code: 'context_length_exceeded',
        message: expect.stringMatching(/holds 64 tokens.* at least \d+/) as string,
      });
    expect(await tokenizer.encodeLong(text, { maxNumTokens: least })).toBeInstanceOf(Int32Array);
  });

  it('are refused beyond the limit', async () => {
    const text = 'a '.repeat(500_001);
    await expect(tokenizer.encodeLong(text)).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'prompt',
    });
    expect(() => tokenizer.encode(text)).toThrow(/has 1000002 characters, but at most 1000000 are allowed/);
  });

  it('that take too long are refused, and the next ones are served', async () => {
    // 90 s less 0.1 s per 1000 characters: nothing for the first text, plenty for the second.
    const slow = await Tokenizer.load(SHIPPED, {
      ...limits,
      maxEncodeMs: 90_000,
      maxEncodeMsPerKilochar: -100,
    });
    const [refused, served] = [slow.encodeLong('a'.repeat(900_000)), slow.encodeLong('a b '.repeat(100))];
    await expect(refused).rejects.toThrow(/took too long; it may hold one very long word/);
    await expect(served).resolves.toBeInstanceOf(Int32Array);
    await slow.close();
  });

  it('may take any time where none is named', async () => {
    const patient = await Tokenizer.load(SHIPPED, { ...limits, maxEncodeMs: Infinity });
    const text = 'a b '.repeat(10_000);
    await expect(patient.encodeLong(text)).resolves.toEqual(patient.encode(text));
    await patient.close();
  });

  it('that wait when the tokenizer is closed are refused', async () => {
    const waiting = tokenizer.encodeLong('a b '.repeat(100));
    const closed = expect(waiting).rejects.toMatchObject({ code: 'shutting_down' });
    await tokenizer.close();
    await closed;
  });
});

describe('where the library errs, the ids are still those of Hugging Face', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'needletail-tokenizer-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const encode = async (source: string, preTokenizer: object, text: string) => {
    const json = readJson<object>(source, 'tokenizer.json');
    const changed = { ...json, normalizer: null, pre_tokenizer: preTokenizer };
    await writeFile(path.join(folder, 'tokenizer.json'), JSON.stringify(changed));
    return list((await Tokenizer.load(folder)).encode(text, { addSpecialTokens: false }));
  };

  it('on a Metaspace that splits at spaces', async () => {
    const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first' };
    const ids = await encode(SENTENCEPIECE, metaspace, 'the  king    you<|end|> her');
    expect(ids).toEqual([339, 335, 356, 351, 335, 335, 335, 368, 365, 376, 364]);
  });

  it('on digits of all scripts', async () => {
    const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: true };
    const digits = {
      type: 'Sequence',
      pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel],
    };
    const ids = await encode(SHIPPED, digits, '4 ½ of 2024 ４５');
    expect(ids).toEqual([25, 226, 132, 127, 294, 226, 23, 21, 23, 25, 226, 177, 126, 248, 177, 126, 249]);
  });
});

describe('a folder with', () => {
  let folder: string;
  const json = readJson<Record<string, unknown>>(SENTENCEPIECE, 'tokenizer.json');
  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'needletail-tokenizer-'));
    await write('tokenizer.json', json);
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const write = (name: string, content: unknown) =>
    writeFile(path.join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  const load = () => Tokenizer.load(folder);
  const render = async (hasTools = false) =>
    (await load()).renderChat([], { addGenerationPrompt: false, tools: hasTools ? [{}] : null });

  it('no tokenizer.json is refused, naming what to do', async () => {
    await rm(path.join(folder, 'tokenizer.json'));
    await expect(load()).rejects.toThrow(
      /there is no tokenizer\.json; write one with.*--skip-tokenizer-init/,
    );
  });

  it("only SentencePiece's model is refused, naming it and the conversion to make", async () => {
    await rm(path.join(folder, 'tokenizer.json'));
    await write('tokenizer.model', 'a vocabulary');
    await write('tokenizer_config.json', { tokenizer_class: 'LlamaTokenizer' });
    await expect(load()).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(load()).rejects.toThrow(/only tokenizer\.model, .*AutoTokenizer.*save_pretrained/);
  });

  it.each([
    ['broken JSON', '{"model":', /tokenizer\.json: not valid JSON/],
    ['a list', '[]', /holds no JSON object/],
    ['no model', '{}', /the tokenizer cannot be built/],
    [
      'an unknown model',
      { ...json, model: { type: 'Magic' } },
      /cannot be built from it: Unknown TokenizerModel/,
    ],
    ['broken added tokens', { ...json, added_tokens: [{ id: 'x' }] }, /"added_tokens" must be a list/],
    ['an unknown normalizer', { ...json, normalizer: { type: 'Magic' } }, /Unknown Normalizer type: Magic/],
  ])('a tokenizer.json of %s is refused', async (_, content, message) => {
    await write('tokenizer.json', content);
    await expect(load()).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(load()).rejects.toThrow(message);
  });

  it.each([
    ['CTC', { type: 'CTC' }],
    ['none', null],
    ['BPEDecoder', { type: 'Sequence', decoders: [{ type: 'BPEDecoder' }] }],
    ['Strip of anything but the start', { type: 'Strip', content: ' ', start: 0, stop: 1 }],
  ])('the decoder %s is refused by name', async (name, decoder) => {
    await write('tokenizer.json', { ...json, decoder });
    await expect(load()).rejects.toMatchObject({ code: 'unsupported_model' });
    await expect(load()).rejects.toThrow(`the decoder ${name} is not supported`);
  });

  it('no chat template says so when a chat is asked for', async () => {
    const tokenizer = await load();
    expect(tokenizer.hasChatTemplate).toBe(false);
    const chat = tokenizer.encodeChat([{ role: 'user', content: 'a' }], { addGenerationPrompt: true });
    await expect(chat).rejects.toMatchObject({ code: 'unprocessable' });
    await expect(chat).rejects.toThrow(/no chat template.*--chat-template FILE/);
  });

  it('chat templates in several places takes the newest kind', async () => {
    await write('tokenizer_config.json', { chat_template: 'from the config' });
    expect(await render()).toBe('from the config');
    await write('chat_template.json', { chat_template: 'from the json' });
    expect(await render()).toBe('from the json');
    await write('chat_template.jinja', 'from the jinja');
    expect(await render()).toBe('from the jinja');
  });

  it('named chat templates takes the one for tools when there are tools', async () => {
    const templates = [
      { name: 'default', template: 'default' },
      { name: 'tool_use', template: 'tools' },
    ];
    await write('tokenizer_config.json', { chat_template: templates });
    expect(await render()).toBe('default');
    expect(await render(true)).toBe('tools');
  });

  it.each<[object, number[], string]>([
    [{ add_bos_token: false }, [339], 'no BOS'],
    [{ add_bos_token: true, add_eos_token: true }, [1, 339, 2], 'BOS and EOS'],
    [{}, [1, 339], 'what tokenizer.json says'],
  ])('%o in tokenizer_config.json gets %s', async (flags, ids) => {
    await write('tokenizer_config.json', { bos_token: '<s>', eos_token: { content: '</s>' }, ...flags });
    expect(list((await load()).encode('the'))).toEqual(ids);
  });

  it('special_tokens_map.json takes from it what tokenizer_config.json does not say', async () => {
    await write('special_tokens_map.json', { bos_token: { content: '<s>' }, eos_token: '<|end|>' });
    await write('tokenizer_config.json', { eos_token: '</s>' });
    expect(await load()).toMatchObject({ bosToken: '<s>', eosToken: '</s>' });
  });

  it('special tokens that only tokenizer_config.json names leaves them out of texts', async () => {
    await write('tokenizer_config.json', { extra_special_tokens: ['▁king'] });
    const tokenizer = await load();
    const ids = tokenizer.encode('the', { addSpecialTokens: false });
    const king = (json['model'] as { vocab: Record<string, number> }).vocab['▁king'];
    expect(tokenizer.decode([...ids, king], { skipSpecialTokens: true })).toBe('the');
  });
});

describe.skipIf(!DATA)('published tokenizers (in the folder NEEDLETAIL_DATA)', () => {
  it.each(['gpt2', 'llama2', 'falcon'])('%s gives the published ids', async (name) => {
    const folder = path.join(DATA!, 'tokenizers', name);
    const texts = readFileSync(path.join(folder, 'cases.inp'), 'utf8').split('\n__ggml_vocab_test__\n');
    const expected = readFileSync(path.join(folder, 'cases.out'), 'utf8').split('\n');
    const tokenizer = await Tokenizer.load(folder);
    expect(texts.length).toBeGreaterThan(45);
    for (const [i, text] of texts.entries()) {
      const ids = (expected[i] ?? '').split(' ').filter(Boolean).map(Number);
      expect(list(tokenizer.encode(text, { addSpecialTokens: false })), text).toEqual(ids);
      expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(text);
    }
  });
});
