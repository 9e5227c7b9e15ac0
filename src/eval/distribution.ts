// What two models think of the next token: how surprising the true one was, and how far one's belief is from the other's.

/** A row of logits as a distribution: `logZ` is the logarithm of the sum of the exponentials. */
export interface Belief {
  readonly logits: Float32Array; // [vocabSize]
  readonly logZ: number;
  /** The most likely token; of equal ones the lowest. */
  readonly top: number;
}

export function beliefOf(logits: Float32Array): Belief {
  let top = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[top]) top = i;
  const most = logits[top];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  return { logits, logZ: most + Math.log(sum), top };
}

/** Nats: −log p(token). */
export function surprise({ logits, logZ }: Belief, tokenId: number): number {
  return logZ - logits[tokenId];
}

/** Nats: Σ p · log(p / q), what coding with `q` costs where `p` is true (Kullback and Leibler, 1951). */
export function klDivergence(p: Belief, q: Belief): number {
  let sum = 0;
  for (let i = 0; i < p.logits.length; i++) {
    const logP = p.logits[i] - p.logZ;
    // A token that p bans adds nothing, whatever q says.
    if (logP > -Infinity) sum += Math.exp(logP) * (logP - (q.logits[i] - q.logZ));
  }
  return sum;
}
