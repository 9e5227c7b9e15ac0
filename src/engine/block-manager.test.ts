import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockManager, type SequenceBlocks } from './block-manager.ts';
import { Int32List } from './int32-list.ts';

const BLOCK_SIZE = 4;

function manager(numBlocks: number, windows: readonly (number | null)[] = [null]): BlockManager {
  return new BlockManager({
    blockSize: BLOCK_SIZE,
    groups: windows.map((window) => ({ numBlocks, window })),
    enablePrefixCaching: true,
    hashSeed: '',
  });
}

function tokens(...ids: number[]): Int32List {
  return Int32List.from(Int32Array.from(ids));
}

const range = (length: number, start = 0) => Array.from({ length }, (_, i) => start + i);

/** Computes a sequence of these tokens and offers its blocks for reuse. */
function compute(blocks: BlockManager, ids: Int32List, salt = ''): SequenceBlocks {
  const sequence = blocks.open(salt);
  const start = blocks.reusePrefix(sequence, ids, blocks.findPrefix(sequence, ids, ids.length - 1));
  expect(blocks.allocate(sequence, start, ids.length)).toBe(true);
  blocks.commit(sequence, ids, ids.length);
  return sequence;
}

const cachedTokens = (blocks: BlockManager, ids: Int32List, salt = '') =>
  blocks.findPrefix(blocks.open(salt), ids, ids.length - 1).numBlocks * BLOCK_SIZE;

describe('prefix reuse', () => {
  test('finds full blocks of an equal prefix, but always leaves the last token to compute', () => {
    const blocks = manager(16);
    compute(blocks, tokens(...range(10)));
    expect(cachedTokens(blocks, tokens(...range(10)))).toBe(8);
    expect(cachedTokens(blocks, tokens(...range(8)))).toBe(4);
    expect(cachedTokens(blocks, tokens(...range(7), 99, 100))).toBe(4);
    expect(cachedTokens(blocks, tokens(99, ...range(10)))).toBe(0);
  });

  test('tells apart equal blocks behind different prefixes', () => {
    const blocks = manager(16);
    compute(blocks, tokens(1, 1, 1, 1, 5, 6, 7, 8, 9));
    compute(blocks, tokens(2, 2, 2, 2, 0));
    expect(cachedTokens(blocks, tokens(2, 2, 2, 2, 5, 6, 7, 8, 9))).toBe(4);
  });

  test('does not cross from one salt to another', () => {
    const blocks = manager(16);
    compute(blocks, tokens(...range(9)), 'tenant a');
    expect(cachedTokens(blocks, tokens(...range(9)), 'tenant a')).toBe(8);
    expect(cachedTokens(blocks, tokens(...range(9)), 'tenant b')).toBe(0);
  });

  test('freed blocks stay until they are needed; the end of the oldest prefix goes first', () => {
    const blocks = manager(6);
    const older = compute(blocks, tokens(...range(12)));
    const newer = compute(blocks, tokens(...range(12, 50)));
    blocks.free(older);
    blocks.free(newer);
    expect(blocks.numFree).toBe(6);
    const taker = blocks.open('');
    expect(blocks.allocate(taker, 0, 2 * BLOCK_SIZE)).toBe(true);
    expect(cachedTokens(blocks, tokens(...range(13)))).toBe(4);
    expect(cachedTokens(blocks, tokens(...range(13, 50)))).toBe(12);
  });

  test('nothing is offered before it is committed, nor if switched off', () => {
    const blocks = manager(8);
    const pending = blocks.open('');
    blocks.allocate(pending, 0, 8);
    expect(cachedTokens(blocks, tokens(...range(9)))).toBe(0);
    const off = new BlockManager({
      blockSize: BLOCK_SIZE,
      groups: [{ numBlocks: 8, window: null }],
      enablePrefixCaching: false,
      hashSeed: '',
    });
    compute(off, tokens(...range(9)));
    expect(cachedTokens(off, tokens(...range(9)))).toBe(0);
  });
});

describe('fork', () => {
  test('shares blocks until one writes into the last, which then is a copy', () => {
    const blocks = manager(8);
    const parent = compute(blocks, tokens(...range(6)));
    const child = blocks.fork(parent);
    expect(child.tables[0].view()).toEqual(parent.tables[0].view());
    expect(blocks.numFree).toBe(6);
    expect(blocks.allocate(child, 6, 7)).toBe(true);
    const [shared, parentTail] = parent.tables[0].view();
    const [first, childTail] = child.tables[0].view();
    expect(first).toBe(shared);
    expect(childTail).not.toBe(parentTail);
    expect([...blocks.takeCopies()]).toEqual([0, parentTail, childTail]);
    // The parent is alone with its tail now and needs no copy.
    expect(blocks.allocate(parent, 6, 7)).toBe(true);
    expect([...blocks.takeCopies()]).toEqual([]);
    blocks.checkIntegrity([parent, child]);
  });

  test('a full last block is not copied', () => {
    const blocks = manager(8);
    const parent = compute(blocks, tokens(...range(8)));
    const child = blocks.fork(parent);
    expect(blocks.allocate(child, 8, 9)).toBe(true);
    expect([...blocks.takeCopies()]).toEqual([]);
  });
});

describe('truncate', () => {
  test('gives back blocks, and what is written over is no longer found', () => {
    const blocks = manager(8);
    const ids = tokens(...range(12));
    const sequence = compute(blocks, ids);
    blocks.truncate(sequence, 6);
    ids.truncate(6);
    expect(blocks.numFree).toBe(6);
    ids.append(Int32Array.of(70, 71, 72));
    expect(blocks.allocate(sequence, 6, 9)).toBe(true);
    blocks.commit(sequence, ids, 9);
    expect(cachedTokens(blocks, tokens(...range(12)))).toBe(4);
    expect(cachedTokens(blocks, tokens(...range(6), 70, 71, 72))).toBe(8);
    blocks.checkIntegrity([sequence]);
  });

  test('leaves a fork as it was', () => {
    const blocks = manager(8);
    const parent = compute(blocks, tokens(...range(8)));
    const child = blocks.fork(parent);
    blocks.truncate(child, 6);
    expect(blocks.allocate(child, 6, 7)).toBe(true);
    expect(child.tables[0].at(1)).not.toBe(parent.tables[0].at(1));
    expect(cachedTokens(blocks, tokens(...range(9)))).toBe(8);
  });
});

describe('windows', () => {
  test('blocks that no later query sees are freed, and the others are enough to reuse the prefix', () => {
    const blocks = manager(8, [6]);
    const ids = tokens(...range(17));
    const sequence = compute(blocks, ids);
    expect(blocks.allocate(sequence, 16, 17)).toBe(true);
    // Token 16 sees tokens 11 and later: the blocks of tokens 0–3 and 4–7 are free.
    expect(blocks.numFree).toBe(8 - 3);
    const other = blocks.open('');
    expect(blocks.reusePrefix(other, ids, blocks.findPrefix(other, ids, 16))).toBe(16);
    expect(blocks.numFree).toBe(8 - 3);
    blocks.checkIntegrity([sequence, other]);
  });

  test('groups agree on the longest prefix that all of them still have', () => {
    const blocks = manager(8, [null, 6]);
    const ids = tokens(...range(17));
    compute(blocks, ids);
    expect(cachedTokens(blocks, ids)).toBe(16);
    expect(cachedTokens(blocks, tokens(...range(10)))).toBe(8);
  });
});

test('an allocation that does not fit changes nothing', () => {
  const blocks = manager(2);
  const sequence = compute(blocks, tokens(...range(4)));
  expect(blocks.allocate(sequence, 4, 13)).toBe(false);
  expect(sequence.numBlocks).toBe(1);
  expect(blocks.allocate(sequence, 4, 8)).toBe(true);
});

test('the integrity check notices a lost and a doubly held block', () => {
  const blocks = manager(4);
  const sequence = compute(blocks, tokens(...range(4)));
  expect(() => blocks.checkIntegrity([])).toThrow(/counted 1 users, found 0/);
  expect(() => blocks.checkIntegrity([sequence, sequence])).toThrow(/counted 1 users, found 2/);
  blocks.checkIntegrity([sequence]);
});

interface Living {
  readonly blocks: SequenceBlocks;
  readonly ids: Int32List;
  numComputed: number;
  /** Where its last allocation began. */
  start: number;
}

const command = fc.oneof(
  fc.record({
    verb: fc.constant('start' as const),
    length: fc.integer({ min: 1, max: 20 }),
    family: fc.nat(2),
  }),
  fc.record({
    verb: fc.constant('extend' as const),
    which: fc.nat(9),
    length: fc.integer({ min: 1, max: 6 }),
  }),
  fc.record({ verb: fc.constant('fork' as const), which: fc.nat(9) }),
  fc.record({
    verb: fc.constant('truncate' as const),
    which: fc.nat(9),
    length: fc.integer({ min: 1, max: 5 }),
  }),
  fc.record({ verb: fc.constant('free' as const), which: fc.nat(9) }),
);

test('blocks are conserved under any sequence of verbs', () => {
  const windows = fc.constantFrom<readonly (number | null)[]>([null], [9], [null, 9]);
  fc.assert(
    fc.property(windows, fc.array(command, { maxLength: 60 }), (groupWindows, commands) => {
      const blocks = manager(24, groupWindows);
      const living: Living[] = [];
      let next = 1000;
      for (const action of commands) {
        if (action.verb === 'start') {
          const ids = tokens(...range(action.length, action.family * 100));
          const entry = { blocks: blocks.open(''), ids, numComputed: 0, start: 0 };
          const prefix = blocks.findPrefix(entry.blocks, ids, ids.length - 1);
          entry.numComputed = blocks.reusePrefix(entry.blocks, ids, prefix);
          entry.start = entry.numComputed;
          living.push(entry);
          continue;
        }
        const entry = living[action.which % Math.max(1, living.length)];
        if (!entry) continue;
        if (action.verb === 'extend') {
          for (let i = 0; i < action.length; i++) entry.ids.push(next++);
          entry.start = entry.numComputed;
          if (blocks.allocate(entry.blocks, entry.numComputed, entry.ids.length)) {
            entry.numComputed = entry.ids.length;
            blocks.commit(entry.blocks, entry.ids, entry.numComputed);
          }
        } else if (action.verb === 'fork') {
          const child = blocks.fork(entry.blocks);
          const ids = Int32List.from(entry.ids.view());
          living.push({ ...entry, blocks: child, ids });
        } else if (action.verb === 'truncate') {
          entry.numComputed = Math.max(entry.start, entry.numComputed - action.length);
          entry.ids.truncate(entry.numComputed);
          blocks.truncate(entry.blocks, entry.numComputed);
        } else {
          blocks.free(entry.blocks);
          living.splice(living.indexOf(entry), 1);
        }
        blocks.takeCopies();
        blocks.checkIntegrity(living.map(({ blocks: held }) => held));
      }
      for (const { blocks: held } of living) blocks.free(held);
      blocks.checkIntegrity([]);
      expect(blocks.numFree).toBe(24);
    }),
    { numRuns: 300 },
  );
});
