// Seeds for requests that name none: all different, and the same again after a restart.

const MASK = 2n ** 64n - 1n;

/** SplitMix64 (Steele, Lea and Flood 2014): well spread 64-bit numbers from a counter. */
export function seedSequence(seed: number): () => bigint {
  let state = BigInt.asUintN(64, BigInt(seed));
  return () => {
    state = (state + 0x9e3779b97f4a7c15n) & MASK;
    let z = state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return z ^ (z >> 31n);
  };
}
