import path from 'node:path';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { HFTokenizer } from './hf-tokenizers.ts';
import { Tokenizer } from './tokenizer.ts';

const folderOf = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const FOLDERS = {
  'byte-level': folderOf('models/llama-tales-8m'),
  SentencePiece: folderOf('test/fixtures/tokenizer/tiny-sentencepiece'),
};

const someText = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'binary', maxLength: 6 }),
      fc.constantFrom(' the', ' ', 'é', '你好', '👩‍👩‍👧', '<0x41>', '\n'),
    ),
  )
  .map((parts) => parts.join(''));

describe.each(Object.entries(FOLDERS))('text from %s tokens', (_, folder) => {
  let tokenizer: Tokenizer;
  let library: HFTokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(folder);
    const json = JSON.parse(readFileSync(path.join(folder, 'tokenizer.json'), 'utf8')) as object;
    library = new HFTokenizer(json, { clean_up_tokenization_spaces: false });
  });

  const anyIds = () => fc.array(fc.nat(tokenizer.vocabSize - 1), { maxLength: 30 });
  const isWhole = (text: string) => !/\p{Surrogate}/u.test(text);

  it('comes in whole characters', () => {
    fc.assert(
      fc.property(someText, (text) => {
        const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: false });
        const chunks = Array.from(tokenizer.encode(text, { addSpecialTokens: false }), (id) =>
          detokenizer.push(id),
        );
        chunks.push(detokenizer.flush());
        for (const chunk of chunks) {
          expect(isWhole(chunk)).toBe(true);
          if (!text.includes('\ufffd')) expect(chunk).not.toContain('\ufffd');
        }
      }),
    );
  });

  it('is the text that was encoded', () => {
    fc.assert(
      fc.property(someText, (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false, specialTokensAsText: true });
        const isByteToken = /<0x[0-9A-Fa-f]{2}>/.test(text); // SentencePiece cannot tell it from the byte
        fc.pre(!isByteToken);
        expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(text.replaceAll('\ufdd0', '\ufffd'));
      }),
    );
  });

  it.each([true, false])(
    'is what the library makes of all ids at once (special tokens skipped: %s)',
    (skip) => {
      fc.assert(
        fc.property(anyIds(), (ids) => {
          fc.pre(ids.length > 0);
          const whole = library.decode(ids, { skip_special_tokens: skip });
          expect(tokenizer.decode(ids, { skipSpecialTokens: skip })).toBe(whole);
        }),
      );
    },
  );

  it('is empty for ids that no token has', () => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: false });
    expect([100_000, -1, 2 ** 31 - 1].map((id) => detokenizer.push(id))).toEqual(['', '', '']);
  });
});

describe('a character over several tokens', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(FOLDERS.SentencePiece);
  });
  const byte = (value: number) => 3 + value; // <0x00> has the id 3

  it('waits for its last byte', () => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: false });
    const chunks = [0xf0, 0x9f, 0x98, 0x80].map((value) => detokenizer.push(byte(value)));
    expect(chunks).toEqual(['', '', '', '😀']);
  });

  it('that is never finished becomes U+FFFD', () => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: false });
    expect(detokenizer.push(byte(0xf0)) + detokenizer.push(byte(0x9f))).toBe('');
    expect(detokenizer.flush()).toBe('\ufffd');
    expect(detokenizer.flush()).toBe('');
  });

  it('that is broken off becomes U+FFFD before what follows', () => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: false });
    expect(detokenizer.push(byte(0xc3))).toBe('');
    expect(detokenizer.push(339)).toBe('\ufffd the');
  });

  it('is not broken off by a special token that is skipped', () => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: true });
    const [special] = tokenizer.eosTokenIds;
    expect([byte(0xc3), special, byte(0xa9)].map((id) => detokenizer.push(id))).toEqual(['', '', 'é']);
  });
});

describe('the space before the first word', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(FOLDERS.SentencePiece);
  });
  const textOf = (ids: number[], isStart: boolean) => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: true, isStart });
    return ids.map((id) => detokenizer.push(id)).join('') + detokenizer.flush();
  };

  it('is cut off at the start of a text only', () => {
    const ids = Array.from(tokenizer.encode('the king', { addSpecialTokens: true }));
    expect(textOf(ids, true)).toBe('the king');
    expect(textOf(ids, false)).toBe(' the king');
  });

  it('is one space even if the text begins with several', () => {
    const ids = Array.from(tokenizer.encode('   the', { addSpecialTokens: false }));
    expect(textOf(ids, true)).toBe('   the');
  });
});
