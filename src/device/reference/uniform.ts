// Uniform numbers for sampling, as a function of seed and position alone: no state, so every device draws the same.

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

type Block = readonly [number, number, number, number];

/**
 * The uniform number in [0, 1) that draws the token at index `position` of its sequence: the first word of
 * Philox-4x32-10 under the counter (position, 0, 0, 0) and the key (seedLow, seedHigh), divided by 2³². Exact in float64.
 */
export function uniform(seedLow: number, seedHigh: number, position: number): number {
  return philox4x32([position >>> 0, 0, 0, 0], seedLow >>> 0, seedHigh >>> 0)[0] / 2 ** 32;
}

/**
 * Four random 32-bit words for a 128-bit counter and a 64-bit key, least significant word first (Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 */
export function philox4x32(counter: Block, keyLow: number, keyHigh: number): Block {
  let block = counter;
  for (let round = 0; round < ROUNDS; round++) {
    block = philoxRound(block, (keyLow + round * WEYL_0) >>> 0, (keyHigh + round * WEYL_1) >>> 0);
  }
  return block;
}

function philoxRound([c0, c1, c2, c3]: Block, key0: number, key1: number): Block {
  return [
    (multiplyHigh(MULTIPLIER_1, c2) ^ c1 ^ key0) >>> 0,
    Math.imul(MULTIPLIER_1, c2) >>> 0,
    (multiplyHigh(MULTIPLIER_0, c0) ^ c3 ^ key1) >>> 0,
    Math.imul(MULTIPLIER_0, c0) >>> 0,
  ];
}

/** The upper 32 bits of the 64-bit product of two unsigned 32-bit numbers; every intermediate is below 2⁵³. */
function multiplyHigh(a: number, b: number): number {
  const low = (a & 0xffff) * b;
  return Math.floor(((a >>> 16) * b + Math.floor(low / 0x10000)) / 0x10000);
}
