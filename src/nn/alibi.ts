// Attention with linear biases: how fast each head's scores fall with distance.

/**
 * One slope for each head, 2^(−maxBias · i / numHeads) for i = 1 … numHeads. Where numHeads is no power of two: the slopes
 * of the power below it, then every second one of the power above it (Press et al., "Train short, test long", 2022).
 */
export function alibiSlopes(numHeads: number, maxBias = 8): number[] {
  const power = 2 ** Math.floor(Math.log2(numHeads));
  const series = (length: number): number[] =>
    Array.from({ length }, (_, i) => 2 ** ((-maxBias * (i + 1)) / length));
  const between = series(2 * power).filter((_, i) => i % 2 === 0);
  return [...series(power), ...between].slice(0, numHeads);
}
