import { expect, test } from 'vitest';
import { maxShrinkage, stripsSpaces } from './shrinkage.ts';

const byteLevel = { pre_tokenizer: { type: 'ByteLevel' }, model: { type: 'BPE' } };
const sentencePiece = {
  normalizer: {
    type: 'Sequence',
    normalizers: [{ type: 'Prepend' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }],
  },
  model: { type: 'BPE', byte_fallback: true },
};

test.each<[string, object, number]>([
  ['bytes', byteLevel, 1],
  ['pieces that fall back to bytes', sentencePiece, 1],
  ['composed characters', { ...byteLevel, normalizer: { type: 'NFC' } }, 4],
  ['unknown characters that become one token', { ...sentencePiece, model: { type: 'BPE' } }, Infinity],
  ['words', { model: { type: 'WordPiece' } }, Infinity],
  [
    'a normalizer that shortens',
    { ...byteLevel, normalizer: { type: 'Replace', pattern: { Regex: ' +' }, content: ' ' } },
    Infinity,
  ],
  [
    'a splitter that drops what it splits at',
    {
      ...byteLevel,
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [{ type: 'ByteLevel' }, { type: 'Split', behavior: 'Removed' }],
      },
    },
    Infinity,
  ],
])('%s', (_name, json, expected) => {
  expect(maxShrinkage(json as Record<string, unknown>)).toBe(expected);
});

test('special tokens that swallow the spaces beside them are noticed', () => {
  expect(stripsSpaces({ added_tokens: [{ lstrip: false, rstrip: true }] })).toBe(true);
  expect(stripsSpaces({ added_tokens: [{ lstrip: false, rstrip: false }] })).toBe(false);
});
